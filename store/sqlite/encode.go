package sqlite

import (
	"encoding/json"
	"fmt"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// The states as they are stored. An open delivery that no attempt has been
// begun for is due, any other that waits is deferred.
const (
	stateDue int64 = iota
	stateDeferred
	stateLeased
	stateDelivered
	stateBounced
	stateExpired
	stateDropped
	stateHeld
)

// neverDue is when a held delivery is due: it is open, and not claimed.
const neverDue int64 = 1 << 62

// stateNames lists the states by their numbers.
func stateNames() [8]store.State {
	return [8]store.State{store.Due, store.Deferred, store.Leased, store.Delivered, store.Bounced, store.ExpiredSt, store.Dropped, store.Held}
}

func stateOf(v int64) store.State {
	names := stateNames()
	if v < 0 || v >= int64(len(names)) {
		return ""
	}
	return names[v]
}

func stateNumber(st store.State) (int64, error) {
	for i, s := range stateNames() {
		if s == st {
			return int64(i), nil
		}
	}
	return 0, fmt.Errorf("no such delivery state: %q", st)
}

// Bits of messages.flags.
const (
	flagHasID = 1 << iota
	flagEightBit
	flagHeaderUTF8
	flagNull
	flagLongLine
)

func flagsOf(f mail.Facts) (flags int64) {
	for _, b := range []struct {
		set bool
		bit int64
	}{{f.HasID, flagHasID}, {f.EightBit, flagEightBit}, {f.HeaderUTF8, flagHeaderUTF8}, {f.Null, flagNull}, {f.LongLine, flagLongLine}} {
		if b.set {
			flags |= b.bit
		}
	}
	return flags
}

func factsOf(size int64, sum []byte, received, flags int64) mail.Facts {
	f := mail.Facts{
		Size: size, Received: int(received),
		HasID: flags&flagHasID != 0, EightBit: flags&flagEightBit != 0, HeaderUTF8: flags&flagHeaderUTF8 != 0,
		Null: flags&flagNull != 0, LongLine: flags&flagLongLine != 0,
	}
	copy(f.SHA256[:], sum)
	return f
}

// millis is a duration as the store counts it, rounded up so that a wait is
// never shorter than asked for.
func millis(d time.Duration) int64 { return int64((d + time.Millisecond - 1) / time.Millisecond) }

func duration(ms int64) time.Duration { return time.Duration(ms) * time.Millisecond }

// Keys: see the schema.
const (
	maxRecipients = 1 << 16
	pieceBits     = 24
)

func deliveryKey(num int64, n int) int64 { return num<<16 | int64(n) }

// deliveryKeys is the range of all deliveries of a message.
func deliveryKeys(num int64) (first, last int64) { return num << 16, num<<16 | (maxRecipients - 1) }

func pieceKey(content, n int64) int64 { return content<<pieceBits | n }

// pieceKeys is the range of all pieces of a content.
func pieceKeys(content int64) (first, last int64) {
	return pieceKey(content, 0), pieceKey(content, 1<<pieceBits-1)
}

// message is a row of messages.
type message struct {
	num      int64
	id       mail.ID
	tid      string
	envelope mail.Envelope
	origin   mail.Origin
	trace    []byte
	facts    mail.Facts
	created  int64
	expires  int64
}

const messageColumns = "num, id, tid, envelope, origin, trace, size, sha256, received, flags, created, expires"

// scanMessage reads messageColumns. With store.ErrUnreadable comes what could be
// read.
func scanMessage(r row) (*message, error) {
	m := &message{
		num: r.int(0), id: mail.ID(r.text(1)), tid: r.text(2), trace: r.blob(5),
		facts: factsOf(r.int(6), r.blob(7), r.int(8), r.int(9)), created: r.int(10), expires: r.int(11),
	}
	var err error
	m.envelope, m.origin, err = store.ReadStored(r.text(3), r.text(4))
	return m, err
}

// lease makes a lease of m for one domain, its deliveries still to be filled
// in.
func (m *message) lease(domain string, now int64) store.Lease {
	return store.Lease{
		ID: m.id, Transfer: m.tid, Envelope: m.envelope, Facts: m.facts, Trace: m.trace, Origin: m.origin,
		Domain: domain, Age: duration(max(0, now-m.created)),
	}
}

// senderOf is what a list shows for the sender of a stored envelope.
func senderOf(envelope string) string {
	var e struct {
		Sender mail.Address `json:"sender"`
	}
	if err := json.Unmarshal([]byte(envelope), &e); err != nil {
		return store.UnknownSender
	}
	return e.Sender.String()
}
