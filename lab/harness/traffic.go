package harness

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"mailxmppd/mail"
)

// Traffic is messages of unique ids that go to gateways, and what was answered
// to each: what is counted in the end are arrivals, not answers.
type Traffic struct {
	From string // sender's address
	LMTP bool   // spoken with the gateway, which then answers for each recipient
	name string

	mu   sync.Mutex
	made map[string]*letter
}

// letter is one message.
type letter struct {
	to       []string
	transfer string          // mail.TransferID
	lines    int             // of 72 octets
	acked    map[string]bool // recipients
	tries    int
	odd      bool // every other one
}

// open are the recipients for whom nothing was acknowledged.
func (m *letter) open() []string {
	return slices.DeleteFunc(slices.Clone(m.to), func(r string) bool { return m.acked[r] })
}

// NewTraffic makes messages from an address. The name is part of their ids.
func NewTraffic(from, name string) *Traffic {
	return &Traffic{From: from, name: name, made: map[string]*letter{}}
}

// Make thinks up a message of so many lines, to one or several addresses with
// commas between them, and returns its id.
func (tr *Traffic) Make(to string, lines int) (id string, err error) {
	sender, err := mail.ParseAddress(tr.From)
	if err != nil {
		return "", err
	}
	tr.mu.Lock()
	defer tr.mu.Unlock()
	id = fmt.Sprintf("<%d.%s@%s>", len(tr.made), tr.name, sender.Domain)
	buf := mail.NewBuffer("")
	defer buf.Close()
	if _, err := buf.Write(tr.content(id, lines)); err != nil {
		return "", err
	}
	tr.made[id] = &letter{to: strings.Split(to, ","), transfer: mail.TransferID(sender, buf.Facts()), lines: lines, acked: map[string]bool{}, odd: len(tr.made)%2 == 1}
	return id, nil
}

func (tr *Traffic) content(id string, lines int) []byte {
	return []byte("From: " + tr.From + "\r\nMessage-ID: " + id + "\r\n\r\n" + strings.Repeat(strings.Repeat("0123456789", 7)+"\r\n", lines))
}

// MessageID finds the id of what arrived; for Sink.
func MessageID(content []byte) string {
	_, rest, _ := strings.Cut("\r\n"+string(content[:min(len(content), 16<<10)]), "\r\nMessage-ID: ")
	id, _, _ := strings.Cut(rest, "\r\n")
	return id
}

// Send hands a message to a gateway in a session of its own, which ends early
// when give is closed: such a client heard nothing. It returns what was
// answered where that is not a 250. By LMTP a message goes to those recipients
// for whom it was not acknowledged yet, and every other message's first session
// ends after the first of its replies.
func (tr *Traffic) Send(addr, id string, give <-chan struct{}) error {
	tr.mu.Lock()
	m := tr.made[id]
	to, first := m.open(), m.tries == 0
	m.tries++
	tr.mu.Unlock()
	if len(to) == 0 {
		return nil
	}
	conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		return err
	}
	over := make(chan struct{})
	defer close(over)
	go func() {
		select {
		case <-give:
		case <-over:
		}
		conn.Close()
	}()
	hello := "EHLO"
	if tr.LMTP {
		hello = "LHLO"
	}
	c, err := greet(conn, hello)
	if err != nil {
		return err
	}
	if _, err := c.Send(tr.From, to, Stuff(tr.content(id, m.lines))); err != nil {
		return err
	}
	if !tr.LMTP {
		tr.heard(m, to)
		return nil
	}
	tr.heard(m, to[:1])
	if first && len(to) > 1 && m.odd {
		return errHungUp
	}
	for i := range to[1:] {
		if _, err := c.reply(250); err != nil {
			return err
		}
		tr.heard(m, to[1+i:2+i])
	}
	return nil
}

// errHungUp is of a client that did not wait for all replies.
var errHungUp = errors.New("the client ended after the first reply")

func (tr *Traffic) heard(m *letter, recipients []string) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	for _, r := range recipients {
		m.acked[r] = true
	}
}

// SendAgain does what a real client does with mail that was not acknowledged,
// for at most the given time.
func (tr *Traffic) SendAgain(addr string, patience time.Duration) error {
	never := make(chan struct{})
	end := time.Now().Add(patience)
	for _, id := range tr.Unacknowledged() {
		for {
			err := tr.Send(addr, id, never)
			if err == nil {
				break
			}
			if time.Now().After(end) {
				return fmt.Errorf("%s is not taken: %w", id, err)
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
	return nil
}

// Unacknowledged lists the messages without a 250 for all of their recipients.
func (tr *Traffic) Unacknowledged() []string {
	return tr.those(func(_ string, m *letter) bool { return len(m.open()) > 0 })
}

// Acknowledged lists those with one.
func (tr *Traffic) Acknowledged() []string {
	return tr.those(func(_ string, m *letter) bool { return len(m.open()) == 0 })
}

func (tr *Traffic) those(are func(id string, m *letter) bool) []string {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	var ids []string
	for id, m := range tr.made {
		if are(id, m) {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// Lost lists what was acknowledged and has not arrived at any of the sinks.
func (tr *Traffic) Lost(sinks ...*Sink) []string {
	arrived := arrivals(sinks)
	return tr.those(func(id string, m *letter) bool {
		return slices.ContainsFunc(m.to, func(r string) bool { return m.acked[r] && arrived[arrival{id, r}] == 0 })
	})
}

// Await waits until all that was acknowledged has arrived, and then until
// nothing more does, for half a second. It returns what is missing.
func (tr *Traffic) Await(patience time.Duration, sinks ...*Sink) (lost []string) {
	return await(patience, sinks, func() []string { return tr.Lost(sinks...) })
}

// await is Await, given how to find what is missing.
func await(patience time.Duration, sinks []*Sink, missing func() []string) (lost []string) {
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		if lost = missing(); len(lost) == 0 || time.Now().After(end) {
			break
		}
	}
	count := func() (n int) {
		for _, s := range sinks {
			n += s.Count()
		}
		return n
	}
	for last, still := count(), 0; still < 10; time.Sleep(50 * time.Millisecond) {
		if n := count(); n == last {
			still++
		} else {
			last, still = n, 0
		}
	}
	return lost
}

// Twins counts what arrived more often than once, beyond its first arrival.
func (tr *Traffic) Twins(sinks ...*Sink) (n int) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	for a, times := range arrivals(sinks) {
		if tr.made[a.kept] != nil {
			n += times - 1
		}
	}
	return n
}

// StoredTwins counts the messages of ours that are more often than once in a
// store that took them from a peer, given how often it has each transfer.
func (tr *Traffic) StoredTwins(stored map[string]int) (n int) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	for _, m := range tr.made {
		n += max(0, stored[m.transfer]-len(m.to))
	}
	return n
}

// Stored lists those of the ids that are in such a store.
func (tr *Traffic) Stored(stored map[string]int, ids []string) []string {
	return tr.those(func(id string, m *letter) bool { return stored[m.transfer] > 0 && slices.Contains(ids, id) })
}

// NotStored lists what was acknowledged and is not in such a store.
func (tr *Traffic) NotStored(stored map[string]int) []string {
	return tr.those(func(_ string, m *letter) bool { return stored[m.transfer] < len(m.acked) })
}

func arrivals(sinks []*Sink) map[arrival]int {
	n := map[arrival]int{}
	for _, s := range sinks {
		s.arrived(n)
	}
	return n
}
