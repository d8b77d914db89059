package transfer

import (
	"slices"
	"time"

	"mailxmppd/mail"
	"mailxmppd/xmpp/wire"
)

// The namespaces of service discovery (XEP-0030) and of data forms (XEP-0004).
const (
	discoInfo = "http://jabber.org/protocol/disco#info"
	dataForm  = "jabber:x:data"
)

// Limits of the protocol (xep-draft section 7.3).
const (
	leastChunk = 6000               // every receiver takes as much in one chunk
	maxServes  = 256                // domains that one service names
	memory     = 7 * 24 * time.Hour // least time that acceptances are remembered
)

// The SMTP extensions that an envelope may use, by their names in the form
// (xep-draft section 7.2).
const (
	ExtDSN        = "dsn"
	ExtSMTPUTF8   = "smtputf8"
	ExtBinary     = "binary"
	ExtRequireTLS = "requiretls"
	ExtDeliverBy  = "deliverby"
	ExtPriority   = "priority"
	ExtGrants     = "grants"
)

// Capabilities are what a domain takes (xep-draft section 4.2).
type Capabilities struct {
	MaxMessage    int64         // octets of content
	MaxChunk      int           // octets of content in a chunk, at least 6,000
	MaxInline     int           // octets of content in an offer, 0 for none
	MaxRecipients int           // in a request
	Window        int           // chunks of one transfer in flight
	Retain        time.Duration // memory of acceptances
	Extensions    []string      // Ext...
	Policy        string        // "none", "testing" or "enforce"
	MaxAge        time.Duration // of the policy
	Sends         string        // "any" or "xmpp-only"
	Serves        []string      // domains whose mail is taken, A-labels; none: the announcing name's own
}

// Unstated is what holds for a domain that has the feature and does not say
// more, or says it wrong.
func Unstated() Capabilities {
	return Capabilities{
		MaxMessage: 10 << 20, MaxChunk: leastChunk, MaxRecipients: 100, Window: 1, Retain: memory,
		Policy: "none", Sends: "any",
	}
}

// Announced is what this program takes unless it is told otherwise. It leaves
// out requiretls, which only an operator whose next hop keeps it can promise,
// and grants, which somebody has to keep (ServerConfig.Permissions).
func Announced() Capabilities {
	return Capabilities{
		MaxMessage: 50 << 20, MaxChunk: 128 << 10, MaxInline: 64 << 10, MaxRecipients: 1000, Window: 4, Retain: memory,
		Extensions: []string{ExtDSN, ExtSMTPUTF8, ExtBinary, ExtDeliverBy, ExtPriority},
		Policy:     "none", Sends: "any",
	}
}

// Has reports whether an extension is listed.
func (c Capabilities) Has(ext string) bool { return slices.Contains(c.Extensions, ext) }

// TakesFor reports whether an entity that announces c takes the mail of a
// domain (xep-draft section 4.5). A service that names domains takes no other's
// mail, not even its own name's.
func (c Capabilities) TakesFor(entity, domain string) bool {
	if len(c.Serves) == 0 {
		return entity == domain
	}
	return slices.Contains(c.Serves, domain)
}

// DiscoInfo returns identity, feature and form as the children of the <query/>
// of a disco#info answer, encoded, the query's namespace inherited.
func (c Capabilities) DiscoInfo() ([]byte, error) {
	e := wire.NewEncoder(nil)
	e.Start("identity", "")
	e.Attr("category", "gateway")
	e.Attr("type", "smtp")
	e.End()
	e.Start("feature", "")
	e.Attr("var", Namespace)
	e.End()
	c.appendForm(e)
	return e.Bytes()
}

func (c Capabilities) appendForm(e *wire.Encoder) {
	field := func(name, typ string, values ...string) {
		e.Start("field", "")
		e.Attr("var", name)
		optional(e, "type", typ)
		for _, v := range values {
			e.Start("value", "")
			e.Text(v)
			e.End()
		}
		e.End()
	}
	e.Start("x", dataForm)
	e.Attr("type", "result")
	field("FORM_TYPE", "hidden", Namespace)
	field("max-message", "", itoa(c.MaxMessage))
	field("max-chunk", "", itoa(int64(c.MaxChunk)))
	field("max-inline", "", itoa(int64(c.MaxInline)))
	field("max-rcpt", "", itoa(int64(c.MaxRecipients)))
	field("window", "", itoa(int64(c.Window)))
	field("retain-seconds", "", itoa(int64(c.Retain/time.Second)))
	field("extensions", "text-multi", c.Extensions...)
	field("policy", "", c.Policy)
	field("max-age", "", itoa(int64(c.MaxAge/time.Second)))
	field("sends", "", c.Sends)
	if len(c.Serves) > 0 {
		field("serves", "text-multi", unicodeDomains(c.Serves)...)
	}
	e.End()
}

// FromDisco reads the <query/> of a disco#info answer; ok tells whether the
// domain has the feature at all. A form with a value out of its range is as
// good as none (xep-draft section 4.2).
func FromDisco(query *wire.Element) (c Capabilities, ok bool) {
	if !query.Is(discoInfo, "query") {
		return Capabilities{}, false
	}
	c = Unstated()
	for _, child := range query.Children {
		switch {
		case child.Is(discoInfo, "feature") && child.Attr("var") == Namespace:
			ok = true
		case child.Is(dataForm, "x") && formValue(child, "FORM_TYPE") == Namespace:
			if stated, valid := readForm(child); valid {
				c = stated
			}
		}
	}
	return c, ok
}

func readForm(x *wire.Element) (Capabilities, bool) {
	c, ok := Unstated(), true
	number := func(name string, least, most int64, set func(int64)) {
		v := formValue(x, name)
		if v == "" {
			return
		}
		n, valid := parseCount(v)
		if !valid || n < least {
			ok = false
			return
		}
		set(min(n, most))
	}
	const year = 366 * 24 * 60 * 60
	number("max-message", 0, 1<<50, func(n int64) { c.MaxMessage = n })
	number("max-chunk", leastChunk, 1<<30, func(n int64) { c.MaxChunk = int(n) })
	number("max-inline", 0, 1<<30, func(n int64) { c.MaxInline = int(n) })
	number("max-rcpt", 1, 1<<20, func(n int64) { c.MaxRecipients = int(n) })
	number("window", 1, 1<<10, func(n int64) { c.Window = int(n) })
	number("retain-seconds", int64(memory/time.Second), year, func(n int64) { c.Retain = time.Duration(n) * time.Second })
	number("max-age", 0, year, func(n int64) { c.MaxAge = time.Duration(n) * time.Second })
	word := func(name string, set *string, words ...string) {
		if v := formValue(x, name); v != "" {
			ok = ok && slices.Contains(words, v)
			*set = v
		}
	}
	word("policy", &c.Policy, "none", "testing", "enforce")
	word("sends", &c.Sends, "any", "xmpp-only")
	for _, v := range formValues(x, "extensions") {
		if len(c.Extensions) < 64 {
			c.Extensions = append(c.Extensions, mail.Sanitise(v))
		}
	}
	serves := formValues(x, "serves")
	ok = ok && len(serves) <= maxServes
	for _, v := range serves[:min(len(serves), maxServes)] {
		domain, err := mail.ParseDomain(v)
		ok = ok && err == nil
		c.Serves = append(c.Serves, domain)
	}
	return c, ok
}

// unicodeDomains writes domains as RFC 7622 wants them on the wire.
func unicodeDomains(domains []string) []string {
	out := make([]string, len(domains))
	for i, d := range domains {
		out[i] = mail.UnicodeDomain(d)
	}
	return out
}

// formValue returns a field's first value.
func formValue(x *wire.Element, name string) string {
	if v := formValues(x, name); len(v) > 0 {
		return v[0]
	}
	return ""
}

func formValues(x *wire.Element, name string) []string {
	var out []string
	for _, f := range x.Children {
		if !f.Is(dataForm, "field") || f.Attr("var") != name {
			continue
		}
		for _, v := range f.Children {
			if v.Is(dataForm, "value") {
				out = append(out, string(v.Text))
			}
		}
	}
	return out
}
