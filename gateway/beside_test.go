package gateway

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"mailxmppd/mail"
	"mailxmppd/trust"
)

// TestMarksAreApart: each copy has the mark of its own domain, whoever else gets
// the message; through a mail server beside us it has those of all.
func TestMarksAreApart(t *testing.T) {
	t.Parallel()
	w := judgedWorld(t)
	here := mail.Client{Addr: netip.MustParseAddrPort("127.0.0.1:1")}
	marks := func(content string) (domains string) {
		for line := range strings.Lines(content) {
			if strings.HasPrefix(line, trust.SentField+":") {
				domains += strings.TrimSpace(line[strings.LastIndexByte(line, '-')+1:]) + " "
			}
		}
		return domains
	}
	m := w.message(by("boss@home.example"), "boss@home.example", "x@far.example", "y@peer.example", "z@other.example")
	if v := w.entrance.Accept(t.Context(), here, m, false); v[0].Failure != nil {
		t.Fatal(v[0].Failure)
	}
	w.peer.set(func(n *next) { n.live = true })
	m = w.message(by("boss@home.example"), "boss@home.example", "cut@peer.example")
	if v := w.entrance.Accept(t.Context(), here, m, false); v[0].Failure != nil {
		t.Fatal(v[0].Failure)
	}
	until(t, "sent", func() bool { return len(w.legacy.deliveries()) == 2 && len(w.peer.deliveries()) == 2 })
	for _, d := range append(w.legacy.deliveries(), w.peer.deliveries()...) {
		if got := marks(d.content); got != d.attempt.Domain+" " {
			t.Errorf("to %v: marks %q", d.rcpts, got)
		}
	}
	m = w.message(by("clerk@home.example"), "clerk@home.example", "x@far.example")
	if v := w.entrance.Accept(t.Context(), here, m, false); v[0].Failure != nil {
		t.Fatal(v[0].Failure)
	}
	until(t, "sent", func() bool { return len(w.legacy.deliveries()) == 3 })
	if got := marks(w.legacy.deliveries()[2].content); got != "" {
		t.Errorf("of a mailbox that takes all mail: marks %q", got)
	}
	beside := &Entrance{Gateway: w.Gateway, Beside: true, Trusted: w.entrance.Trusted}
	fields, _, f := beside.JudgeBeside(t.Context(), here, w.message(by("boss@home.example"), "boss@home.example", "x@far.example", "y@peer.example", "z@far.example"))
	if got := marks(string(fields)); f != nil || got != "far.example peer.example " {
		t.Errorf("beside a mail server: %v, marks %q", f, got)
	}
}

// TestBeside: a mail server beside us has one answer for all recipients, and
// nobody to send reports: what may be refused goes alone.
func TestBeside(t *testing.T) {
	t.Parallel()
	w := judgedWorld(t)
	e := &Entrance{Gateway: w.Gateway, Beside: true, Trusted: w.entrance.Trusted}
	for _, c := range []struct {
		client mail.Client
		before []string
		to     string
		want   string
	}{
		{away, nil, "boss@home.example", ""},
		{away, []string{"boss@home.example"}, "bishop@home.example", "4.5.3"},
		{away, []string{"boss@home.example"}, "juliet@home.example", "4.5.3"},
		{away, []string{"nobody@home.example"}, "juliet@home.example", "4.5.3"},
		{away, []string{"juliet@home.example"}, "boss@home.example", "4.5.3"},
		{away, []string{"juliet@home.example"}, "nobody@home.example", "4.5.3"},
		{away, []string{"juliet@home.example"}, "clerk@home.example", ""},
		{away, []string{"x@far.example"}, "clerk@home.example", ""},
		{mail.Client{Addr: netip.MustParseAddrPort("127.0.0.1:1")}, []string{"boss@home.example"}, "juliet@home.example", ""},
		{mail.Client{Addr: away.Addr, User: "u"}, []string{"boss@home.example"}, "juliet@home.example", ""},
	} {
		env := mail.Envelope{Sender: address(t, "f@friend.example")}
		for _, s := range c.before {
			env.Recipients = append(env.Recipients, mail.Recipient{Address: address(t, s)})
		}
		got := ""
		if f := e.Recipient(t.Context(), c.client, env, mail.Recipient{Address: address(t, c.to)}); f != nil {
			got = f.Status()
		}
		if got != c.want {
			t.Errorf("%v after %v: %q, want %q", c.to, c.before, got, c.want)
		}
	}
}

// TestForgedBeside: through a mail server beside us, forged mail goes to those who
// take it tagged, and to nobody else; whom else it cannot go to, it is refused for
// all, since nobody could be told.
func TestForgedBeside(t *testing.T) {
	t.Parallel()
	w := judgedWorld(t)
	e := &Entrance{Gateway: w.Gateway, Beside: true, Trusted: w.entrance.Trusted}
	liar := mail.Client{Addr: netip.MustParseAddrPort("192.0.2.66:25"), Helo: "mx.evil.example"}
	for _, c := range []struct {
		name, from string
		client     mail.Client
		to         []string
		refused    string
		failed     string
		verdict    string
	}{
		{"forged, mixed", "f@friend.example", liar, []string{"strict@second.example", "juliet@home.example", "hard@second.example"}, "[0 2]", "", "forged;"},
		{"forged, all refuse", "f@friend.example", liar, []string{"strict@second.example", "hard@second.example"}, "[]", "5.7.1", ""},
		{"forged, nobody refuses", "f@friend.example", liar, []string{"juliet@home.example", "clerk@home.example"}, "[]", "", "forged;"},
		{"proven", "f@friend.example", away, []string{"strict@second.example", "juliet@home.example"}, "[]", "", "authenticated;"},
		{"a mailbox that denies has slipped in", "x@stranger.example", away, []string{"bishop@home.example", "juliet@home.example"}, "[]", "5.7.1", ""},
	} {
		m := w.message(by(c.from), c.from, c.to...)
		fields, refused, f := e.JudgeBeside(t.Context(), c.client, m)
		status := ""
		if f != nil {
			status = f.Status()
		}
		if fmt.Sprint(refused) != c.refused || status != c.failed || (c.verdict != "") != strings.HasPrefix(string(fields), "X-Mail-Trust: "+c.verdict) {
			t.Errorf("%s: refused %v, %v, %q", c.name, refused, f, fields)
		}
	}
}
