package transfer

import (
	"errors"
	"fmt"

	"mailxmppd/mail"
	"mailxmppd/xmpp/wire"
)

// kind is the name of an answer's element.
type kind string

const (
	verdicts kind = "verdicts" // to check
	accepted kind = "accepted" // responsibility has moved for at least one recipient
	refused  kind = "refused"  // for none
	ready    kind = "ready"    // chunks are wanted
	next     kind = "next"     // how far the content is there
	unknown  kind = "unknown"  // no such transfer here
)

// verdict is what an answer says of one recipient.
type verdict struct {
	to      string        // as the request wrote it
	queueID string        // when accepted
	failure *mail.Failure // when not; nil with no queueID: would be accepted
}

// answer is the result of any request but abort.
type answer struct {
	kind   kind
	tid    string // all but verdicts
	rcpts  []verdict
	next   int64 // ready, next
	chunk  int   // ready
	window int   // ready
}

// encode returns the answer as an IQ payload.
func (a *answer) encode() ([]byte, error) {
	e := wire.NewEncoder(nil)
	e.Start(string(a.kind), Namespace)
	optional(e, "tid", a.tid)
	switch a.kind {
	case ready:
		e.AttrInt("next", a.next)
		e.AttrInt("chunk", int64(a.chunk))
		e.AttrInt("window", int64(a.window))
	case next:
		e.AttrInt("offset", a.next)
	}
	for _, v := range a.rcpts {
		e.Start("rcpt", "")
		e.Attr("to", v.to)
		optional(e, "queue-id", v.queueID)
		if v.failure != nil {
			encodeFailure(e, v.failure)
		}
		e.End()
	}
	e.End()
	return e.Bytes()
}

// decodeAnswer reads the answer of the peer named remote to a request for
// tid. Answers are read leniently (xep-draft section 5): what is not known is
// skipped, what is needed must be there.
func decodeAnswer(remote, tid string, e *wire.Element) (*answer, error) {
	if e == nil || e.Name.Space != Namespace {
		return nil, errors.New("answer is not one of this protocol")
	}
	a := &answer{kind: kind(e.Name.Local), tid: e.Attr("tid")}
	if a.kind != verdicts && a.tid != tid {
		return nil, fmt.Errorf("%s: for another transfer id", a.kind)
	}
	ok := true
	switch a.kind {
	case verdicts, accepted, refused, unknown:
	case ready:
		a.next, ok = parseCount(e.Attr("next"))
		chunk, ok1 := parseCount(e.Attr("chunk"))
		window, ok2 := parseCount(e.Attr("window"))
		// Far above any sense, so that an int holds them on every machine.
		a.chunk, a.window = int(min(chunk, 1<<30)), int(min(window, 1<<10))
		ok = ok && ok1 && ok2 && a.chunk > 0 && a.window > 0
	case next:
		a.next, ok = parseCount(e.Attr("offset"))
	default:
		return nil, fmt.Errorf("answer is of no known kind")
	}
	if !ok {
		return nil, fmt.Errorf("%s: a number is missing or wrong", a.kind)
	}
	for _, c := range e.Children {
		if !c.Is(Namespace, "rcpt") {
			continue
		}
		v := verdict{to: c.Attr("to"), queueID: mail.Sanitise(c.Attr("queue-id"))}
		if f := c.Child(Namespace, "failure"); f != nil {
			v.failure = decodeFailure(remote, f)
		}
		a.rcpts = append(a.rcpts, v)
	}
	return a, nil
}

// matches reports whether the answer has a verdict for each of rcpts, in
// their order.
func (a *answer) matches(rcpts []rcpt) bool {
	if len(a.rcpts) != len(rcpts) {
		return false
	}
	for i, v := range a.rcpts {
		if v.to != rcpts[i].to {
			return false
		}
	}
	return true
}
