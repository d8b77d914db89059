package transfer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"mailxmppd/mail"
	"mailxmppd/xmpp/stream"
)

// storedOnce checks that one message was accepted, with this content.
func (x *setup) storedOnce(t *testing.T, content []byte) {
	t.Helper()
	if got := x.store.all(); len(got) != 1 || !bytes.Equal(got[0].content, content) {
		t.Fatalf("%d messages stored, or content changed", len(got))
	}
}

// TestCutIsResumedInTheSameAttempt: each link dies after so many requests, and
// the next one goes on where the receiver stands.
func TestCutIsResumedInTheSameAttempt(t *testing.T) {
	for _, lives := range []int{2, 3, 5, 9} {
		t.Run(fmt.Sprint("a link lives for ", lives, " requests"), func(t *testing.T) {
			x := newSetup()
			x.links.caps.MaxChunk, x.links.caps.Window = 50_000, 1
			var links []*fakeLink
			shortLived := func(int) Link {
				l := newFakeLink(x.server)
				l.before = func(n int, _ string) error {
					if n > lives {
						return fmt.Errorf("%w: %w", stream.ErrNotSent, stream.ErrClosed)
					}
					return nil
				}
				links = append(links, l)
				return l
			}
			x.links.link, x.links.again = shortLived(1), shortLived
			a := message(500_000, "romeo")
			expect(t, x.deliver(t, a), "ok")
			x.storedOnce(t, text(500_000))
			chunks := 0
			for _, l := range links {
				chunks += l.count("chunk")
			}
			if most := 10 + len(links); chunks > most {
				t.Errorf("%d chunks over %d links for 10, want at most %d", chunks, len(links), most)
			}
			if x.server.Snapshot()[countResumed] == 0 {
				t.Error("nothing was resumed")
			}
		})
	}
}

// TestCutsWithoutProgressEnd: the sender does not go round for ever.
func TestCutsWithoutProgressEnd(t *testing.T) {
	x := newSetup()
	x.link.before = func(_ int, name string) error {
		if name == "chunk" {
			return stream.ErrClosed
		}
		return nil
	}
	expect(t, x.deliver(t, message(300_000, "romeo")), "unreachable/4.4.1")
	if n := x.link.count("offer"); n != maxRounds {
		t.Errorf("%d offers without progress, want %d", n, maxRounds)
	}
}

// TestAnotherNodeTakesTheTransferUp: the stream to one node is cut, the next
// one leads to another node of the same store, and a late chunk at the first
// changes nothing.
func TestAnotherNodeTakesTheTransferUp(t *testing.T) {
	x := newSetup()
	a, other := x.server, NewServer(x.server.cfg)
	content := text(1000)
	offer := offerXML(content, false, nil, "")
	want := func(s *Server, payload, want string) {
		t.Helper()
		x.server = s
		if got := x.ask(t, montague, "set", payload); got != want {
			t.Fatalf("got %q, want %q", got, want)
		}
	}
	want(a, offer, "ready 0 ok")
	want(a, chunkXML(tid1, 0, content[:400]), "next 400")
	want(other, offer, "ready 400 ok")
	want(a, chunkXML(tid1, 400, bytes.Repeat([]byte("x"), 600)), "unknown")
	want(other, chunkXML(tid1, 400, content[400:]), "next 1000")
	want(a, named("commit", tid1), "unknown")
	want(other, named("commit", tid1), "accepted id")
	want(a, offer, "accepted id") // from the memory that all nodes share
	x.storedOnce(t, content)
	if n := a.Snapshot()[countTakenOver]; n != 1 {
		t.Errorf("%d counted as taken over, want 1", n)
	}
}

// TestCommitOfAnotherNodesTransfer: what a node has seen whole may not be what
// the store holds by then.
func TestCommitOfAnotherNodesTransfer(t *testing.T) {
	x := newSetup()
	a, other := x.server, NewServer(x.server.cfg)
	content := text(100)
	offer := offerXML(content, false, nil, "")
	steps := []struct {
		at            *Server
		payload, want string
	}{
		{a, offer, "ready 0 ok"},
		{a, chunkXML(tid1, 0, content), "next 100"},
		{other, named("abort", tid1), "empty"},
		{other, offer, "ready 0 ok"},
		{other, chunkXML(tid1, 0, bytes.Repeat([]byte("\n"), 100)), "next 100"},
		{a, named("commit", tid1), "unknown"},
		{other, named("commit", tid1), "error bad-request 4.5.2"},
		{other, offer, "ready 0 ok"},
	}
	for i, s := range steps {
		x.server = s.at
		if got := x.ask(t, montague, "set", s.payload); got != s.want {
			t.Fatalf("step %d: got %q, want %q", i, got, s.want)
		}
	}
	if n := len(x.store.all()); n != 0 {
		t.Errorf("%d accepted", n)
	}
}

// bulkLinks has a second link for bulk.
type bulkLinks struct {
	*oneLink
	bulk *fakeLink
	err  error
}

func (b *bulkLinks) Bulk(context.Context, string, string) (Link, error) {
	if b.err != nil {
		return nil, b.err
	}
	return b.bulk, nil
}

func TestChunksGoOverTheBulkLink(t *testing.T) {
	for _, c := range []struct {
		name        string
		size        int
		err         error
		small, bulk int // requests on each link
	}{
		{"small mail", 100, nil, 1, 0},
		{"large mail", 300_000, nil, 0, 5},
		{"no second link to be had", 300_000, errors.New("none"), 5, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := newSetup()
			bulk := newFakeLink(x.server)
			x.sender = NewSender(SenderConfig{Links: &bulkLinks{x.links, bulk, c.err}})
			expect(t, x.deliver(t, message(c.size, "romeo")), "ok")
			x.storedOnce(t, text(c.size))
			if x.link.n != c.small || bulk.n != c.bulk {
				t.Errorf("%v and %v, want %d and %d requests", x.link.names, bulk.names, c.small, c.bulk)
			}
		})
	}
}

// TestDeadlineRunsDown: what is left of DELIVERBY is written with each offer.
func TestDeadlineRunsDown(t *testing.T) { synctest.Test(t, deadlineRunsDown) }

func deadlineRunsDown(t *testing.T) {
	x := newSetup()
	a := message(300_000, "romeo")
	a.Envelope.DeliverBy = &mail.DeliverBy{Deadline: time.Now().Add(1500 * time.Millisecond), Mode: 'R'}
	x.link.before = func(_ int, name string) error {
		if name == "chunk" {
			time.Sleep(600 * time.Millisecond)
			return stream.ErrClosed
		}
		return nil
	}
	expect(t, x.deliver(t, a), "expired/5.4.7")
	if n := x.link.count("offer"); n != 1 {
		t.Errorf("%d offers, the deadline was over after the first", n)
	}
}

// TestEnvelopeEndToEnd: everything that SMTP said beside the content arrives,
// inline and in chunks.
func TestEnvelopeEndToEnd(t *testing.T) {
	for _, size := range []int{100, 300_000} {
		x := newSetup(func(s *ServerConfig, _ *SenderConfig) {
			s.Capabilities.Extensions = append(s.Capabilities.Extensions, ExtRequireTLS)
		})
		a := message(size, "romeo", "nurse")
		priority := -4
		deadline := time.Now().Add(time.Hour)
		a.Envelope.Body, a.Envelope.SMTPUTF8, a.Envelope.RequireTLS = mail.Body8BitMIME, true, true
		a.Envelope.Return, a.Envelope.EnvelopeID, a.Envelope.Priority = "HDRS", "QQ 1", &priority
		a.Envelope.DeliverBy = &mail.DeliverBy{Deadline: deadline, Mode: 'N', Trace: true}
		a.Envelope.Recipients[0].Notify = mail.NotifySuccess | mail.NotifyDelay
		a.Envelope.Recipients[0].Original = "rfc822;r@x.example"
		a.Envelope.Recipients[1].Notify = mail.NotifyNever
		a.Facts.Received = 7
		expect(t, x.deliver(t, a), "ok ok")
		got := x.store.all()[0].message.Envelope
		by := got.DeliverBy
		if by == nil || by.Mode != 'N' || !by.Trace || by.Deadline.Sub(deadline).Abs() > 10*time.Second {
			t.Errorf("deliverby %+v, want %v", by, deadline)
		}
		if got.Sender != a.Envelope.Sender || got.Body != mail.Body8BitMIME || !got.SMTPUTF8 || !got.RequireTLS ||
			got.Return != "HDRS" || got.EnvelopeID != "QQ 1" || got.Priority == nil || *got.Priority != -4 {
			t.Errorf("envelope %+v", got)
		}
		for i, r := range got.Recipients {
			if r != a.Envelope.Recipients[i] {
				t.Errorf("recipient %+v, want %+v", r, a.Envelope.Recipients[i])
			}
		}
	}
}

// TestRequireTLSIsAPromise: a receiver that cannot keep it says so, and a
// sender does not ask it.
func TestRequireTLSIsAPromise(t *testing.T) {
	x := newSetup()
	if got := x.ask(t, montague, "set", offerXML(text(100), true, map[string]string{"requiretls": "true"}, "")); got != "error policy-violation 5.7.30" {
		t.Errorf("receiver without the promise: %s", got)
	}
	promises := newSetup(func(s *ServerConfig, _ *SenderConfig) {
		s.Capabilities.Extensions = append(s.Capabilities.Extensions, ExtRequireTLS)
	})
	overComponent := montague
	overComponent.Proof, overComponent.TLS = "component", ""
	for _, c := range []struct {
		from mail.Binding
		want string
	}{{montague, "accepted id"}, {overComponent, "error policy-violation 5.7.30"}} {
		payload := offerXML(text(100), true, map[string]string{"requiretls": "true"}, "")
		if got := promises.ask(t, c.from, "set", payload); got != c.want {
			t.Errorf("receiver with the promise, proof %s: %s, want %s", c.from.Proof, got, c.want)
		}
	}
	a := message(100, "romeo")
	a.Envelope.RequireTLS = true
	expect(t, x.deliver(t, a), "tls-required/5.7.30")
	if x.link.n != 0 {
		t.Errorf("asked %v", x.link.names)
	}
}

// TestRetryAfterReachesTheQueue: of one recipient and of a whole request, and
// never more than a day.
func TestRetryAfterReachesTheQueue(t *testing.T) {
	x := newSetup(func(s *ServerConfig, _ *SenderConfig) {
		s.NullPerMinute = 1
	})
	if got := x.deliver(t, message(100, "full"))[0].Failure.RetryAfter; got != time.Hour {
		t.Errorf("of a recipient: %v", got)
	}
	bounce := message(100, "romeo")
	bounce.Envelope.Sender = mail.Address{}
	expect(t, x.deliver(t, bounce), "ok")
	out := x.deliver(t, bounce)
	expect(t, out, "resource-constraint/4.7.1")
	if got := out[0].Failure.RetryAfter; got <= 0 || got > time.Minute {
		t.Errorf("of a request: %v", got)
	}
	x.link.before = func(int, string) error {
		return &stream.StanzaError{Condition: "resource-constraint", Type: "wait",
			Element: parse(t, "<error><failure xmlns='"+Namespace+"' enhanced='4.3.1' retry-after='99999999'/></error>")}
	}
	if got := x.deliver(t, message(100, "romeo"))[0].Failure.RetryAfter; got != 24*time.Hour {
		t.Errorf("without measure: %v", got)
	}
}

func TestHopsAreCountedBySender(t *testing.T) {
	x := newSetup()
	a := message(100, "romeo")
	a.Facts.Received = mail.MaxHops // and one in the trace
	expect(t, x.deliver(t, a), "loop/5.4.6")
	if x.link.n != 0 {
		t.Errorf("asked %v", x.link.names)
	}
}
