package gateway

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// standsFor makes an alias.
func standsFor(t *testing.T, address_ string, to ...string) Alias {
	a := Alias{Address: address(t, address_)}
	for _, s := range to {
		a.To = append(a.To, address(t, s))
	}
	return a
}

func withAliases(t *testing.T, list ...Alias) func(*Config) {
	srs := withSRS(t)
	return func(c *Config) {
		srs(c)
		c.Aliases, c.RewriteAliases, c.LoopKey = list, true, []byte("0123456789abcdef")
	}
}

// TestAliasTargets: aliases of aliases, circles, and oneself.
func TestAliasTargets(t *testing.T) {
	a := newAliases([]Alias{
		standsFor(t, "sales@home.example", "a@home.example", "b@far.example"),
		standsFor(t, "all@home.example", "SALES@home.example", "c@home.example", "a@home.example"),
		standsFor(t, "me@home.example", "me@home.example", "me@far.example"),
		standsFor(t, "x@home.example", "y@home.example"),
		standsFor(t, "y@home.example", "x@home.example", "z@home.example"),
	})
	for from, want := range map[string]string{
		"Sales@home.example": "a@home.example b@far.example",
		"all@home.example":   "a@home.example b@far.example c@home.example",
		"me@home.example":    "me@home.example me@far.example",
		"x@home.example":     "x@home.example z@home.example",
		"d@home.example":     "d@home.example",
	} {
		if got := strings.Trim(fmt.Sprint(a.targets(address(t, from))), "[]"); got != want {
			t.Errorf("%s stands for %s, want %s", from, got, want)
		}
	}
	// Twenty aliases, each for all the others: bounded work.
	var list []Alias
	for i := range 20 {
		alias := standsFor(t, fmt.Sprintf("n%d@home.example", i), "end@home.example")
		for j := range 20 {
			alias.To = append(alias.To, address(t, fmt.Sprintf("n%d@home.example", j)))
		}
		list = append(list, alias)
	}
	if got := newAliases(list).targets(address(t, "n0@home.example")); len(got) == 0 || len(got) > 21 {
		t.Errorf("got %d", len(got))
	}
}

// TestExpand: nobody gets a message twice, and DSN parameters go on as RFC 3461
// section 5.2.7 has it.
func TestExpand(t *testing.T) {
	w := newWorld(t, withAliases(t, standsFor(t, "one@home.example", "a@far.example"), standsFor(t, "two@home.example", "a@far.example", "b@far.example")))
	env := mail.Envelope{Recipients: []mail.Recipient{
		{Address: address(t, "c@home.example"), Notify: mail.NotifySuccess},
		{Address: address(t, "two@home.example"), Notify: mail.NotifySuccess},
		{Address: address(t, "one@home.example"), Notify: mail.NotifySuccess | mail.NotifyDelay, Original: "rfc822;x@y.example"},
	}}
	x := w.expand(env)
	var got []string
	for _, r := range x.env.Recipients {
		got = append(got, fmt.Sprint(r.Address, " ", r.Original, " ", r.Notify.Names()))
	}
	want := []string{"c@home.example  [SUCCESS]", "a@far.example rfc822;two@home.example [NEVER]", "b@far.example rfc822;two@home.example [NEVER]"}
	if !slices.Equal(got, want) || !slices.Equal(x.at, []int{0, 1, 1}) || !slices.Equal(x.expanded, []int{1}) {
		t.Errorf("got %q at %v, expanded %v", got, x.at, x.expanded)
	}
	env.Recipients = env.Recipients[2:]
	if r := w.expand(env).env.Recipients[0]; r.Original != "rfc822;x@y.example" || r.Notify != mail.NotifySuccess|mail.NotifyDelay {
		t.Errorf("an alias of one: %+v", r)
	}
}

// TestAlias: mail for an alias goes to its mailboxes, those elsewhere under a
// reverse-path of ours; its content and the author's own fields stay what they
// are; the sender hears of the expansion where he wants to hear of success.
func TestAlias(t *testing.T) {
	w := newWorld(t, withAliases(t, standsFor(t, "sales@home.example", "juliet@home.example", "b@other.example", "c@peer.example")))
	w.local.set(func(n *next) {
		n.exists = func(a mail.Address) *mail.Failure {
			if a.Local == "sales" {
				return mail.Fail(mail.NoSuchMailbox, "", nil)
			}
			return nil
		}
	})
	stranger := mail.Client{Addr: netip.MustParseAddrPort("192.0.2.1:1")}
	r := mail.Recipient{Address: address(t, "Sales@home.example"), Notify: mail.NotifySuccess}
	if f := w.entrance.Recipient(t.Context(), stranger, mail.Envelope{Sender: address(t, "a@far.example")}, r); f != nil {
		t.Fatal(f)
	}
	m := w.message(sample, "a@far.example")
	m.Envelope.Recipients = []mail.Recipient{r}
	if v := w.entrance.Accept(t.Context(), stranger, m, true); len(v) != 1 || v[0].Failure != nil || len(m.Envelope.Recipients) != 1 {
		t.Fatalf("got %+v", v)
	}
	until(t, "delivered", func() bool {
		return len(w.local.deliveries()) == 1 && len(w.legacy.deliveries()) == 2 && len(w.peer.deliveries()) == 1
	})
	if from := w.local.deliveries()[0].attempt.Envelope.Sender.String(); from != "a@far.example" {
		t.Errorf("local from %s", from)
	}
	var dsn, forwarded string
	for _, d := range append(w.legacy.deliveries(), w.peer.deliveries()...) {
		if d.attempt.Envelope.Sender.IsNull() {
			dsn = d.content
			continue
		}
		forwarded = d.content
		if from := d.attempt.Envelope.Sender; !strings.HasPrefix(from.Local, "SRS0=") || from.Domain != "home.example" || !strings.HasSuffix(d.content, sample) {
			t.Errorf("to %v from %s: %q", d.rcpts, from, d.content)
		}
	}
	if !strings.Contains(dsn, "Action: expanded\r\nStatus: 2.0.0\r\n") || !strings.Contains(dsn, "Final-Recipient: rfc822; Sales@home.example\r\n") {
		t.Errorf("dsn %q", dsn)
	}

	// What was forwarded comes back to the alias: the loop ends, also for a
	// mailbox beside it, and though one of its mailboxes is here.
	back := w.message(forwarded, "a@far.example", "sales@home.example", "d@home.example")
	if v := w.entrance.Accept(t.Context(), stranger, back, false); v[0].Failure == nil || v[0].Failure.Status() != "5.4.6" {
		t.Errorf("a loop: %+v", v)
	}
	// The same over XMPP, where the marks are in the trace.
	k := store.TransferKey{Domain: "peer.example", Local: "home.example", ID: strings.Repeat("c", 64)}
	head, body, _ := strings.Cut(forwarded, "From:")
	peers := w.message("From:"+body, "a@peer.example", "sales@home.example")
	peers.Trace = []byte(head)
	b := mail.Binding{Local: "home.example", Remote: "peer.example"}
	if _, f := w.Gateway.Accept(t.Context(), k, store.ContentHash{Size: peers.Facts.Size, SHA256: peers.Facts.SHA256}, b, peers); f[0] == nil || f[0].Status() != "5.4.6" {
		t.Errorf("a loop over XMPP: %v", f)
	}
}

// TestAliasFromPeer: what a peer sends to an alias is accepted for it, and once.
func TestAliasFromPeer(t *testing.T) {
	w := newWorld(t, withAliases(t, standsFor(t, "sales@home.example", "juliet@home.example", "nurse@home.example"), standsFor(t, "help@home.example", "nurse@home.example")))
	b := mail.Binding{Local: "home.example", Remote: "peer.example"}
	k := store.TransferKey{Domain: "peer.example", Local: "home.example", ID: strings.Repeat("d", 64)}
	var first []mail.ID
	for range 2 {
		m := w.message(sample, "a@peer.example", "x@home.example", "sales@home.example", "help@home.example")
		m.Origin = mail.Origin{Transport: "xmpp", Peer: "peer.example", Received: time.Now()}
		ids, f := w.Gateway.Accept(t.Context(), k, store.ContentHash{Size: m.Facts.Size, SHA256: m.Facts.SHA256}, b, m)
		if len(ids) != 3 || len(f) != 3 || f[0] != nil || f[1] != nil || f[2] != nil || ids[0] == "" || ids[1] == "" || ids[2] == "" {
			t.Fatalf("got %v, %v", ids, f)
		}
		if first == nil {
			first = ids
		} else if !slices.Equal(ids, first) {
			t.Errorf("asked again: %v, then %v", first, ids)
		}
	}
	for _, rcpt := range []string{"x@home.example", "juliet@home.example", "nurse@home.example"} {
		w.waitState(rcpt, store.Delivered)
	}
	if n := len(w.states()); n != 3 {
		t.Errorf("%d deliveries", n)
	}
}

// TestLongReversePath: one that cannot be rewritten whole comes back all the
// same, for a while.
func TestLongReversePath(t *testing.T) {
	w := newWorld(t, withAliases(t, standsFor(t, "sales@home.example", "b@other.example")))
	long := "bounces+" + strings.Repeat("x", 50) + "@lists.far.example"
	w.send(w.message(sample, long, "sales@home.example"), false)
	until(t, "forwarded", func() bool { return len(w.legacy.deliveries()) == 1 })
	as := w.legacy.deliveries()[0].attempt.Envelope.Sender
	if as.Domain != "home.example" || len(as.Local) > 64 {
		t.Fatalf("from %s", as)
	}
	stranger := mail.Client{Addr: netip.MustParseAddrPort("192.0.2.1:1")}
	if f := w.entrance.Recipient(t.Context(), stranger, mail.Envelope{}, mail.Recipient{Address: as}); f != nil {
		t.Errorf("the way back is refused: %v", f)
	}
	w.send(w.message(sample, "", as.String()), false)
	until(t, "the bounce", func() bool { return len(w.legacy.deliveries()) == 2 })
	if got := w.legacy.deliveries()[1].rcpts[0]; got != long {
		t.Errorf("bounced to %s", got)
	}
	gone, err := w.SRS.Forward(address(t, strings.Repeat("y", 60)+"@far.example"))
	if err != nil {
		t.Fatal(err)
	}
	if f := w.entrance.Recipient(t.Context(), stranger, mail.Envelope{}, mail.Recipient{Address: gone}); f == nil || f.Status() != "5.1.1" {
		t.Errorf("a name that nothing is stored under: %v", f)
	}
}

// TestRewriting: whose reverse-paths are rewritten by SMTP.
func TestRewriting(t *testing.T) {
	for name, c := range map[string]struct {
		sender          string
		o               mail.Origin
		aliases, relays bool
		want            bool
	}{
		"an alias's":       {"a@far.example", mail.Origin{Forwarded: true}, true, false, true},
		"an alias's, off":  {"a@far.example", mail.Origin{Forwarded: true}, false, false, false},
		"a neighbour's":    {"a@far.example", mail.Origin{Transport: "smtp"}, true, true, true},
		"neighbour's, off": {"a@far.example", mail.Origin{Transport: "smtp"}, true, false, false},
		"a user's":         {"a@far.example", mail.Origin{User: "u"}, true, true, false},
		"ours":             {"a@home.example", mail.Origin{Forwarded: true}, true, true, false},
		"null":             {"", mail.Origin{Forwarded: true}, true, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, func(cfg *Config) {
				withSRS(t)(cfg)
				cfg.RewriteAliases, cfg.RewriteRelayed = c.aliases, c.relays
			})
			sender := address(t, c.sender)
			if got := w.reversePath(sender, c.o); (got != sender) != c.want {
				t.Error(got)
			}
		})
	}
}

// vouching says what it is asked about.
type vouching struct{}

func (vouching) Vouch(_ context.Context, src mail.Source, m *mail.Message) []byte {
	return []byte("X-Vouched: " + m.Envelope.Sender.String() + " " + src.Binding.Remote + "\r\n")
}

// TestVouched: only what others have sent, and what goes on to others, is
// vouched for.
func TestVouched(t *testing.T) {
	w := newWorld(t, func(c *Config) {
		withAliases(t, standsFor(t, "sales@home.example", "b@other.example"), standsFor(t, "in@home.example", "juliet@home.example"))(c)
		c.Voucher = vouching{}
	})
	for _, c := range []struct {
		from, to string
		want     bool
	}{
		{"a@far.example", "sales@home.example", true}, {"", "sales@home.example", true}, {"a@far.example", "b@other.example", true},
		{"a@home.example", "sales@home.example", false}, {"a@far.example", "in@home.example", false}, {"a@far.example", "juliet@home.example", false},
		{"", "b@other.example", false},
	} {
		m := w.message(sample, c.from, c.to)
		if got := w.vouch(t.Context(), mail.Source{}, m, m.Content, nil); (got != nil) != c.want {
			t.Errorf("%s to %s: %q", c.from, c.to, got)
		}
	}
	w.send(w.message(sample, "a@far.example", "sales@home.example"), false)
	until(t, "forwarded", func() bool { return len(w.legacy.deliveries()) == 1 })
	if got := w.legacy.deliveries()[0].content; !strings.Contains(got, "X-Vouched: a@far.example \r\n") {
		t.Errorf("got %q", got)
	}
}
