package transfer

import (
	"context"
	"encoding/base64"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"mailxmppd/mail"
)

// withGrants is Announced with grants.
func withGrants() Capabilities {
	c := Announced()
	c.Extensions = append(c.Extensions, ExtGrants)
	return c
}

// book is a Permissions that notes what it takes.
type book struct {
	mu   sync.Mutex
	took []mail.Permission
	fail *mail.Failure
}

func (b *book) Take(_ context.Context, _ mail.Binding, p mail.Permission) *mail.Failure {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.took = append(b.took, p)
	return b.fail
}

func newBookSetup(b *book) *setup {
	return newSetup(func(s *ServerConfig, _ *SenderConfig) { s.Permissions, s.Capabilities = b, withGrants() })
}

const key24 = "LHDhK3oGRvkiefQnx7OOczTY5Tic/xZ6"

func permissionXML(typ, mailbox, author, more string) string {
	return fmt.Sprintf("<permission xmlns='%s' type='%s' mailbox='%s' author='%s'%s</permission>", Namespace, typ, mailbox, author, more)
}

// TestHostilePermissions plays what a peer must not get through with; capulet
// asks montague.
func TestHostilePermissions(t *testing.T) {
	const romeo, juliet, escalus = "romeo@montague.example", "juliet@capulet.example", "escalus@verona.example"
	for name, c := range map[string]struct{ xml, want string }{
		"request":                           {permissionXML("request", romeo, juliet, "><text>hi</text>"), "empty taken"},
		"request of another domain":         {permissionXML("request", romeo, escalus, ">"), "error forbidden 5.7.1"},
		"request to another domain":         {permissionXML("request", escalus, juliet, ">"), "error forbidden 5.7.1"},
		"request in our name":               {permissionXML("request", juliet, romeo, ">"), "error forbidden 5.7.1"},
		"request among ours":                {permissionXML("request", romeo, "nurse@montague.example", ">"), "error forbidden 5.7.1"},
		"request among theirs":              {permissionXML("request", "nurse@capulet.example", juliet, ">"), "error forbidden 5.7.1"},
		"request of a subdomain":            {permissionXML("request", romeo, "juliet@sub.capulet.example", ">"), "error forbidden 5.7.1"},
		"request with a key":                {permissionXML("request", romeo, juliet, " key='"+key24+"'>"), "error bad-request 4.5.2"},
		"request until":                     {permissionXML("request", romeo, juliet, " until='2027-11-24T00:00:00Z'>"), "error bad-request 4.5.2"},
		"two texts":                         {permissionXML("request", romeo, juliet, "><text>a</text><text>b</text>"), "error bad-request 4.5.2"},
		"no text":                           {permissionXML("request", romeo, juliet, ">"), "empty taken"},
		"grant to themselves":               {permissionXML("grant", romeo, juliet, " key='"+key24+"'>"), "error forbidden 5.7.1"},
		"grant":                             {permissionXML("grant", juliet, romeo, " key='"+key24+"' until='2027-11-24T00:00:00+01:00'>"), "empty taken"},
		"grant without end":                 {permissionXML("grant", juliet, romeo, " key='"+key24+"'>"), "empty taken"},
		"grant of another domain's mailbox": {permissionXML("grant", escalus, romeo, " key='"+key24+"'>"), "error forbidden 5.7.1"},
		"grant with a short key":            {permissionXML("grant", juliet, romeo, " key='"+base64.StdEncoding.EncodeToString(make([]byte, 15))+"'>"), "error bad-request 4.5.2"},
		"grant with a long key":             {permissionXML("grant", juliet, romeo, " key='"+base64.StdEncoding.EncodeToString(make([]byte, 129))+"'>"), "error bad-request 4.5.2"},
		"grant with a key in lines":         {permissionXML("grant", juliet, romeo, " key='LHDhK3oGRvkiefQn&#10;x7OOczTY5Tic/xZ6'>"), "error bad-request 4.5.2"},
		"grant until nonsense":              {permissionXML("grant", juliet, romeo, " until='tomorrow'>"), "error bad-request 4.5.2"},
		"grant until far":                   {permissionXML("grant", juliet, romeo, " until='99999-01-01T00:00:00Z'>"), "error bad-request 4.5.2"},
		"revoke of theirs":                  {permissionXML("revoke", juliet, romeo, ">"), "empty taken"},
		"revoke of ours, no longer wanted":  {permissionXML("revoke", romeo, juliet, ">"), "empty taken"},
		"revoke for somebody else":          {permissionXML("revoke", romeo, escalus, ">"), "error forbidden 5.7.1"},
		"revoke of somebody else":           {permissionXML("revoke", escalus, romeo, ">"), "error forbidden 5.7.1"},
		"another type":                      {permissionXML("take", romeo, juliet, ">"), "error bad-request 4.5.2"},
		"no type":                           {"<permission xmlns='" + Namespace + "' mailbox='" + romeo + "' author='" + juliet + "'/>", "error bad-request 4.5.2"},
		"no mailbox":                        {permissionXML("request", "", juliet, ">"), "error jid-malformed 5.1.3"},
		"mailbox without a domain":          {permissionXML("request", "postmaster", juliet, ">"), "error bad-request 4.5.2"},
		"domain as author":                  {permissionXML("request", romeo, "@capulet.example", ">"), "error jid-malformed 5.1.3"},
		"unknown attribute":                 {permissionXML("request", romeo, juliet, " urgent='true'>"), "error bad-request 4.5.2"},
		"unknown element":                   {permissionXML("request", romeo, juliet, "><picture/>"), "error bad-request 4.5.2"},
	} {
		t.Run(name, func(t *testing.T) {
			b := &book{}
			x := newBookSetup(b)
			got := x.ask(t, montague, "set", c.xml)
			if len(b.took) > 0 {
				got += " taken"
			}
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
			if got := x.ask(t, montague, "get", c.xml); got != "error feature-not-implemented 4.3.2" {
				t.Errorf("as a question: %q", got)
			}
		})
	}
	x := newSetup()
	if got := x.ask(t, montague, "set", permissionXML("request", romeo, juliet, ">")); got != "error feature-not-implemented 4.3.2" {
		t.Errorf("where no grants are kept: %q", got)
	}
	if got := x.ask(t, montague, "set", offerXML(text(100), true, nil, "<rcpt to='"+romeo+"' grant='"+key24+"'/>")); got != "error bad-request 4.5.2" {
		t.Errorf("a key where no grants are kept: %q", got)
	}
}

// TestPermissionText: what a stranger says reaches the recipient as one
// printable line of bounded length.
func TestPermissionText(t *testing.T) {
	b := &book{}
	x := newBookSetup(b)
	said := "Win!\r\n\r\nSubject: &#9;x \u202e" + strings.Repeat("very long ", 1000)
	x.ask(t, montague, "set", permissionXML("request", "romeo@montague.example", "juliet@capulet.example", "><text>"+said+"</text>"))
	if len(b.took) != 1 || len(b.took[0].Text) > 1000 || !strings.HasPrefix(b.took[0].Text, "Win! Subject: x very long") {
		t.Errorf("took %.200q", b.took)
	}
}

// TestPermissionFlood: requests are bounded by author and by domain; others are
// not held up, and a minute later there is room again.
func TestPermissionFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &book{}
		x := newBookSetup(b)
		ask := func(binding mail.Binding, author string) string {
			return x.ask(t, binding, "set", permissionXML("request", "romeo@montague.example", author+"@"+binding.Remote, ">"))
		}
		for i := range 6 {
			if got, want := ask(montague, "juliet"), map[bool]string{true: "empty", false: "error resource-constraint 4.7.1"}[i < 5]; got != want {
				t.Fatalf("request %d: %s", i, got)
			}
		}
		for i := range 200 {
			ask(montague, fmt.Sprint("sybil", i))
		}
		if n := len(b.took); n > 60 {
			t.Errorf("%d requests of one domain in a minute", n)
		}
		if n := x.server.Snapshot()[countGrantFlood]; n < 140 {
			t.Errorf("%d above the rates", n)
		}
		if got := ask(mail.Binding{Local: "montague.example", Remote: "verona.example", Proof: "pkix"}, "escalus"); got != "empty" {
			t.Errorf("another domain: %s", got)
		}
		time.Sleep(time.Minute)
		if got := ask(montague, "juliet"); got != "empty" {
			t.Errorf("a minute later: %s", got)
		}
	})
}

// held is a Keys.
type held map[string]string

func (h held) Key(_ context.Context, mailbox, author mail.Address) []byte {
	return []byte(h[mailbox.String()+" "+author.String()])
}

// TestKeysInOffers: a key goes to the recipient that made it, where the peer
// keeps grants.
func TestKeysInOffers(t *testing.T) {
	keys := held{"romeo@montague.example juliet@capulet.example": "0123456789abcdef", "nurse@montague.example other@capulet.example": "not for her offer"}
	for _, known := range []bool{true, false} {
		got := map[string]string{}
		x := newSetup(func(s *ServerConfig, c *SenderConfig) {
			if s.Permissions = (*book)(nil); known {
				s.Capabilities = withGrants()
			}
			c.Keys = keys
		})
		x.server.cfg.Receiver = watching{x.gateway, func(env mail.Envelope) {
			for _, r := range env.Recipients {
				got[r.Address.Local] = r.Grant
			}
		}}
		for _, o := range x.sender.Deliver(t.Context(), message(100, "romeo", "nurse")) {
			if o.Failure != nil {
				t.Fatal(o.Failure)
			}
		}
		want := map[string]string{"romeo": map[bool]string{true: "0123456789abcdef"}[known], "nurse": ""}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("grants known %v: got %q, want %q", known, got, want)
		}
	}
}

// watching is a Receiver that shows what is checked.
type watching struct {
	*gateway
	see func(mail.Envelope)
}

func (w watching) Check(ctx context.Context, b mail.Binding, env mail.Envelope) []*mail.Failure {
	w.see(env)
	return w.gateway.Check(ctx, b, env)
}

// TestSendPermission: what is sent is what is taken.
func TestSendPermission(t *testing.T) {
	b := &book{}
	x := newBookSetup(b)
	p := mail.Permission{Type: mail.PermissionGrant, Mailbox: mail.Address{Local: "a \"b", Domain: "capulet.example"},
		Author: mail.Address{Local: "romeo", Domain: "montague.example"}, Key: []byte("0123456789abcdef\x00\xff"), Until: time.Unix(2e9, 0).UTC()}
	if f := x.sender.Permission(t.Context(), "capulet.example", "montague.example", p); f != nil {
		t.Fatal(f)
	}
	if fmt.Sprint(b.took) != fmt.Sprint([]mail.Permission{p}) {
		t.Errorf("took %v, want %v", b.took, p)
	}
	b.fail = mail.Fail(mail.ResourceShort, "", nil)
	if f := x.sender.Permission(t.Context(), "capulet.example", "montague.example", p); f == nil || f.Kind != mail.ResourceShort {
		t.Errorf("refused: %v", f)
	}
	x.links.caps = Announced()
	if f := x.sender.Permission(t.Context(), "capulet.example", "montague.example", p); f == nil || f.Class != mail.Permanent {
		t.Errorf("to who does not keep grants: %v", f)
	}
}

// FuzzPermission: what decodes encodes to what decodes to the same.
func FuzzPermission(f *testing.F) {
	f.Add(permissionXML("request", "romeo@montague.example", "juliet@capulet.example", "><text>hi</text>"))
	f.Add(permissionXML("grant", "\"a b\"@montague.example", "juliet@capulet.example", " key='"+key24+"' until='2027-11-24T00:00:00.5+01:00'>"))
	f.Fuzz(func(t *testing.T, xml string) {
		el, err := parseElement([]byte(xml))
		if err != nil {
			return
		}
		p, bad := decodePermission(el)
		if bad != nil {
			return
		}
		first, err := encodePermission(p)
		if err != nil {
			return // an address that XML cannot carry was not read from XML
		}
		again, bad := decodePermission(parse(t, string(first)))
		if bad != nil {
			t.Fatalf("%s\nread again: %v", first, bad)
		}
		if second, _ := encodePermission(again); string(first) != string(second) {
			t.Errorf("changed:\n%s\n%s", first, second)
		}
	})
}
