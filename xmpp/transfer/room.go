package transfer

import (
	"math"
	"time"

	"mailxmppd/mail"
)

// The answer to an offer or a commit may be all that tells the sender who has
// the message now, and a peer need not take stanzas beyond 10,000 octets (RFC
// 6120 section 13.12). So what cannot be answered is not accepted (xep-draft
// section 5), nor is a question about recipients.

// answerable refuses, for now, a request whose answer might not fit into the
// peer's stanzas. The peer may name fewer recipients at once.
func (r *request) answerable(tid string, rcpts []rcpt) *mail.Failure {
	if r.room == 0 || longestFor(rcpts) <= r.room {
		return nil
	}
	if payload, err := longestAnswer(tid, rcpts).encode(); err == nil && len(payload) <= r.room {
		return nil
	}
	return mail.Failf(mail.ResourceShort, "an answer for %d recipients might not fit into the stanzas that you take", len(rcpts)).WithStatus(tooManyAtOnce)
}

// longestFor bounds what longestAnswer comes to, without writing it: a message
// has few recipients mostly, and far more room.
func longestFor(rcpts []rcpt) int {
	const (
		tags    = 512 // of the answer and its attributes
		perRcpt = 512 // of a recipient's verdict, its address aside
		escaped = 6   // octets that one of an address becomes in XML at most
	)
	n := tags + perRcpt*len(rcpts)
	for i := range rcpts {
		n += escaped * len(rcpts[i].to)
	}
	return n
}

// longestAnswer is one that no answer to an offer or a commit exceeds once its
// texts are left out: a failure is longer than a queue-id.
func longestAnswer(tid string, rcpts []rcpt) *answer {
	longest := mail.Fail(mail.TooLarge, "", nil).WithStatus("5.999.999") // the one with an element inside
	for _, row := range mail.Failures() {
		if len(row.Condition) > len(longest.Condition) {
			longest.Condition = row.Condition
		}
	}
	longest.Text, longest.RetryAfter = "", math.MaxInt64-time.Second
	a := &answer{kind: ready, tid: tid, next: math.MaxInt64, chunk: math.MaxInt32, window: math.MaxInt32}
	for _, rc := range rcpts {
		a.rcpts = append(a.rcpts, verdict{to: rc.to, failure: longest})
	}
	return a
}

// encodeWithin is encode, without the failures' texts where it would be longer
// than room octets with them: they are for people, and may be missing.
func (a *answer) encodeWithin(room int) ([]byte, error) {
	payload, err := a.encode()
	if err != nil || room == 0 || len(payload) <= room {
		return payload, err
	}
	short := *a
	short.rcpts = make([]verdict, len(a.rcpts))
	for i, v := range a.rcpts {
		if v.failure != nil {
			f := *v.failure
			f.Text = ""
			v.failure = &f
		}
		short.rcpts[i] = v
	}
	return short.encode()
}
