package stream

import (
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"mailxmppd/xmpp/wire"
)

// acks is the peer's count of our stanzas and ours of its (XEP-0198), where
// the server that we dialled offers it. There is no resumption and nothing is
// kept to be sent again: each request has an answer of its own. What it gives
// is a sign of life, also on a stream that brings no answers.
type acks struct {
	asked   bool   // for acks; the reader's alone, and handled too
	handled uint32 // stanzas of the peer since it enabled acks, modulo 2^32
	on      atomic.Bool
	acked   atomic.Uint32 // stanzas of ours, as the peer said last
	pending atomic.Int64  // when the peer was asked and has not answered, Unix nanoseconds; else 0
}

// enableAcks asks for acks ahead of the first stanza: sent stanzas count from
// there (XEP-0198 section 3).
func (l *Link) enableAcks() {
	l.acks.asked = true
	l.out.nonza(l.cfg.MaxOutBytes, []byte("<enable xmlns='"+nsAcks+"'/>"))
}

// receiveAck deals with what is about acks. An error ends the link.
func (l *Link) receiveAck(el *wire.Element) error {
	switch local := el.Name.Local; {
	case local == "enable", local == "resume": // we do not offer it
		return l.sayNow("<failed xmlns='" + nsAcks + "'><feature-not-implemented xmlns='" + nsStanzas + "'/></failed>")
	case !l.acks.asked:
	case local == "enabled" && !l.acks.on.Load():
		l.acks.handled = 0
		l.acks.on.Store(true)
		return nil
	case local == "failed":
		l.acks.asked = false
		l.acks.on.Store(false)
		return nil
	case local == "r" && l.acks.on.Load():
		return l.sayNow("<a xmlns='" + nsAcks + "' h='" + strconv.FormatUint(uint64(l.acks.handled), 10) + "'/>")
	case local == "a" && l.acks.on.Load():
		return l.countAcked(el.Attr("h"))
	}
	return &streamError{condition: "unsupported-stanza-type", text: "element not expected here"}
}

// countAcked checks the peer's count. It only grows, modulo 2^32, and never
// beyond what was sent (XEP-0198 section 4).
func (l *Link) countAcked(count string) error {
	h, err := strconv.ParseUint(strings.TrimSpace(count), 10, 32)
	if err != nil {
		return &streamError{condition: "bad-format", text: "ack without a count"}
	}
	sent, acked := l.out.stanzasPut(), l.acks.acked.Load()
	if uint32(h)-acked > sent-acked {
		l.m.counters.ackErrors.Add(1)
		return &streamError{condition: "undefined-condition", text: "more stanzas acknowledged than sent",
			app: "<handled-count-too-high xmlns='" + nsAcks + "' h='" + strconv.FormatUint(h, 10) +
				"' send-count='" + strconv.FormatUint(uint64(sent), 10) + "'/>"}
	}
	l.acks.acked.Store(uint32(h))
	l.acks.pending.Store(0)
	return nil
}

// askAck asks for the count where stanzas are not accounted for, one question
// at a time. It reports whether the peer owes an answer for too long.
func (l *Link) askAck(now time.Time) (overdue bool) {
	if !l.acks.on.Load() {
		return false
	}
	if asked := l.acks.pending.Load(); asked != 0 {
		return now.Sub(time.Unix(0, asked)) >= l.cfg.RequestTimeout
	}
	if l.out.stanzasPut() != l.acks.acked.Load() {
		l.acks.pending.Store(now.UnixNano())
		l.sayNow("<r xmlns='" + nsAcks + "'/>") // without room for it, the writer's deadline decides
	}
	return false
}
