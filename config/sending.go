package config

import (
	"slices"
	"strings"

	"mailxmppd/mail"
)

// Values of SRS.SMTP.
const (
	RewriteAliases = "aliases" // what our aliases forward
	RewriteAll     = "all"     // and what neighbours bring under foreign reverse-paths
	RewriteNone    = "none"
)

// maxAliasTargets bounds how many mailboxes an alias stands for, those of other
// aliases included.
const maxAliasTargets = 1000

// Alias is an address of ours that stands for others.
type Alias struct {
	Address string   `toml:"address"`
	To      []string `toml:"to"`
}

// ARC is about sealing what we forward (RFC 8617).
type ARC struct {
	Seal bool `toml:"seal"`
}

// DKIM is about signing the mail of our own domains (RFC 6376).
type DKIM struct {
	Sign      string   `toml:"sign"`      // SignPublished, SignAlways, SignNever
	Listeners []string `toml:"listeners"` // kinds: whose mail of ours is signed
}

// Values of DKIM.Sign.
const (
	SignPublished = "when-published" // a key signs once DNS shows its record
	SignAlways    = "always"
	SignNever     = "never" // and no keys are made
)

func (d *DKIM) defaults() {
	d.Sign = SignPublished
	d.Listeners = []string{ListenSubmission}
}

// Signs reports whether mail of ours that comes in by a listener of this kind is
// signed.
func (d DKIM) Signs(kind string) bool {
	for _, k := range d.Listeners {
		if k == kind && d.Sign != SignNever {
			return true
		}
	}
	return false
}

func (c *checker) dkim(d *DKIM) {
	c.oneOf("dkim.sign", d.Sign, SignPublished, SignAlways, SignNever)
	seen := map[string]bool{}
	for i, kind := range d.Listeners {
		at := item("dkim.listeners", i)
		c.oneOf(at, kind, ListenSubmission, ListenRelay, ListenLMTP)
		if seen[kind] {
			c.add(at, "%q is there twice", clip(kind))
		}
		seen[kind] = true
	}
}

func (c *checker) aliases(aliases []Alias) {
	known := map[string][]string{} // targets by address, in lower case
	line := map[string]string{}
	for i := range aliases {
		a, at := &aliases[i], item("alias", i)
		if strings.HasPrefix(a.Address, "@") {
			c.add(at+".address", "%q: a whole domain cannot be an alias: deliver says where its mail goes", clip(a.Address))
			continue
		}
		addr, ok := c.mailbox(at+".address", &a.Address)
		if ok && !c.own[addr.Domain] {
			c.add(at+".address", "%s is not of a domain of ours", addr)
		}
		key := strings.ToLower(a.Address)
		if _, twice := known[key]; twice && ok {
			c.add(at+".address", "%s is there twice", addr)
		}
		if len(a.To) == 0 {
			c.add(at+".to", "is missing: at least one address is needed")
		}
		known[key], line[key] = nil, at
		for n := range a.To {
			if to, ok := c.mailbox(item(at+".to", n), &a.To[n]); ok {
				known[key] = append(known[key], strings.ToLower(to.String()))
			}
		}
	}
	for key := range known {
		c.aliasEnds(line[key], key, known)
	}
}

// mailbox reads a whole address and puts it into the form in which it is
// compared.
func (c *checker) mailbox(path string, s *string) (mail.Address, bool) {
	a, err := mail.ParseAddress(*s)
	if err != nil || a.Domain == "" {
		c.add(path, "%q is no address", clip(*s))
		return mail.Address{}, false
	}
	*s = a.String()
	return a, true
}

// aliasEnds follows an alias to its mailboxes. That it is one of its own targets
// means its mailbox; a longer way back to it is a mistake.
func (c *checker) aliasEnds(at, start string, known map[string][]string) {
	seen, ends := map[string]bool{start: true}, 0
	for next := slices.Clone(known[start]); len(next) > 0; {
		key := next[len(next)-1]
		next = next[:len(next)-1]
		targets, alias := known[key]
		switch {
		case key == start && !slices.Contains(known[start], start):
			c.add(at+".to", "leads back to %s by way of other aliases", start)
			return
		case seen[key]:
		case alias:
			seen[key] = true
			next = append(next, targets...)
		default:
			seen[key] = true
			if ends++; ends > maxAliasTargets {
				c.add(at+".to", "stands for more than %d mailboxes", maxAliasTargets)
				return
			}
		}
	}
}
