package config

// maxServed is how many domains a service may name to its peers (xep-draft
// section 4.2).
const maxServed = 256

// XMPPName is the name under which the domain's mail goes and comes over XMPP:
// its own, or that of its service (xep-draft section 6.3).
func (d Domain) XMPPName() string {
	if d.Service != "" {
		return d.Service
	}
	return d.Name
}

// ServedBy returns the domains of ours whose mail goes and comes over XMPP under
// a name, in the order of the file.
func (c *Config) ServedBy(name string) []string {
	var out []string
	for _, d := range c.Domains {
		if d.XMPPName() == name {
			out = append(out, d.Name)
		}
	}
	return out
}

// services checks the names of services, once all domains are known.
func (c *checker) services(cfg *Config) {
	of := map[string]string{}
	for _, d := range cfg.Domains {
		of[d.Name] = d.XMPPName()
	}
	served := map[string]int{}
	for i := range cfg.Domains {
		d, at := &cfg.Domains[i], item("domain", i)+".service"
		if d.Service == "" {
			continue
		}
		served[d.Service]++
		switch other := of[d.Service]; {
		case d.Service == d.Name:
			c.add(at, "is the domain itself: leave it out")
		case other != "" && other != d.Service:
			c.add(at, "%s has the service %s itself", d.Service, other)
		case served[d.Service] == maxServed+1:
			c.add(at, "%s serves more than %d domains", d.Service, maxServed)
		}
	}
}
