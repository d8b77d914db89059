package gateway

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// TestDSNRules: what RFC 3461 and RFC 3464 say of a report, rule by rule.
func TestDSNRules(t *testing.T) {
	smtp := mail.FromReply("mx.far.example", 550, "5.1.1", "no such user")
	later := mail.FromReply("mx.far.example", 451, "4.7.1", "later")
	stanza := mail.FromStanza("far.example", "forbidden", "5.7.1", "not you", false, 0)
	const body = "the body of the message"
	content := strings.Replace(sample, "body", body, 1)
	for _, c := range []struct {
		rule   string
		change func(n *notice)
		want   []string
		not    []string
	}{
		{"RFC 3461 section 4.3: RET=FULL returns the message with a failure", func(n *notice) { n.lease.Envelope.Return = "FULL" },
			[]string{"Content-Type: message/rfc822\r\n", body}, nil},
		{"RFC 3461 section 4.3: RET=HDRS returns the header", func(n *notice) { n.lease.Envelope.Return = "HDRS" },
			[]string{"Content-Type: text/rfc822-headers\r\n", "Subject: s\r\n"}, []string{body}},
		{"RFC 3461 section 4.3: RET is about failures only", func(n *notice) { n.lease.Envelope.Return = "FULL"; delayedBy(n, later) },
			[]string{"Content-Type: text/rfc822-headers\r\n"}, []string{body}},
		{"RFC 3461 section 4.3: nor does a report of success return the message", func(n *notice) { n.lease.Envelope.Return = "FULL"; succeeded(n, "delivered") },
			[]string{"Action: delivered\r\nStatus: 2.0.0\r\n"}, []string{body, "Diagnostic-Code"}},
		{"RFC 3461 section 6.2: to the reverse-path as it is, VERP and all", func(n *notice) {
			n.lease.Envelope.Sender = mail.Address{Local: "List+Bounces-x=FAR.example", Domain: "lists.example"}
		}, []string{"To: List+Bounces-x=FAR.example@lists.example\r\n"}, nil},
		{"RFC 3464 section 2.2.1: ENVID comes back", func(n *notice) { n.lease.Envelope.EnvelopeID = "QQ+314159" },
			[]string{"\r\nOriginal-Envelope-Id: QQ+314159\r\n"}, nil},
		{"RFC 3464 section 2.2.1: and only if it was given", nil, nil, []string{"Original-Envelope-Id"}},
		{"RFC 3464 section 2.2.2: who reports", nil, []string{"\r\nReporting-MTA: dns; gw.home.example\r\n"}, nil},
		{"RFC 3464 section 2.2.5: when it arrived", func(n *notice) {
			n.lease.Origin.Received = time.Date(2026, 11, 23, 6, 0, 0, 0, time.UTC)
		}, []string{"Arrival-Date: Mon, 23 Nov 2026 06:00:00 +0000\r\n"}, nil},
		{"RFC 3464 section 2.3.1: ORCPT comes back, type and all", func(n *notice) { n.reports[0].recipient.Original = "rfc822;Alias+x@home.example" },
			[]string{"Original-Recipient: rfc822;Alias+x@home.example\r\nFinal-Recipient: rfc822; x@far.example\r\n"}, nil},
		{"RFC 3464 section 2.3.1: and is not made up", nil, nil, []string{"Original-Recipient"}},
		{"RFC 3464 section 2.3.3: failed, with the next hop's status", nil, []string{"Action: failed\r\nStatus: 5.1.1\r\n"}, []string{"Will-Retry-Until"}},
		{"RFC 3464 section 2.3.3: delayed, with when it ends", func(n *notice) { delayedBy(n, later) },
			[]string{"Action: delayed\r\nStatus: 4.7.1\r\n", "Will-Retry-Until: "}, nil},
		{"RFC 3464 section 2.3.3: relayed", func(n *notice) { succeeded(n, "relayed") }, []string{"Action: relayed\r\nStatus: 2.0.0\r\n"}, nil},
		{"RFC 3464 section 2.3.5: who refused", nil, []string{"Remote-MTA: dns; mx.far.example\r\n"}, nil},
		{"RFC 3464 section 2.3.6: SMTP's words", nil, []string{"Diagnostic-Code: smtp; 550 5.1.1 no such user\r\n"}, nil},
		{"RFC 3464 section 2.3.6: XMPP's words", func(n *notice) { n.way = toPeer; n.reports[0].result.Outcome.Failure = stanza },
			[]string{"Remote-MTA: dns; far.example\r\nDiagnostic-Code: xmpp; forbidden (not you)\r\n", "Status: 5.7.1\r\n"}, nil},
		{"RFC 3464 section 2.3.6: our own words have a type of ours", func(n *notice) { n.reports[0].result.Outcome.Failure = mail.Fail(mail.Expired, "", nil) },
			[]string{"Diagnostic-Code: X-mailxmppd; expired ("}, []string{"Remote-MTA"}},
		{"in doubt, said so", func(n *notice) { n.reports[0].delivery.InDoubt = true }, []string{"may have been\r\n    delivered all the same."}, nil},
		{"RFC 6522 section 3: one group of fields for each recipient", func(n *notice) {
			n.lease.Envelope.Recipients = append(n.lease.Envelope.Recipients, mail.Recipient{Address: mail.Address{Local: "y", Domain: "far.example"}})
			r := n.reports[0]
			r.recipient = n.lease.Envelope.Recipients[1]
			n.reports = append(n.reports, r)
		}, []string{"Final-Recipient: rfc822; x@far.example\r\n", "\r\n\r\nFinal-Recipient: rfc822; y@far.example\r\n"}, nil},
	} {
		t.Run(c.rule, func(t *testing.T) {
			g, err := New(Config{Hostname: "gw.home.example", Domains: []Domain{{Name: "home.example"}}, Lifetime: time.Hour})
			if err != nil {
				t.Fatal(err)
			}
			n := failedNotice(content, smtp, toLegacy)
			if c.change != nil {
				c.change(&n)
			}
			m, err := g.dsn(n)
			if err != nil {
				t.Fatal(err)
			}
			dsnParts(t, m) // is well formed
			text := contentOf(t, m.Content)
			for _, want := range c.want {
				if !strings.Contains(text, want) {
					t.Errorf("lacks %q:\n%s", want, text)
				}
			}
			for _, not := range c.not {
				if strings.Contains(text, not) {
					t.Errorf("has %q:\n%s", not, text)
				}
			}
			// RFC 3461 section 6.1: null reverse-path, and nobody reports on a report.
			env := m.Envelope
			if !env.Sender.IsNull() || len(env.Recipients) != 1 || env.Recipients[0].Notify != mail.NotifyNever ||
				env.Recipients[0].Address != n.lease.Envelope.Sender || env.Return != "" || env.EnvelopeID != "" || env.DeliverBy != nil {
				t.Errorf("envelope %+v", env)
			}
		})
	}
}

func delayedBy(n *notice, f *mail.Failure) {
	n.action = "delayed"
	n.reports[0].result = store.Result{State: store.Deferred, Delayed: true, Outcome: mail.Outcome{Failure: f}}
	n.reports[0].delivery.Left = time.Hour
}

func succeeded(n *notice, action string) {
	n.action = action
	n.reports[0].result = store.Result{State: store.Delivered, Outcome: mail.Outcome{Remote: "mx.far.example", Text: "taken"}}
}

// TestNotify: which events are reported, by NOTIFY (RFC 3461 section 4.1).
func TestNotify(t *testing.T) {
	g, err := New(Config{Hostname: "gw.home.example", Domains: []Domain{{Name: "home.example"}}, Lifetime: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	refused := mail.Outcome{Failure: mail.FromReply("mx.far.example", 550, "5.1.1", "no")}
	for _, c := range []struct {
		notify mail.Notify
		want   string // of failed, delayed, delivered
	}{
		{0, "failed delayed"},
		{mail.NotifyNever, ""},
		{mail.NotifyFailure, "failed"},
		{mail.NotifyDelay, "delayed"},
		{mail.NotifySuccess, "delivered"},
		{mail.NotifySuccess | mail.NotifyFailure | mail.NotifyDelay, "failed delayed delivered"},
	} {
		for _, sender := range []mail.Address{{Local: "romeo", Domain: "home.example"}, {}} {
			l := failedNotice(sample, refused.Failure, toLegacy).lease
			l.Envelope.Sender = sender
			l.Envelope.Recipients[0].Notify = c.notify
			l.Deliveries = []store.Delivery{{}}
			l.Age = time.Hour
			var got []string
			for _, e := range []struct {
				event  string
				result store.Result
			}{
				{"failed", store.Result{State: store.Bounced, Outcome: refused}},
				{"delayed", store.Result{State: store.Deferred, Delayed: g.tellsDelay(l, l.Deliveries[0]), Outcome: refused}},
				{"delivered", store.Result{State: store.Delivered, Outcome: mail.Outcome{Final: true}}},
			} {
				s := g.withDSNs(store.Settlement{Lease: l, Results: []store.Result{e.result}}, mail.Bytes(sample), toLegacy)
				if len(s.DSNs) > 0 {
					got = append(got, e.event)
				}
				closeDSNs(s)
			}
			want := c.want
			if sender.IsNull() { // RFC 5321 section 6.1
				want = ""
			}
			if strings.Join(got, " ") != want {
				t.Errorf("NOTIFY=%v for <%s>: %v, want %s", c.notify.Names(), sender, got, want)
			}
		}
	}
}

// TestDSNToPeer: a report for a peer's sender goes to the peer, in the name of the
// recipient's domain.
func TestDSNToPeer(t *testing.T) {
	w := newWorld(t, nil)
	w.local.set(func(n *next) {
		n.answer = func(mail.Attempt) []mail.Outcome { return []mail.Outcome{refuse(mail.NoSuchMailbox)} }
	})
	m := w.message(sample, "Tybalt+x=y@peer.example", "nobody@second.example")
	w.Gateway.Accept(t.Context(), store.TransferKey{Domain: "peer.example", Local: "second.example", ID: "x"},
		store.ContentHash{Size: m.Facts.Size, SHA256: m.Facts.SHA256}, mail.Binding{Local: "second.example", Remote: "peer.example"}, m)
	w.waitState("Tybalt+x=y@peer.example", store.Delivered)
	dsn := w.peer.deliveries()[0]
	if a := dsn.attempt; !a.Envelope.Sender.IsNull() || a.Local != "second.example" || a.Envelope.Recipients[0].Address.Local != "Tybalt+x=y" {
		t.Errorf("attempt in the name of %s from <%s> to %v", a.Local, a.Envelope.Sender, a.Envelope.Recipients)
	}
}

// lostAnswer is a store that settles, and then says once that it has not.
type lostAnswer struct {
	*faulty
	lost chan struct{}
}

func (s lostAnswer) Settle(ctx context.Context, set store.Settlement) error {
	err := s.faulty.Settle(ctx, set)
	if _, ok := <-s.lost; ok {
		return errors.Join(err, errors.New("connection lost"))
	}
	return err
}

// TestOneDSN: a settlement that is durable although its answer was lost has
// queued its DSN, and the next try queues no second one.
func TestOneDSN(t *testing.T) {
	lost := make(chan struct{}, 1)
	lost <- struct{}{}
	close(lost)
	w := newWorld(t, func(c *Config) { c.Store = lostAnswer{c.Store.(*faulty), lost} })
	w.legacy.set(func(n *next) {
		n.answer = func(mail.Attempt) []mail.Outcome { return []mail.Outcome{refuse(mail.NoSuchMailbox)} }
	})
	w.send(w.message(sample, "romeo@home.example", "x@far.example"), false)
	w.waitState("x@far.example", store.Bounced)
	w.waitState("romeo@home.example", store.Delivered)
	until(t, "a second try to settle", func() (twice bool) {
		w.faulty.order(func(f *faulty) { twice = f.settled >= 3 }) // the DSN's own is one
		return twice
	})
	until(t, "its end", func() bool { w.sched.mu.Lock(); defer w.sched.mu.Unlock(); return w.sched.slots == 0 })
	list, err := w.store.List(t.Context(), store.Filter{Closed: true})
	if err != nil || len(list) != 2 {
		t.Errorf("%+v, %v; want the message and one DSN", list, err)
	}
}
