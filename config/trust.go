package config

import (
	"strings"
	"time"

	"mailxmppd/mail"
)

// Trust is about how mail is judged.
type Trust struct {
	Enabled     bool        `toml:"enabled"`
	Sealers     []string    `toml:"sealers"`     // A-labels: whose ARC seals are believed
	Forwarders  []string    `toml:"forwarders"`  // A-labels: who may hand on mail of others
	Secondaries []Secondary `toml:"secondary"`   // hosts of ours that take mail before us
	Signatures  int         `toml:"signatures"`  // DKIM, of a message
	DNSBudget   Duration    `toml:"dns_budget"`  // of a message
	PutOff      Duration    `toml:"put_off_for"` // while it cannot be told who sent it
	ReportsFor  Duration    `toml:"reports_for"` // that reports about our own mail are let in
}

// Secondary is a host of ours that takes mail before us, and judges it.
type Secondary struct {
	Networks   []Network `toml:"networks"`
	AuthservID string    `toml:"authserv_id"`
	Recipients []string  `toml:"recipients"` // domains and addresses of ours; empty: all
}

// DomainTrust is what a domain of ours wants done with mail.
type DomainTrust struct {
	Default    string         `toml:"default"`    // DefaultAllow, DefaultDeny
	Forged     string         `toml:"forged"`     // ForgedTag, ForgedReject
	Unclear    string         `toml:"unclear"`    // the same; as Forged once loaded, if left out
	AutoGrant  string         `toml:"auto_grant"` // On, Off
	DeniedText string         `toml:"denied_text"`
	Forwarders []string       `toml:"forwarders"` // A-labels
	Mailboxes  []MailboxTrust `toml:"mailbox"`
}

// MailboxTrust is what one mailbox wants; what is left out is as for its domain,
// and filled in once loaded.
type MailboxTrust struct {
	Address    string   `toml:"address"` // a whole one once loaded
	Default    string   `toml:"default"`
	Forged     string   `toml:"forged"`
	Unclear    string   `toml:"unclear"`
	AutoGrant  string   `toml:"auto_grant"`
	Forwarders []string `toml:"forwarders"` // beside those of the domain
}

// Values of DomainTrust and MailboxTrust.
const (
	DefaultAllow = "allow"
	DefaultDeny  = "deny"
	ForgedTag    = "tag"
	ForgedReject = "reject"
	On           = "on"
	Off          = "off"
)

// maxDeniedText: a reply is one line of at most 512 octets (RFC 5321 section
// 4.5.3.1.5).
const maxDeniedText = 200

func (t *Trust) defaults() {
	t.Enabled = true
	t.Signatures = 10
	t.DNSBudget = span(10 * time.Second)
	t.PutOff = span(4 * time.Hour)
	t.ReportsFor = span(10 * 24 * time.Hour)
}

func (c *checker) trust(cfg *Config) {
	t := &cfg.Trust
	c.names("trust.sealers", t.Sealers)
	c.names("trust.forwarders", t.Forwarders)
	c.count("trust.signatures", t.Signatures, 1, 50)
	c.span("trust.dns_budget", t.DNSBudget, time.Second, time.Minute)
	c.span("trust.put_off_for", t.PutOff, time.Minute, 24*time.Hour)
	c.span("trust.reports_for", t.ReportsFor, 24*time.Hour, 35*24*time.Hour)
	for i := range t.Secondaries {
		s, at := &t.Secondaries[i], item("trust.secondary", i)
		if len(s.Networks) == 0 {
			c.add(at+".networks", "is missing")
		}
		if s.AuthservID = strings.ToLower(s.AuthservID); s.AuthservID == "" || strings.ContainsAny(s.AuthservID, " ;\"()\r\n") {
			c.add(at+".authserv_id", "%q is not the name in that host's Authentication-Results", clip(s.AuthservID))
		}
		for j, r := range s.Recipients {
			s.Recipients[j] = c.ourOwn(at+".recipients", r)
		}
	}
	for i := range cfg.Domains {
		c.domainTrust(item("domain", i)+".trust", cfg.Domains[i].Name, &cfg.Domains[i].Trust)
	}
}

// ourOwn reads a domain of ours, or an address at one.
func (c *checker) ourOwn(at, s string) string {
	if a, err := mail.ParseAddress(s); err == nil && c.own[a.Domain] {
		return strings.ToLower(a.String())
	}
	if domain, err := mail.ParseDomain(s); err == nil && c.own[domain] {
		return domain
	}
	c.add(at, "%q is neither a domain of ours nor an address at one", clip(s))
	return s
}

func (c *checker) domainTrust(at, domain string, t *DomainTrust) {
	if t.Unclear == "" {
		t.Unclear = t.Forged
	}
	c.wishes(at, t.Default, t.Forged, t.Unclear, t.AutoGrant)
	c.names(at+".forwarders", t.Forwarders)
	if len(t.DeniedText) > maxDeniedText || strings.ContainsFunc(t.DeniedText, func(r rune) bool { return r < ' ' || r > '~' }) {
		c.add(at+".denied_text", "wants at most %d printable ASCII characters", maxDeniedText)
	}
	seen := map[string]bool{}
	for i := range t.Mailboxes {
		m, at := &t.Mailboxes[i], item(at+".mailbox", i)
		if m.Default == "" {
			m.Default = t.Default
		}
		if m.Unclear == "" && m.Forged != "" {
			m.Unclear = m.Forged
		}
		if m.Forged == "" {
			m.Forged = t.Forged
		}
		if m.Unclear == "" {
			m.Unclear = t.Unclear
		}
		if m.AutoGrant == "" {
			m.AutoGrant = t.AutoGrant
		}
		c.wishes(at, m.Default, m.Forged, m.Unclear, m.AutoGrant)
		c.names(at+".forwarders", m.Forwarders)
		if m.Address == "" {
			c.add(at+".address", "is missing")
		} else if a, ok := c.recipient(at+".address", m.Address, domain); ok {
			if m.Address = strings.ToLower(a.String()); seen[m.Address] {
				c.add(at+".address", "%s is there twice", a)
			}
			seen[m.Address] = true
		}
	}
}

func (c *checker) wishes(at, standard, forged, unclear, grant string) {
	c.oneOf(at+".default", standard, DefaultAllow, DefaultDeny)
	c.oneOf(at+".forged", forged, ForgedTag, ForgedReject)
	if unclear != forged { // which it is where it is left out
		c.oneOf(at+".unclear", unclear, ForgedTag, ForgedReject)
	}
	c.oneOf(at+".auto_grant", grant, On, Off)
}

// names checks a list of domains.
func (c *checker) names(path string, list []string) {
	for i := range list {
		c.name(item(path, i), &list[i])
	}
}
