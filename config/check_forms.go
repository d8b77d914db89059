package config

func (c *checker) components(cfg *Config) {
	seen := map[string]bool{}
	for i := range cfg.Components {
		k, at := &cfg.Components[i], item("component", i)
		if c.name(at+".domain", &k.Domain) {
			switch {
			case len(cfg.ServedBy(k.Domain)) == 0 && c.own[k.Domain]:
				c.add(at+".domain", "%s has a service of another name: that is what can be a component", k.Domain)
			case len(cfg.ServedBy(k.Domain)) == 0:
				c.add(at+".domain", "%s is not a domain of ours", k.Domain)
			case seen[k.Domain]:
				c.add(at+".domain", "%s is there twice", k.Domain)
			}
			seen[k.Domain] = true
		}
		if why := badHostPort(k.Server, true); why != "" {
			c.add(at+".server", "%q: %s", clip(k.Server), why)
		}
		if k.SecretFile == "" && k.SecretEnv == "" {
			c.add(at, "wants secret_file or secret_env")
		} else if text, ok := c.secret(at+".secret_file", &k.SecretFile, k.SecretEnv); ok {
			k.Secret = Secret(text)
		}
		// A chunk of 6,000 octets with what stands around it (xep-draft section 5.3).
		c.size(at+".max_stanza", k.MaxStanza, 10_000, 10<<20)
	}
}

func (c *checker) srs(cfg *Config) {
	switch {
	case cfg.SRS.Domain == "" && len(cfg.Domains) > 0:
		cfg.SRS.Domain = cfg.DefaultDomain().Name
	case cfg.SRS.Domain == "":
	case c.name("srs.domain", &cfg.SRS.Domain) && !c.own[cfg.SRS.Domain]:
		c.add("srs.domain", "%s is not a domain of ours", cfg.SRS.Domain)
	}
}
