package config

import (
	"crypto/sha256"
	"encoding/hex"

	"mailxmppd/mail"
)

func (c *checker) domains(cfg *Config) {
	if len(cfg.Domains) == 0 {
		c.add("domain", "is missing: at least one [[domain]] is needed")
		return
	}
	chosen := -1
	for i := range cfg.Domains {
		d, at := &cfg.Domains[i], item("domain", i)
		c.domain(at, d)
		if !d.Default {
			continue
		}
		if chosen >= 0 {
			c.add(at+".default", "%s is the default domain already", cfg.Domains[chosen].Name)
			continue
		}
		chosen = i
	}
	cfg.Domains[max(chosen, 0)].Default = true
	c.services(cfg)
}

func (c *checker) domain(at string, d *Domain) {
	if c.name(at+".name", &d.Name) {
		if c.own[d.Name] {
			c.add(at+".name", "%s is there twice", d.Name)
		}
		c.own[d.Name] = true
	}
	if d.Service != "" {
		c.name(at+".service", &d.Service)
	}
	c.certificate(at, d)
	c.hop(at+".deliver", &d.Deliver, "lmtp", "smtp")
	c.oneOf(at+".verify", d.Verify, VerifyNeighbour, VerifyTable, VerifyNone)
	switch {
	case d.Verify == VerifyTable && len(d.Recipients) == 0:
		c.add(at+".recipients", `is missing: verify = "table" needs it`)
	case d.Verify != VerifyTable && len(d.Recipients) > 0:
		c.add(at+".recipients", `is of no use without verify = "table"`)
	}
	seen := map[string]bool{}
	for i, s := range d.Recipients {
		a, ok := c.recipient(item(at+".recipients", i), s, d.Name)
		if !ok {
			continue
		}
		if d.Recipients[i] = a.String(); seen[d.Recipients[i]] {
			c.add(item(at+".recipients", i), "%s is there twice", a)
		}
		seen[d.Recipients[i]] = true
	}
}

// recipient reads a local part or a whole address of a domain.
func (c *checker) recipient(path, s, domain string) (mail.Address, bool) {
	if a, err := mail.ParseAddress(s); err == nil && a.Domain != "" {
		if a.Domain != domain && domain != "" {
			c.add(path, "%s is not an address at %s", a, domain)
			return mail.Address{}, false
		}
		return a, true
	}
	a, err := mail.ParseAddress(s + "@" + domain)
	if err != nil || a.Domain != domain {
		c.add(path, "%q is neither a local part nor an address", clip(s))
		return mail.Address{}, false
	}
	return a, true
}

func (c *checker) peers(peers []Peer) {
	seen := map[string]bool{}
	for i := range peers {
		p, at := &peers[i], item("peer", i)
		if c.name(at+".domain", &p.Domain) {
			switch {
			case c.own[p.Domain]:
				c.add(at+".domain", "%s is a domain of ours", p.Domain)
			case seen[p.Domain]:
				c.add(at+".domain", "%s is there twice", p.Domain)
			}
			seen[p.Domain] = true
		}
		c.oneOf(at+".policy", p.Policy, PolicyRequired, PolicyPreferred, PolicyNever)
		if p.Policy == PolicyNever && len(p.Address) > 0 {
			c.add(at+".address", `is of no use with policy = "never"`)
		}
		for j, s := range p.Pins {
			if pin, err := hex.DecodeString(s); err != nil || len(pin) != sha256.Size {
				c.add(item(at+".pins", j), "%q: is not a SHA-256 in hexadecimal, 64 digits", clip(s))
			}
		}
		for j, s := range p.Address {
			if why := badHostPort(s, true); why != "" {
				c.add(item(at+".address", j), "%q: %s", clip(s), why)
			}
		}
	}
}

func (c *checker) routes(cfg *Config) {
	seen := map[string]bool{}
	for i := range cfg.Routes {
		route, at := &cfg.Routes[i], item("route", i)
		if route.Domain == AnyDomain || c.name(at+".domain", &route.Domain) {
			switch {
			case c.own[route.Domain]:
				c.add(at+".domain", "%s is a domain of ours: its mail goes where deliver says", route.Domain)
			case seen[route.Domain]:
				c.add(at+".domain", "%s is there twice", route.Domain)
			case route.Domain == AnyDomain && cfg.SMTP.Legacy == LegacyNeighbour:
				c.add(at+".domain", `"*" is of no use with smtp.legacy = "neighbour": all other mail goes there`)
			}
			seen[route.Domain] = true
		}
		c.route(at, route, cfg.SMTP.TLS)
	}
}

// route checks the next hop of a route. Credentials go to a verified host
// only: anybody on the way could take them otherwise.
func (c *checker) route(at string, route *Route, mxTLS string) {
	if route.Next != NextMX {
		c.hop(at+".next", &route.Next, "smtp")
	}
	switch {
	case route.TLS == "" && route.User != "":
		route.TLS = TLSVerified
	case route.TLS == "":
		route.TLS = mxTLS
	default:
		c.oneOf(at+".tls", route.TLS, TLSNone, TLSOpportunistic, TLSVerified)
	}
	password := at + ".password_file"
	if route.PasswordFile == "" {
		password = at + ".password_env"
	}
	given := route.PasswordFile != "" || route.PasswordEnv != ""
	switch {
	case route.PasswordFile != "" && route.PasswordEnv != "":
		c.add(at+".password_env", "only one of password_file and password_env can be given")
	case given && route.User == "":
		c.add(password, "is of no use without user")
	case route.User == "":
	case route.Next == NextMX:
		c.add(at+".user", `is of no use with next = "mx"`)
	case route.TLS != TLSVerified:
		c.add(at+".tls", `user and password are sent over verified TLS only: wants "verified"`)
	case !given:
		c.add(at+".user", "needs password_file or password_env")
	default:
		if text, ok := c.secret(password, &route.PasswordFile, route.PasswordEnv); ok {
			route.Password = Secret(text)
		}
	}
}
