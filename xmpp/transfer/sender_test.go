package transfer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"mailxmppd/mail"
	"mailxmppd/xmpp/stream"
)

func (x *setup) deliver(t *testing.T, a mail.Attempt) []mail.Outcome {
	t.Helper()
	out := x.sender.Deliver(context.Background(), a)
	if len(out) != len(a.Envelope.Recipients) {
		t.Fatalf("%d outcomes for %d recipients", len(out), len(a.Envelope.Recipients))
	}
	return out
}

// statuses sums outcomes up as "ok", or class, status and kind.
func statuses(out []mail.Outcome) string {
	var s []string
	for _, o := range out {
		if o.Delivered() {
			s = append(s, "ok")
			continue
		}
		s = append(s, fmt.Sprintf("%s/%s", o.Failure.Kind, o.Failure.Status()))
	}
	return strings.Join(s, " ")
}

func expect(t *testing.T, out []mail.Outcome, want string) {
	t.Helper()
	if got := statuses(out); got != want {
		t.Fatalf("outcomes %s, want %s (first: %+v)", got, want, out[0].Failure)
	}
}

func TestDeliverContent(t *testing.T) {
	for _, size := range []int{0, 1, 2, 3, 56, 6000, 65536, 65537, 131072, 131073, 300001, 5 << 20} {
		for _, setting := range []string{"default", "small", "least"} {
			if setting != "default" && size > 400000 {
				continue
			}
			t.Run(fmt.Sprintf("%s %d", setting, size), func(t *testing.T) {
				x := newSetup()
				switch setting {
				case "small":
					x.links.caps.MaxChunk, x.links.caps.Window = 10000, 3
				case "least": // XEP-0478's least limit and a peer that announces nothing
					x.links.caps = Unstated()
					x.link.maxStanza = 10000
				}
				a := message(size, "romeo", "benvolio")
				out := x.deliver(t, a)
				expect(t, out, "ok ok")
				got := x.store.all()
				if len(got) != 1 || !bytes.Equal(got[0].content, text(size)) {
					t.Fatalf("content did not arrive octet for octet: %d messages", len(got))
				}
				m := got[0].message
				if !bytes.Equal(m.Trace, a.Trace) || m.Facts != a.Facts || len(m.Envelope.Recipients) != 2 {
					t.Errorf("message changed: trace %q, facts %+v", m.Trace, m.Facts)
				}
				o := out[0]
				if o.Remote != "montague.example" || o.RemoteID != string(m.ID) || o.Proof != "pkix" || o.TLS != "TLS1.3 X" || o.Text == "" {
					t.Errorf("outcome lacks something: %+v", o)
				}
				inline := size <= x.links.caps.MaxInline
				if chunks := x.link.count("chunk"); inline && chunks > 0 || !inline && size > 0 && chunks == 0 {
					t.Errorf("%d chunks for %d octets", chunks, size)
				}
				if x.link.mostIn > x.links.caps.Window {
					t.Errorf("%d requests in flight, window %d", x.link.mostIn, x.links.caps.Window)
				}
			})
		}
	}
}

func TestDeliverEnvelope(t *testing.T) {
	x := newSetup()
	a := message(100, "romeo")
	priority := -4
	a.Envelope = mail.Envelope{
		Sender: mail.Address{Local: `jul"iet ü`, Domain: "capulet.example"}, Body: mail.Body8BitMIME, SMTPUTF8: true,
		Return: "HDRS", EnvelopeID: "QQ<314>&'159", Priority: &priority,
		DeliverBy: &mail.DeliverBy{Deadline: time.Now().Add(time.Hour), Mode: 'R', Trace: true},
		Recipients: []mail.Recipient{{
			Address: mail.Address{Local: "ro meo", Domain: "montague.example"},
			Notify:  mail.NotifySuccess | mail.NotifyDelay, Original: "rfc822;ro meo@montague.example",
		}, {Address: mail.Address{Local: "b", Domain: "montague.example"}, Notify: mail.NotifyNever}},
	}
	expect(t, x.deliver(t, a), "ok ok")
	got := x.store.all()[0].message.Envelope
	if left := time.Until(got.DeliverBy.Deadline); left < 59*time.Minute || left > 61*time.Minute {
		t.Errorf("deadline moved: %v left", left)
	}
	got.DeliverBy.Deadline = a.Envelope.DeliverBy.Deadline
	if want, is := asJSON(t, a.Envelope), asJSON(t, got); want != is {
		t.Errorf("envelope changed:\n%s\n%s", want, is)
	}
}

func asJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestVerdicts(t *testing.T) {
	for _, size := range []int{100, 200000} {
		for _, c := range []struct {
			to, want string
			stored   int
		}{
			{"romeo", "ok", 1},
			{"romeo nobody full", "ok no-such-mailbox/5.1.1 resource-constraint/4.2.2", 1},
			{"nobody full", "no-such-mailbox/5.1.1 resource-constraint/4.2.2", 0},
			{"late", "rejected/5.7.1", 0},
			{"nobody late romeo", "no-such-mailbox/5.1.1 rejected/5.7.1 ok", 1},
			{"romeo romeo nobody nobody", "ok ok no-such-mailbox/5.1.1 no-such-mailbox/5.1.1", 1},
		} {
			t.Run(fmt.Sprintf("%d %s", size, c.to), func(t *testing.T) {
				x := newSetup()
				out := x.deliver(t, message(size, strings.Fields(c.to)...))
				expect(t, out, c.want)
				if got := len(x.store.all()); got != c.stored {
					t.Errorf("%d messages stored, want %d", got, c.stored)
				}
				for _, o := range out {
					if o.Failure != nil && (o.Failure.Remote != "montague.example" || o.Remote != "montague.example") {
						t.Errorf("failure does not name the peer: %+v", o)
					}
					if o.Failure != nil && o.Failure.Kind == mail.ResourceShort && o.Failure.RetryAfter != time.Hour {
						t.Errorf("retry-after lost: %v", o.Failure.RetryAfter)
					}
				}
				x.store.mu.Lock()
				defer x.store.mu.Unlock()
				for k, tr := range x.store.known {
					if tr.open {
						t.Errorf("transfer %v left open", k)
					}
				}
			})
		}
	}
}

func TestDuplicatesAreAnsweredFromMemory(t *testing.T) {
	for _, size := range []int{100, 200000} {
		x := newSetup()
		first := x.deliver(t, message(size, "romeo"))
		checked := x.gateway.checked
		again := x.deliver(t, message(size, "romeo"))
		if first[0].RemoteID == "" || first[0].RemoteID != again[0].RemoteID || len(x.store.all()) != 1 {
			t.Errorf("twin: %v, %v, %d stored", first, again, len(x.store.all()))
		}
		if x.gateway.checked != checked || x.gateway.accepted != 1 {
			t.Errorf("an acceptance was judged again")
		}
		// Regrouped: one known, one new, one refused and judged anew.
		out := x.deliver(t, message(size, "nobody", "romeo", "benvolio"))
		expect(t, out, "no-such-mailbox/5.1.1 ok ok")
		if out[1].RemoteID != first[0].RemoteID || out[2].RemoteID == first[0].RemoteID {
			t.Errorf("queue ids %q %q, first %q", out[1].RemoteID, out[2].RemoteID, first[0].RemoteID)
		}
		if got := x.store.all(); len(got) != 2 || len(got[1].message.Envelope.Recipients) != 1 {
			t.Errorf("regrouped message stored with %+v", got[1].message.Envelope.Recipients)
		}
	}
}

func TestConflict(t *testing.T) {
	x := newSetup()
	a, b := message(100, "romeo"), message(200000, "romeo")
	b.Transfer = a.Transfer
	expect(t, x.deliver(t, a), "ok")
	expect(t, x.deliver(t, b), "conflict/4.5.0")
}

func TestSenderRefusesWithoutDialling(t *testing.T) {
	foreign := message(100, "romeo")
	foreign.Envelope.Sender.Domain = "verona.example"
	relayed := message(100, "romeo", "x")
	relayed.Envelope.Recipients[1].Address.Domain = "verona.example"
	late := message(100, "romeo")
	late.Envelope.DeliverBy = &mail.DeliverBy{Deadline: time.Now().Add(-time.Minute), Mode: 'R'}
	for _, c := range []struct {
		a    mail.Attempt
		want string
	}{
		{foreign, "not-permitted/5.7.1"},
		{relayed, "not-permitted/5.7.1 not-permitted/5.7.1"},
		{late, "expired/5.4.7"},
	} {
		x := newSetup()
		x.links.err = errors.New("must not be asked")
		expect(t, x.deliver(t, c.a), c.want)
	}
	null := message(100, "romeo")
	null.Envelope.Sender = mail.Address{}
	expect(t, newSetup().deliver(t, null), "ok")
}

func TestSenderHonoursCapabilities(t *testing.T) {
	utf8 := message(100, "röm")
	utf8.Envelope.SMTPUTF8 = true
	binary := message(100, "romeo")
	binary.Envelope.Body = mail.BodyBinaryMIME
	tls := message(100, "romeo")
	tls.Envelope.RequireTLS = true
	by := message(100, "romeo")
	by.Envelope.DeliverBy = &mail.DeliverBy{Deadline: time.Now().Add(time.Hour), Mode: 'R'}
	big := message(20000, "romeo")
	for _, c := range []struct {
		name, want string
		a          mail.Attempt
		caps       func(*Capabilities)
	}{
		{"smtputf8", "not-acceptable/5.6.7", utf8, func(c *Capabilities) { c.Extensions = nil }},
		{"binary", "no-conversion/5.6.3", binary, func(c *Capabilities) { c.Extensions = nil }},
		{"requiretls", "tls-required/5.7.30", tls, func(c *Capabilities) { c.Extensions = nil }},
		{"deliverby R", "rejected/5.0.0", by, func(c *Capabilities) { c.Extensions = nil }},
		{"size", "too-large/5.3.4", big, func(c *Capabilities) { c.MaxMessage = 19999 }},
		{"size fits", "ok", big, func(c *Capabilities) { c.MaxMessage = 20000 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := newSetup()
			c.caps(&x.links.caps)
			expect(t, x.deliver(t, c.a), c.want)
			if c.want != "ok" && x.link.n > 0 {
				t.Errorf("peer was asked: %v", x.link.names)
			}
		})
	}
	t.Run("dsn left out", func(t *testing.T) {
		x := newSetup()
		x.links.caps.Extensions = nil
		a := message(100, "romeo")
		n := 3
		a.Envelope.Return, a.Envelope.EnvelopeID, a.Envelope.Priority = "FULL", "x", &n
		a.Envelope.Recipients[0].Notify = mail.NotifyNever
		expect(t, x.deliver(t, a), "ok")
		env := x.store.all()[0].message.Envelope
		if env.Return != "" || env.EnvelopeID != "" || env.Priority != nil || env.Recipients[0].Notify != 0 {
			t.Errorf("sent what the peer does not know: %+v", env)
		}
	})
	t.Run("recipients in batches", func(t *testing.T) {
		x := newSetup()
		x.links.caps.MaxRecipients = 2
		expect(t, x.deliver(t, message(100, "a", "b", "c", "a", "nobody")), "ok ok ok ok no-such-mailbox/5.1.1")
		if n := x.link.count("offer"); n != 2 {
			t.Errorf("%d offers for 4 distinct recipients, 2 at a time", n)
		}
	})
	t.Run("recipients beyond a stanza", func(t *testing.T) {
		x := newSetup()
		x.link.maxStanza = 10000
		var to []string
		for i := range 300 {
			to = append(to, fmt.Sprintf("recipient-number-%d", i))
		}
		out := x.deliver(t, message(100, to...))
		if slices.ContainsFunc(out, func(o mail.Outcome) bool { return !o.Delivered() }) {
			t.Errorf("not all delivered: %s", statuses(out))
		}
		if n := x.link.count("offer"); n < 2 {
			t.Errorf("%d offers of at most 10,000 octets for 300 recipients", n)
		}
	})
}

func TestLostConnections(t *testing.T) {
	on := func(name string, err error) func(int, string) error {
		return func(_ int, got string) error {
			if got == name {
				return err
			}
			return nil
		}
	}
	for _, c := range []struct {
		name   string
		size   int
		before func(int, string) error
		after  func(int, string) error
		want   string
		stored int
	}{
		{"inline offer never left", 100, on("offer", stream.ErrNotSent), nil, "unreachable/4.4.1", 0},
		{"inline offer lost", 100, on("offer", stream.ErrClosed), nil, "in-doubt/4.4.2", 0},
		{"inline answer lost", 100, nil, on("offer", stream.ErrClosed), "in-doubt/4.4.2", 1},
		{"inline answer late", 100, nil, on("offer", stream.ErrTimeout), "in-doubt/4.4.2", 1},
		{"inline given up", 100, nil, on("offer", context.DeadlineExceeded), "in-doubt/4.4.2", 1},
		{"offer lost", 300000, nil, on("offer", stream.ErrClosed), "unreachable/4.4.1", 0},
		{"chunk lost", 300000, on("chunk", stream.ErrClosed), nil, "unreachable/4.4.1", 0},
		{"chunk's answer lost", 300000, nil, on("chunk", stream.ErrClosed), "unreachable/4.4.1", 0},
		{"commit never left", 300000, on("commit", stream.ErrNotSent), nil, "unreachable/4.4.1", 0},
		{"commit lost", 300000, on("commit", stream.ErrClosed), nil, "in-doubt/4.4.2", 0},
		{"commit's answer lost", 300000, nil, on("commit", stream.ErrClosed), "in-doubt/4.4.2", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := newSetup()
			x.link.before, x.link.after = c.before, c.after
			x.links.most = 1 // and the peer is gone
			a := message(c.size, "romeo", "nobody")
			out := x.deliver(t, a)
			expect(t, out, c.want+" "+c.want)
			if got := len(x.store.all()); got != c.stored {
				t.Fatalf("%d stored, want %d", got, c.stored)
			}
			// The next attempt, on a new link, settles it, without a twin.
			x.link = newFakeLink(x.server)
			x.links.link, x.links.most = x.link, 0
			a.InDoubt = out[0].Failure.Class == mail.InDoubt
			expect(t, x.deliver(t, a), "ok no-such-mailbox/5.1.1")
			got := x.store.all()
			if len(got) != 1 || !bytes.Equal(got[0].content, text(c.size)) {
				t.Errorf("%d messages stored, or content changed", len(got))
			}
			if a.InDoubt && x.link.names[0] != "status" {
				t.Errorf("in doubt, and asked %v", x.link.names)
			}
		})
	}
}

func TestDoubtThatStays(t *testing.T) {
	a := message(100, "romeo")
	a.InDoubt = true
	x := newSetup()
	x.links.err = errors.New("no route")
	expect(t, x.deliver(t, a), "in-doubt/4.4.2")
	x = newSetup()
	x.link.before = func(int, string) error { return stream.ErrNotSent }
	expect(t, x.deliver(t, a), "in-doubt/4.4.2")
	if len(x.store.all()) != 0 || x.link.n != 1 {
		t.Errorf("offered in spite of the doubt: %v", x.link.names)
	}
	// What was accepted is delivered even if it could not be offered now.
	x = newSetup()
	expect(t, x.deliver(t, message(100, "romeo")), "ok")
	x.links.caps.MaxMessage = 50
	both := message(100, "romeo", "benvolio")
	both.InDoubt = true
	expect(t, x.deliver(t, both), "ok too-large/5.3.4")
}

func TestResumeAfterCut(t *testing.T) {
	for cut := 1; cut <= 10; cut++ {
		for _, restart := range []bool{false, true} {
			x := newSetup()
			x.links.caps.MaxChunk = 60000
			x.links.caps.Window = 1
			x.link.before = func(n int, name string) error {
				if n > cut {
					return stream.ErrClosed
				}
				return nil
			}
			a := message(400000, "romeo")
			x.links.most = 1
			out := x.deliver(t, a)
			x.links.most = 0
			a.InDoubt = out[0].Failure != nil && out[0].Failure.Class == mail.InDoubt
			if restart { // the receiver, with what its store has
				x.server = NewServer(x.server.cfg)
			}
			x.link = newFakeLink(x.server)
			x.links.link = x.link
			expect(t, x.deliver(t, a), "ok")
			if got := x.store.all(); len(got) != 1 || !bytes.Equal(got[0].content, text(400000)) {
				t.Fatalf("cut after %d: %d stored, or content changed", cut, len(got))
			}
			if cut > 1 && cut < 8 {
				if n := x.link.count("chunk"); n != 7-(cut-1) {
					t.Errorf("cut after %d: %d chunks sent again, want %d", cut, n, 7-(cut-1))
				}
			}
		}
	}
}

func TestReceiverForgetsDuringTransfer(t *testing.T) {
	x := newSetup()
	x.link.before = func(n int, name string) error {
		if n == 3 {
			x.link.mu.Lock()
			x.link.server = NewServer(x.server.cfg) // started again, same store
			x.link.mu.Unlock()
		}
		return nil
	}
	expect(t, x.deliver(t, message(700000, "romeo")), "ok")
	if got := x.store.all(); len(got) != 1 || !bytes.Equal(got[0].content, text(700000)) {
		t.Fatalf("%d stored, or content changed", len(got))
	}
	if x.link.count("offer") != 2 {
		t.Errorf("requests %v", x.link.names)
	}
}

func TestDeliverEndsWithItsContext(t *testing.T) {
	for _, size := range []int{100, 300000} {
		x := newSetup()
		ctx, cancel := context.WithCancel(context.Background())
		x.link.before = func(_ int, name string) error {
			if size == 100 || name == "chunk" {
				cancel()
				return context.Canceled
			}
			return nil
		}
		out := x.sender.Deliver(ctx, message(size, "romeo"))
		want := "in-doubt/4.4.2"
		if size > 100 {
			want = "unreachable/4.4.1"
		}
		expect(t, out, want)
		cancel()
	}
}

// TestPeerWithoutMail: a domain that has stopped taking mail is discovered
// again.
func TestPeerWithoutMail(t *testing.T) {
	for condition, want := range map[string]string{
		"service-unavailable": "unavailable/4.3.2", "feature-not-implemented": "not-offered/4.3.2", "forbidden": "not-permitted/5.7.1",
	} {
		x := newSetup()
		x.link.before = func(int, string) error { return &stream.StanzaError{Condition: condition, Type: "cancel"} }
		expect(t, x.deliver(t, message(100, "romeo")), want)
		if forgotten := x.links.forgotten == 1; forgotten != (condition != "forbidden") {
			t.Errorf("%s: forgotten %v", condition, forgotten)
		}
	}
}

func TestUnreadableContent(t *testing.T) {
	for _, size := range []int{100, 300000} {
		x := newSetup()
		a := message(size, "romeo")
		a.Content = mail.Bytes(text(size)[:size-10]) // shorter than its facts
		out := x.deliver(t, a)
		expect(t, out, "internal/4.3.0")
		if len(x.store.all()) != 0 {
			t.Error("accepted")
		}
	}
}

func TestCheck(t *testing.T) {
	x := newSetup()
	rcpts := message(0, "romeo", "nobody", "full", "romeo").Envelope.Recipients
	sender := mail.Address{Local: "juliet", Domain: "capulet.example"}
	for _, most := range []int{1000, 1} {
		x.links.caps.MaxRecipients = most
		got, err := x.sender.Check(context.Background(), "capulet.example", "montague.example", sender, false, rcpts)
		if err != nil || len(got) != 4 || got[0] != nil || got[1].Kind != mail.NoSuchMailbox || got[2].Status() != "4.2.2" || got[3] != nil {
			t.Errorf("%v, %v", got, err)
		}
	}
	if _, err := x.sender.Check(context.Background(), "capulet.example", "montague.example", mail.Address{Local: "x", Domain: "verona.example"}, false, rcpts); mail.AsFailure(err).Kind != mail.NotPermitted {
		t.Errorf("foreign sender: %v", err)
	}
	x.link.before = func(int, string) error { return stream.ErrClosed }
	if _, err := x.sender.Check(context.Background(), "capulet.example", "montague.example", sender, false, rcpts); mail.AsFailure(err).Kind != mail.Unreachable {
		t.Errorf("lost link: %v", err)
	}
}
