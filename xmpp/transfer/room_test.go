package transfer

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"mailxmppd/mail"
	"mailxmppd/xmpp/stream"
	"mailxmppd/xmpp/wire"
)

// askWithin hands a request to the server over a link that takes answers of
// room octets, and returns the answer and its error.
func (x *setup) askWithin(t *testing.T, room int, payload string) (got string, octets int) {
	t.Helper()
	r := x.server.HandleBound(t.Context(), montague, &stream.IQ{Type: "set", Payload: parse(t, payload), Room: room})
	if r.Error == nil {
		return parse(t, string(r.Payload)).Name.Local, len(r.Payload)
	}
	_, err := readReply(r)
	f := fromStanzaError("montague.example", err.(*stream.StanzaError))
	return "error " + f.Condition + " " + f.Status(), 0
}

func many(format string, n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "<rcpt to='"+format+"@montague.example'/>", i)
	}
	return b.String()
}

// TestAnswersThatWouldNotFit: what cannot be answered within the peer's stanzas
// is refused for now, as a whole, before anything is taken; what was accepted
// is always told.
func TestAnswersThatWouldNotFit(t *testing.T) {
	const tooMany = "error resource-constraint 4.5.3"
	for _, c := range []struct {
		rcpts, room int
		want        string
	}{
		{1, 9800, "accepted"}, {40, 9800, "accepted"}, {200, 9800, tooMany}, {200, 0, "accepted"}, {200, 100_000, "accepted"}, {1, 1, tooMany},
	} {
		x := newSetup()
		got, octets := x.askWithin(t, c.room, offerXML(text(500), true, nil, many("user%d", c.rcpts)))
		if got != c.want || c.room > 0 && octets > c.room {
			t.Errorf("%d recipients, room %d: %s in %d octets, want %s", c.rcpts, c.room, got, octets, c.want)
		}
		if stored := len(x.store.all()) == 1; stored != (c.want == "accepted") {
			t.Errorf("%d recipients, room %d: stored: %v", c.rcpts, c.room, stored)
		}
		x = newSetup()
		want := strings.Replace(c.want, "accepted", "ready", 1)
		if got, _ := x.askWithin(t, c.room, offerXML(text(500), false, nil, many("user%d", c.rcpts))); got != want {
			t.Errorf("%d recipients, room %d: %s, want %s", c.rcpts, c.room, got, want)
		}
	}
}

// TestCommitWhoseAnswerWouldNotFit: the stream of the commit need not be that of
// the offer. The transfer stays open for one that takes the answer.
func TestCommitWhoseAnswerWouldNotFit(t *testing.T) {
	x := newSetup()
	content := text(500)
	x.ask(t, montague, "set", offerXML(content, false, nil, many("user%d", 200)))
	x.ask(t, montague, "set", chunkXML(tid1, 0, content))
	if got, _ := x.askWithin(t, 9800, named("commit", tid1)); got != "error resource-constraint 4.5.3" || len(x.store.all()) != 0 {
		t.Errorf("%s, %d stored", got, len(x.store.all()))
	}
	if got, _ := x.askWithin(t, 100_000, named("commit", tid1)); got != "accepted" {
		t.Error(got)
	}
	x.storedOnce(t, content)
}

// TestTextsMakeRoom: failures go without their texts rather than not at all,
// and the longest answer is as long as any then.
func TestTextsMakeRoom(t *testing.T) {
	full := &answer{kind: ready, tid: tid1, next: 1 << 40, chunk: 1 << 20, window: 100}
	var rcpts []rcpt
	for i, row := range mail.Failures() {
		f := mail.Fail(row.Kind, strings.Repeat("very long ", 20), nil)
		f.RetryAfter = 1 << 40
		to := fmt.Sprintf("user%d&amp@montague.example", i)
		full.rcpts = append(full.rcpts, verdict{to: to, failure: f}, verdict{to: to, queueID: string(mail.NewID())})
		rcpts = append(rcpts, rcpt{to: to}, rcpt{to: to})
	}
	whole, err := full.encodeWithin(0)
	if err != nil {
		t.Fatal(err)
	}
	if same, err := full.encodeWithin(len(whole)); err != nil || string(same) != string(whole) {
		t.Errorf("changed though there was room: %v", err)
	}
	short, err := full.encodeWithin(len(whole) - 1)
	if err != nil || len(short) >= len(whole) || strings.Contains(string(short), "<text") {
		t.Errorf("%d octets after %d, %v", len(short), len(whole), err)
	}
	longest, err := longestAnswer(tid1, rcpts).encode()
	if err != nil || len(longest) < len(short) {
		t.Errorf("longest answer has %d octets, this one %d; %v", len(longest), len(short), err)
	}
	a, err := decodeAnswer("montague.example", tid1, parse(t, string(short)))
	if err != nil {
		t.Fatal(err)
	}
	for i, v := range a.rcpts {
		if was := full.rcpts[i]; v.queueID != was.queueID || (v.failure == nil) != (was.failure == nil) ||
			v.failure != nil && v.failure.Status() != was.failure.Status() {
			t.Errorf("%d: %+v became %+v", i, was, v)
		}
	}
}

// narrow is a link whose peer takes answers of room octets.
type narrow struct {
	*fakeLink
	room int
}

func (l *narrow) Request(ctx context.Context, typ string, payload []byte) (*wire.Element, error) {
	el, err := parseElement(payload)
	if err != nil {
		return nil, err
	}
	return readReply(l.server.HandleBound(ctx, montague, &stream.IQ{Type: typ, Payload: el, Room: l.room}))
}

// TestFewerRecipientsAtOnce: the sender comes again with as many as can be
// answered.
func TestFewerRecipientsAtOnce(t *testing.T) {
	for _, size := range []int{500, 200_000} {
		x := newSetup()
		x.links.link = &narrow{x.link, 9800}
		var to []string
		for i := range 200 {
			to = append(to, fmt.Sprint("user", i))
		}
		expect(t, x.deliver(t, message(size, to...)), strings.TrimSpace(strings.Repeat("ok ", 200)))
		taken := 0
		for _, m := range x.store.all() {
			taken += len(m.message.Envelope.Recipients)
		}
		if taken != 200 {
			t.Errorf("%d octets: taken for %d recipients", size, taken)
		}
	}
}

// TestQuestionsInParts: the answers to check and status have to fit as well, and
// are asked for in parts where they do not.
func TestQuestionsInParts(t *testing.T) {
	x := newSetup()
	x.links.link = &narrow{x.link, 9800}
	var to []string
	for i := range 200 {
		to = append(to, fmt.Sprint("user", i))
	}
	a := message(500, append(to, "nobody")...)
	failures, err := x.sender.Check(t.Context(), a.Local, a.Domain, a.Envelope.Sender, false, a.Envelope.Recipients)
	if err != nil || len(failures) != 201 || failures[0] != nil || failures[200] == nil {
		t.Errorf("check: %v, %v", failures, err)
	}
	out := x.deliver(t, a)
	a.InDoubt = true
	again := x.deliver(t, a)
	for i := range out {
		if out[i].RemoteID != again[i].RemoteID || (out[i].Failure == nil) != (again[i].Failure == nil) {
			t.Fatalf("recipient %d: %+v became %+v", i, out[i], again[i])
		}
	}
	for _, payload := range []string{
		"<check xmlns='" + Namespace + "' sender=''>" + many("user%d", 200) + "</check>",
		"<status xmlns='" + Namespace + "' tid='" + tid1 + "'>" + many("user%d", 200) + "</status>",
	} {
		r := x.server.HandleBound(t.Context(), montague, &stream.IQ{Type: "get", Payload: parse(t, payload), Room: 9800})
		if r.Error == nil || r.Error.Condition != "resource-constraint" {
			t.Errorf("%+v", r)
		}
	}
}

// TestRequireTLSOverAComponent: it does not leave over one, whatever the peer
// lists, and is not taken over one.
func TestRequireTLSOverAComponent(t *testing.T) {
	x := newSetup()
	x.links.caps.Extensions = append(x.links.caps.Extensions, ExtRequireTLS)
	a := message(500, "romeo")
	a.Envelope.RequireTLS = true
	x.links.link = &proven{x.link, "component"}
	if out := x.deliver(t, a); out[0].Failure == nil || out[0].Failure.Kind != mail.TLSRequired {
		t.Errorf("%+v", out[0])
	}
	a.Envelope.RequireTLS = false
	if out := x.deliver(t, a); !out[0].Delivered() {
		t.Errorf("without it: %v", out[0].Failure)
	}
}

type proven struct {
	*fakeLink
	proof string
}

func (l *proven) Binding() mail.Binding {
	b := l.fakeLink.Binding()
	b.Proof = l.proof
	return b
}
