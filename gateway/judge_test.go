package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"mailxmppd/dns"
	"mailxmppd/mail"
	"mailxmppd/store"
	"mailxmppd/trust"
)

// zone answers TXT questions from a table, and says of all else that it is not
// there; what the resolver makes of real answers is package dns's own to show.
type zone map[string]string

func (z zone) TXT(_ context.Context, name string) dns.Answer[string] {
	switch s := z[name]; s {
	case "":
		return dns.Answer[string]{Status: dns.NoDomain}
	case "down":
		return dns.Answer[string]{Status: dns.Failed}
	default:
		return dns.Answer[string]{Status: dns.Found, Records: []string{s}}
	}
}

func (z zone) MX(context.Context, string) dns.Answer[dns.MX] {
	return dns.Answer[dns.MX]{Status: dns.NoDomain}
}

func (z zone) Family(context.Context, string, bool) dns.Answer[netip.Addr] {
	return dns.Answer[netip.Addr]{Status: dns.NoDomain}
}

func (z zone) PTR(context.Context, netip.Addr) dns.Answer[string] {
	return dns.Answer[string]{Status: dns.NoDomain}
}

// friends are whom everybody at home.example has permitted to write to boss.
type friends []string

func (f friends) Permits(_ context.Context, rcpt, author mail.Address, _ *trust.Evidence) (string, bool, error) {
	for _, s := range f {
		if s == author.String() && rcpt.Local == "boss" {
			return "granted", true, nil
		}
	}
	return "", false, nil
}

func (f friends) MayPermit(_ context.Context, sender mail.Address, _ mail.Recipient) (bool, error) {
	for _, s := range f {
		if strings.HasSuffix(s, "@"+sender.Domain) {
			return true, nil
		}
	}
	return false, nil
}

// judgedWorld is a world where boss and bishop deny, clerk and juliet take all,
// nobody is not there, and second.example refuses what is forged.
func judgedWorld(t *testing.T) *world {
	t.Helper()
	w := newWorldAlone(t, func(cfg *Config) {
		cfg.Judge = trust.NewJudge(trust.JudgeConfig{
			Evaluator: trust.New(trust.Config{Hostname: "gw.home.example", DNS: zone{
				"friend.example": "v=spf1 ip4:192.0.2.1 -all", "_dmarc.friend.example": "v=DMARC1; p=reject",
				"_dmarc.down.example": "down", "down.example": "down",
			}}),
			Domains: map[string]trust.DomainPolicy{
				"home.example":   {Mailboxes: map[string]trust.Policy{"boss": {Deny: true}, "bishop": {Deny: true}}},
				"second.example": {Policy: trust.Policy{RejectForged: true}},
			},
			Grants: []trust.Permits{friends{"f@friend.example", "d@down.example"}},
			Marks:  trust.NewSentMarks([]byte("a key"), cfg.Store.(*faulty), 0),
		})
	})
	w.local.set(func(n *next) {
		n.exists = func(a mail.Address) *mail.Failure {
			if a.Local == "nobody" {
				return mail.Fail(mail.NoSuchMailbox, "the neighbour says no", nil)
			}
			return nil
		}
	})
	return w
}

var away = mail.Client{Addr: netip.MustParseAddrPort("192.0.2.1:25"), Helo: "mx.friend.example"}

func by(from string) string {
	return "From: <" + from + ">\r\nMessage-ID: <1@x.example>\r\nSubject: s\r\n\r\nbody\r\n"
}

var bound = mail.Binding{Local: "home.example", Remote: "friend.example", Proof: "pkix"}

func (w *world) offer(content, from string, to ...string) []*mail.Failure {
	w.t.Helper()
	m := w.message(content, from, to...)
	m.Origin = mail.Origin{Transport: "xmpp", Peer: "friend.example", Remote: "192.0.2.1:5270", Received: time.Now()}
	b := bound
	b.Remote = m.Envelope.Sender.Domain
	k := store.TransferKey{Domain: b.Remote, Local: "home.example", ID: mail.TransferID(m.Envelope.Sender, m.Facts)}
	_, failures := w.Gateway.Accept(w.t.Context(), k, store.ContentHash{Size: m.Facts.Size, SHA256: m.Facts.SHA256}, b, m)
	return failures
}

// TestSameToStrangers: in every phase in which a stranger could ask, a mailbox
// that denies and one that does not exist give the same answer in the same
// phase; and the neighbour is asked about both.
func TestSameToStrangers(t *testing.T) {
	t.Parallel()
	for _, from := range []string{"s@stranger.example", "other@friend.example", "f@friend.example", "d@down.example", ""} {
		var transcripts []string
		denying := []string{"bishop@home.example", "nobody@home.example"}
		if from == "d@down.example" { // whom boss has permitted: it shows to no one who only claims to be him
			denying = append(denying, "boss@home.example")
		}
		for _, to := range denying {
			w := judgedWorld(t)
			author := from
			if author == "" {
				author = "mailer-daemon@mx.example"
			}
			env := mail.Envelope{Sender: address(t, from)}
			r := mail.Recipient{Address: address(t, to)}
			var b strings.Builder
			note := func(phase string, f *mail.Failure) {
				if f == nil {
					fmt.Fprintf(&b, "%s: go on\n", phase)
					return
				}
				fmt.Fprintf(&b, "%s: %d %s %s %s\n", phase, f.Code, f.Status(), f.Condition, f.Text)
			}
			note("rcpt", w.entrance.Recipient(t.Context(), away, env, r))
			note("data", w.entrance.Accept(t.Context(), away, w.message(by(author), from, to), false)[0].Failure)
			note("lmtp", w.entrance.Accept(t.Context(), away, w.message(by(author), from, to), true)[0].Failure)
			env.Recipients = []mail.Recipient{r}
			note("check", w.Check(t.Context(), bound, env)[0])
			if from != "" && to != "boss@home.example" { // the stream proves him
				note("commit", w.offer(by(author), from, to)[0])
			}
			transcripts = append(transcripts, b.String())
			if n := len(w.local.deliveries()); n > 0 {
				t.Errorf("%s to %s: delivered", from, to)
			}
		}
		if transcripts[0] != transcripts[1] || !strings.HasPrefix(transcripts[0], transcripts[len(transcripts)-1]) || strings.Contains(transcripts[0], "data: go on") {
			t.Errorf("%q:\n%s", from, strings.Join(transcripts, "\n"))
		}
	}
}

// TestRecipientJudged: the envelope decides where nothing in the content could
// help.
func TestRecipientJudged(t *testing.T) {
	t.Parallel()
	w := judgedWorld(t)
	for _, c := range []struct{ from, to, want string }{
		{"s@stranger.example", "boss@home.example", "5.7.1"},
		{"f@friend.example", "boss@home.example", ""},
		{"other@friend.example", "boss@home.example", ""},
		{"s@stranger.example", "juliet@home.example", ""},
		{"", "boss@home.example", ""},
		{"s@stranger.example", "x@second.example", ""},
	} {
		got := ""
		if f := w.entrance.Recipient(t.Context(), away, mail.Envelope{Sender: address(t, c.from)}, mail.Recipient{Address: address(t, c.to)}); f != nil {
			got = f.Status()
		}
		if got != c.want {
			t.Errorf("%q to %s: %q, want %q", c.from, c.to, got, c.want)
		}
	}
}

// TestVerdictPerRecipient: over LMTP and XMPP every recipient has an answer of
// his own; over SMTP the one answer is that of who takes the mail, and a report
// tells of the others, but never of what was forged.
func TestVerdictPerRecipient(t *testing.T) {
	t.Parallel()
	type answers = []string // "" for taken
	for _, c := range []struct {
		name    string
		author  string
		from    string
		to      []string
		each    answers
		one     string // SMTP's
		reports int    // that SMTP sends
	}{
		{"permitted and denied", "f@friend.example", "f@friend.example", []string{"boss@home.example", "bishop@home.example"}, answers{"", "5.7.1"}, "", 1},
		{"denied and taken", "f@friend.example", "f@friend.example", []string{"bishop@home.example", "x@second.example"}, answers{"5.7.1", ""}, "", 1},
		{"unknown and taken", "f@friend.example", "f@friend.example", []string{"juliet@home.example", "nobody@home.example"}, answers{"", "5.7.1"}, "", 1},
		{"nobody wants it", "o@friend.example", "o@friend.example", []string{"boss@home.example", "bishop@home.example"}, answers{"5.7.1", "5.7.1"}, "5.7.1", 0},
		{"forged, tagged and refused", "f@friend.example", "x@evil.example", []string{"juliet@home.example", "x@second.example", "boss@home.example"}, answers{"", "5.7.1", "5.7.1"}, "", 0},
		{"it cannot be told now", "d@down.example", "d@down.example", []string{"boss@home.example", "juliet@home.example"}, answers{"4.7.0", ""}, "4.7.0", 0},
		{"a null reverse-path", "mailer-daemon@friend.example", "", []string{"juliet@home.example", "boss@home.example"}, answers{"", "5.7.1"}, "", 0},
	} {
		status := func(f *mail.Failure) string {
			if f == nil {
				return ""
			}
			return f.Status()
		}
		w := judgedWorld(t)
		client := away
		if strings.HasSuffix(c.from, "evil.example") {
			client.Addr = netip.MustParseAddrPort("192.0.2.66:25")
		}
		for i, v := range w.entrance.Accept(t.Context(), client, w.message(by(c.author), c.from, c.to...), true) {
			if got := status(v.Failure); got != c.each[i] {
				t.Errorf("%s: lmtp answers %q for %s, want %q", c.name, got, c.to[i], c.each[i])
			}
		}
		if c.from == c.author && c.from != "d@down.example" { // whom the stream proves, without DNS
			x := judgedWorld(t)
			for i, f := range x.offer(by(c.author), c.from, c.to...) {
				if got := status(f); got != c.each[i] {
					t.Errorf("%s: xmpp answers %q for %s, want %q", c.name, got, c.to[i], c.each[i])
				}
			}
		}
		s := judgedWorld(t)
		if got := status(s.entrance.Accept(t.Context(), client, s.message(by(c.author), c.from, c.to...), false)[0].Failure); got != c.one {
			t.Errorf("%s: smtp answers %q, want %q", c.name, got, c.one)
		}
		reports := 0
		list, err := s.store.List(t.Context(), store.Filter{Closed: true})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range list {
			if e.Sender == "" && e.Rcpt == c.from {
				reports++
			}
		}
		if reports != c.reports {
			t.Errorf("%s: %d reports, want %d", c.name, reports, c.reports)
		}
	}
}

// TestRefusedReport: the report names who has refused, and nothing is taken
// where it cannot be stored.
func TestRefusedReport(t *testing.T) {
	t.Parallel()
	w := judgedWorld(t)
	w.faulty.order(func(f *faulty) { f.put = errors.New("no disk") })
	to := []string{"juliet@home.example", "bishop@home.example"}
	if v := w.entrance.Accept(t.Context(), away, w.message(by("f@friend.example"), "f@friend.example", to...), false); v[0].Failure == nil || v[0].Failure.Class != mail.Temporary {
		t.Fatalf("verdict %+v", v[0])
	}
	w.faulty.order(func(f *faulty) { f.put = nil })
	if v := w.entrance.Accept(t.Context(), away, w.message(by("f@friend.example"), "f@friend.example", to...), false); v[0].Failure != nil {
		t.Fatalf("verdict %+v", v[0])
	}
	until(t, "mail and report", func() bool { return len(w.local.deliveries()) == 1 && len(w.legacy.deliveries()) == 1 })
	report := w.legacy.deliveries()[0].content
	if !strings.Contains(report, "bishop@home.example") || !strings.Contains(report, "Status: 5.7.1") || strings.Contains(report, "juliet@") {
		t.Errorf("report:\n%s", report)
	}
}

// TestTags: recipients with different verdicts get copies of their own; what
// others wrote in our name goes; a later attempt tags the same.
func TestTags(t *testing.T) {
	t.Parallel()
	w := judgedWorld(t)
	fails := true
	w.local.set(func(n *next) {
		n.answer = func(a mail.Attempt) []mail.Outcome {
			if fails {
				return mail.AllFailed(len(a.Envelope.Recipients), mail.Fail(mail.ResourceShort, "", nil))
			}
			return make([]mail.Outcome, len(a.Envelope.Recipients))
		}
	})
	content := "Authentication-Results: GW.home.example; dkim=pass\r\nX-MAIL-TRUST : permitted\r\n" + by("f@friend.example")
	m := w.message(content, "f@friend.example", "boss@home.example", "juliet@home.example", "clerk@home.example")
	m.Trace = []byte("X-Mail-Trust: permitted\r\nReceived: from there\r\n")
	if v := w.entrance.Accept(t.Context(), away, m, false); v[0].Failure != nil {
		t.Fatal(v[0].Failure)
	}
	w.waitState("boss@home.example", store.Deferred)
	w.waitState("juliet@home.example", store.Deferred)
	w.local.set(func(*next) { fails = false })
	if _, err := w.store.Retry(t.Context(), store.Selection{N: -1, By: "test"}); err != nil {
		t.Fatal(err)
	}
	until(t, "two copies", func() bool { return len(w.local.deliveries()) == 2 })
	w.local.mu.Lock()
	attempts := w.local.attempts
	w.local.mu.Unlock()
	seen := map[string]int{}
	for _, a := range attempts {
		seen[string(a.Trace)]++
	}
	if len(seen) != 2 {
		t.Errorf("%d forms of the trace in %d attempts", len(seen), len(attempts))
	}
	for _, got := range w.local.deliveries() {
		want := "X-Mail-Trust: permitted; granted, proven by spf\r\nAuthentication-Results: gw.home.example;\r\n"
		if got.rcpts[0] != "boss@home.example" {
			want = "X-Mail-Trust: authenticated; proven by spf\r\nAuthentication-Results: gw.home.example;\r\n"
			if len(got.rcpts) != 2 {
				t.Errorf("copy for %v", got.rcpts)
			}
		}
		if !strings.HasPrefix(got.content, want) || !strings.HasSuffix(got.content, "Received: from there\r\n"+by("f@friend.example")) {
			t.Errorf("for %v:\n%s", got.rcpts, got.content)
		}
		if strings.Count(strings.ToLower(got.content), "x-mail-trust") != 1 || strings.Count(got.content, "Authentication-Results") != 1 {
			t.Errorf("for %v:\n%s", got.rcpts, got.content)
		}
		if size := int64(len(got.content) - len(got.attempt.Trace)); got.attempt.Content.Size() != size {
			t.Errorf("%d octets announced, %d given", got.attempt.Content.Size(), size)
		}
	}
}

// TestTagsOfOthers: mail that nobody has judged says so, and so does a report
// of our own.
func TestTagsOfOthers(t *testing.T) {
	t.Parallel()
	w := judgedWorld(t)
	here := mail.Client{Addr: netip.MustParseAddrPort("127.0.0.1:1")}
	if v := w.entrance.Accept(t.Context(), here, w.message(by("x@home.example"), "juliet@home.example", "boss@home.example"), false); v[0].Failure != nil {
		t.Fatal(v[0].Failure)
	}
	until(t, "delivery", func() bool { return len(w.local.deliveries()) == 1 })
	if got := w.local.deliveries()[0].content; !strings.HasPrefix(got, "X-Mail-Trust: unproven; not judged\r\nAuthentication-Results: gw.home.example; none\r\n") {
		t.Errorf("%s", got)
	}
	w.legacy.set(func(n *next) {
		n.answer = func(mail.Attempt) []mail.Outcome { return []mail.Outcome{refuse(mail.NoSuchMailbox)} }
	})
	w.entrance.Accept(t.Context(), here, w.message(by("x@home.example"), "juliet@home.example", "x@far.example"), false)
	until(t, "report", func() bool { return len(w.local.deliveries()) == 2 })
	if got := w.local.deliveries()[1].content; !strings.HasPrefix(got, "X-Mail-Trust: authenticated; made by this mail system\r\n") {
		t.Errorf("%s", got)
	}
}

// TestReportsComeBack: a mailbox that takes mail of permitted senders only gets
// the report about what it has sent, and no other.
func TestReportsComeBack(t *testing.T) {
	t.Parallel()
	w := judgedWorld(t)
	here := mail.Client{Addr: netip.MustParseAddrPort("127.0.0.1:1")}
	if v := w.entrance.Accept(t.Context(), here, w.message(by("boss@home.example"), "boss@home.example", "x@far.example"), false); v[0].Failure != nil {
		t.Fatal(v[0].Failure)
	}
	until(t, "sent", func() bool { return len(w.legacy.deliveries()) == 1 })
	sent, _, _ := strings.Cut(w.legacy.deliveries()[0].content, "\r\n\r\n")
	report := func(returned string) string {
		return "From: <mailer-daemon@far.example>\r\nContent-Type: multipart/report; boundary=b\r\n\r\n--b\r\nContent-Type: text/rfc822-headers\r\n\r\n" + returned + "\r\n--b--\r\n"
	}
	for _, c := range []struct {
		name, content, to string
		want              bool
	}{
		{"ours", report(sent), "boss@home.example", true},
		{"the same again", report(sent), "boss@home.example", true},
		{"another about it", report(sent + "\r\nX: 1"), "boss@home.example", true},
		{"more than it can have caused", report(sent + "\r\nX: 2"), "boss@home.example", false},
		{"about another's mail", report(sent), "bishop@home.example", false},
		{"forged", report("Message-ID: <1@x.example>\r\nReceived: by gw.home.example"), "boss@home.example", false},
		{"forged mark", report(trust.SentField + ": 20780.aaaaaaaaaaaaaaaaaaaaaaaa"), "boss@home.example", false},
	} {
		f := w.entrance.Accept(t.Context(), away, w.message(c.content, "", c.to), false)[0].Failure
		if (f == nil) != c.want {
			t.Errorf("%s: %v", c.name, f)
		}
	}
}

// TestJudgedTransfer: of a message that came in chunks, what the open transfer
// holds is judged, for each recipient.
func TestJudgedTransfer(t *testing.T) {
	t.Parallel()
	w := judgedWorld(t)
	content := "X-Mail-Trust: permitted; x\r\n" + by("f@friend.example") + strings.Repeat("line\r\n", 1000)
	m := w.message(content, "f@friend.example", "boss@home.example", "bishop@home.example")
	k := store.TransferKey{Domain: "friend.example", Local: "home.example", ID: mail.TransferID(m.Envelope.Sender, m.Facts)}
	h := store.ContentHash{Size: m.Facts.Size, SHA256: m.Facts.SHA256}
	at, err := w.store.TransferBegin(t.Context(), k, h)
	if err != nil {
		t.Fatal(err)
	}
	k.Turn = at.Turn
	if _, err := w.store.Append(t.Context(), k, 0, []byte(content)); err != nil {
		t.Fatal(err)
	}
	m.Content, m.Origin = nil, mail.Origin{Transport: "xmpp", Peer: "friend.example", Received: time.Now()}
	ids, failures := w.Gateway.Accept(t.Context(), k, h, bound, m)
	if ids[0] == "" || failures[0] != nil || ids[1] != "" || failures[1] == nil || failures[1].Kind != mail.SubscriptionNeeded {
		t.Fatalf("%v %v", ids, failures)
	}
	until(t, "delivery", func() bool { return len(w.local.deliveries()) == 1 })
	got := w.local.deliveries()[0]
	if !strings.HasPrefix(got.content, "X-Mail-Trust: permitted; granted, proven by xmpp\r\n") || strings.Count(got.content, "X-Mail-Trust") != 1 ||
		len(got.rcpts) != 1 {
		t.Errorf("for %v: %.300s", got.rcpts, got.content)
	}
}

// TestTagsForOne: what only one recipient's keys tell is shown to that recipient,
// after what is shown to all; recipients who are shown the same share a copy.
func TestTagsForOne(t *testing.T) {
	const own, all = "Authentication-Results: gw; smime=pass\r\n", "Authentication-Results: gw; none\r\n"
	l := store.Lease{Origin: mail.Origin{Results: all}}
	for n, results := range []string{own, "", own, ""} {
		l.Envelope.Recipients = append(l.Envelope.Recipients, mail.Recipient{Address: address(t, fmt.Sprintf("r%d@home.example", n)), Verdict: "unproven; x", Results: results})
		l.Deliveries = append(l.Deliveries, store.Delivery{N: n})
	}
	parts := byVerdict(l)
	if len(parts) != 2 || len(parts[0].Deliveries) != 2 || parts[0].Deliveries[1].N != 2 || parts[1].Deliveries[1].N != 3 {
		t.Fatalf("got %+v", parts)
	}
	for n, want := range []string{all + own, all} {
		if got := string(tags(l.Envelope.Recipients[n], l.Origin)); got != "X-Mail-Trust: unproven; x\r\n"+want {
			t.Errorf("got %q", got)
		}
	}
}
