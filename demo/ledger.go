package demo

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"
)

// Names of the paths that every message takes.
const (
	pathAB     = "xmpp-ab"     // capulet to montague, over XMPP
	pathBA     = "xmpp-ba"     // montague to capulet, over XMPP
	pathLegacy = "smtp-legacy" // capulet to legacy, by SMTP
	pathQueued = "queued"      // capulet to montague, which is away
)

// sending is one message on one path.
type sending struct {
	path      string
	letter    letter
	transport string // that must carry it to the last gateway or mailbox
	from      string // reverse-path, of this sending alone
	rcpt      string
	answered  bool // the sender has its reply
	taken     bool // which is a 250
	bounced   bool // a report came back to the reverse-path
	copies    []deliveredCopy
}

// deliveredCopy is a message as it reached the final mailbox.
type deliveredCopy struct {
	file string
	inspection
}

// sum is the sha-256 of what was sent, in hexadecimal.
func (s *sending) sum() string {
	sum := sha256.Sum256(s.letter.content)
	return hex.EncodeToString(sum[:])
}

// ledger knows what was sent and compares what arrives. A message is known by
// its reverse-path: nothing in the content is touched or relied on, and a twin
// cannot hide. Safe for concurrent use.
type ledger struct {
	timeline *timeline
	problem  func(format string, args ...any)
	verify   func(message []byte) error // the DKIM signature of a signed letter

	mu       sync.Mutex
	sendings []*sending
	byFrom   map[string]*sending
	held     map[*sending][]event // arrivals that overtook their sender's reply
	changed  chan struct{}        // closed and replaced at every arrival
}

func newLedger(t *timeline, problem func(string, ...any), verify func([]byte) error) *ledger {
	return &ledger{
		timeline: t,
		problem:  problem,
		verify:   verify,
		byFrom:   map[string]*sending{},
		held:     map[*sending][]event{},
		changed:  make(chan struct{}),
	}
}

// open enters a sending. user and domain make its reverse-path. Its detail
// (RFC 5233) makes it unique, and with it the transfer id (xep-draft section
// 5.1): the same content along two paths is two messages, not a twin.
func (l *ledger) open(path, transport, user, domain, rcpt string, m letter) *sending {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := &sending{
		path:      path,
		letter:    m,
		transport: transport,
		from:      fmt.Sprintf("%s+%d@%s", user, len(l.sendings)+1, domain),
		rcpt:      rcpt,
	}
	l.sendings = append(l.sendings, s)
	l.byFrom[s.from] = s
	return s
}

// reply enters the reply to the sender. Arrivals are told only after it, so
// that the timeline reads in the order of cause and effect.
func (l *ledger) reply(s *sending, e event, taken bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s.answered, s.taken = true, taken
	l.timeline.say(e)
	for _, e := range l.held[s] {
		l.timeline.say(e)
	}
	delete(l.held, s)
}

// arrived takes note of what a mailbox has received. Mail that the demo has not
// sent is told but not counted: others may use the network too.
func (l *ledger) arrived(a arrival) {
	message, err := os.ReadFile(a.file)
	if err != nil {
		l.problem("reading a delivered message: %v", err)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.announce()
	if s := l.byFrom[a.rcpt]; s != nil && a.from == "" {
		s.bounced = true
		l.problem("%s to %s came back: %s", s.letter.source, s.rcpt, a.file)
		l.tell(s, event{Step: "bounced", Path: s.path, Source: s.letter.source, To: a.rcpt, Text: "a delivery report: " + a.file})
		return
	}
	if a.from == forgedSender {
		l.problem("a forged message was delivered: %s", a.file)
	}
	s := l.byFrom[a.from]
	if s == nil {
		l.timeline.say(event{Step: "delivered", OK: a.from != forgedSender, From: a.from, To: a.rcpt, Text: "not one of the demo's own"})
		return
	}
	l.tell(s, l.judge(s, a, message))
}

// judge adds one copy to a sending.
func (l *ledger) judge(s *sending, a arrival, message []byte) event {
	c := deliveredCopy{file: a.file, inspection: inspect(message, s.letter.content)}
	notes := []string{fmt.Sprintf("%d octets of header, then byte-identical", c.offset)}
	if c.identical && s.letter.signed {
		if err := l.verify(message); err != nil {
			c.identical, c.fault = false, fmt.Errorf("dkim=fail: %w", err)
		}
		notes = append(notes, "dkim=pass")
	}
	if c.identical && a.rcpt != s.rcpt {
		c.identical, c.fault = false, fmt.Errorf("arrived for %s", a.rcpt)
	}
	if c.identical && c.transport != s.transport {
		c.fault = fmt.Errorf("arrived over %s, not %s", c.transport, s.transport)
	}
	if c.fault == nil && len(s.copies) > 0 {
		c.fault = fmt.Errorf("a twin: copy %d of it", len(s.copies)+1)
	}
	s.copies = append(s.copies, c)
	e := event{Step: "delivered", OK: c.fault == nil, Path: s.path, Source: s.letter.source, To: a.rcpt, Text: strings.Join(notes, ", ")}
	if c.fault != nil {
		e.Text = c.fault.Error()
		l.problem("%s to %s: %v", s.letter.source, s.rcpt, c.fault)
	}
	return e
}

// tell says an event of a sending, or holds it until its sender has the reply.
func (l *ledger) tell(s *sending, e event) {
	if s.answered {
		l.timeline.say(e)
		return
	}
	l.held[s] = append(l.held[s], e)
}

func (l *ledger) announce() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// missing counts the messages of a path that were taken and have neither
// arrived nor come back, and gives a channel that closes at the next arrival.
func (l *ledger) missing(path string) (n int, changed <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.sendings {
		if s.path == path && s.taken && !s.bounced && len(s.copies) == 0 {
			n++
		}
	}
	return n, l.changed
}

// quietFor is how long nothing may arrive before waiting ends. It is longer
// than a gateway's longest pause between two dials to a peer that is away, and
// shorter than the queue's first retry.
const quietFor = 100 * time.Second

// wait waits until every message of a path that was taken has arrived. That
// some do not is a problem of the network under demonstration; an error means
// that waiting is senseless.
func (l *ledger) wait(ctx context.Context, path string, crashed <-chan error) error {
	for {
		n, changed := l.missing(path)
		if n == 0 {
			return nil
		}
		select {
		case <-changed:
		case err := <-crashed:
			return err
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(quietFor):
			l.problem("%s: %d messages that were answered with 250 have not arrived", path, n)
			l.timeline.say(event{Step: "missing", Path: path, Text: fmt.Sprintf("%d messages have not arrived, nothing has for %s", n, quietFor)})
			return nil
		}
	}
}

// tally counts what became of everything that was sent.
func (l *ledger) tally() tally {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := tally{OK: true}
	for _, s := range l.sendings {
		if s.taken {
			t.Sent++
		}
		if len(s.copies) > 0 {
			t.Delivered++
			t.Twins += len(s.copies) - 1
		}
		if len(s.copies) > 0 && s.copies[0].identical {
			t.Identical++
		}
	}
	t.OK = t.Sent == len(l.sendings) && t.Delivered == t.Sent && t.Identical == t.Sent && t.Twins == 0
	return t
}

// snapshot gives the sendings with their copies, for writing out.
func (l *ledger) snapshot() []sending {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]sending, len(l.sendings))
	for i, s := range l.sendings {
		out[i] = *s
		out[i].copies = append([]deliveredCopy(nil), s.copies...)
	}
	return out
}
