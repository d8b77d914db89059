package harness

import (
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
	name string

	mu    sync.Mutex
	made  map[string]letter
	acked map[string]bool
}

// letter is one message.
type letter struct {
	to       string
	transfer string // mail.TransferID
	lines    int    // of 72 octets
}

// NewTraffic makes messages from an address. The name is part of their ids.
func NewTraffic(from, name string) *Traffic {
	return &Traffic{From: from, name: name, made: map[string]letter{}, acked: map[string]bool{}}
}

// Make thinks up a message of so many lines and returns its id.
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
	tr.made[id] = letter{to, mail.TransferID(sender, buf.Facts()), lines}
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
// answered where that is not a 250.
func (tr *Traffic) Send(addr, id string, give <-chan struct{}) error {
	tr.mu.Lock()
	m := tr.made[id]
	tr.mu.Unlock()
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
	c, err := greet(conn)
	if err != nil {
		return err
	}
	if _, err := c.Send(tr.From, []string{m.to}, Stuff(tr.content(id, m.lines))); err != nil {
		return err
	}
	tr.mu.Lock()
	tr.acked[id] = true
	tr.mu.Unlock()
	return nil
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

// Unacknowledged lists the messages without a 250.
func (tr *Traffic) Unacknowledged() []string {
	return tr.those(func(id string) bool { return !tr.acked[id] })
}

// Acknowledged lists those with one.
func (tr *Traffic) Acknowledged() []string {
	return tr.those(func(id string) bool { return tr.acked[id] })
}

func (tr *Traffic) those(are func(id string) bool) []string {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	var ids []string
	for id := range tr.made {
		if are(id) {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// Lost lists what was acknowledged and has not arrived at any of the sinks.
func (tr *Traffic) Lost(sinks ...*Sink) []string {
	arrived := arrivals(sinks)
	return tr.those(func(id string) bool { return tr.acked[id] && arrived[id] == 0 })
}

// Await waits until all that was acknowledged has arrived, and then until
// nothing more does, for half a second. It returns what is missing.
func (tr *Traffic) Await(patience time.Duration, sinks ...*Sink) (lost []string) {
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		if lost = tr.Lost(sinks...); len(lost) == 0 || time.Now().After(end) {
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
	for id, times := range arrivals(sinks) {
		if _, ours := tr.made[id]; ours {
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
		n += max(0, stored[m.transfer]-1)
	}
	return n
}

// Stored lists those of the ids that are in such a store.
func (tr *Traffic) Stored(stored map[string]int, ids []string) []string {
	return tr.those(func(id string) bool { return stored[tr.made[id].transfer] > 0 && slices.Contains(ids, id) })
}

// NotStored lists what was acknowledged and is not in such a store.
func (tr *Traffic) NotStored(stored map[string]int) []string {
	return tr.those(func(id string) bool { return tr.acked[id] && stored[tr.made[id].transfer] == 0 })
}

func arrivals(sinks []*Sink) map[string]int {
	n := map[string]int{}
	for _, s := range sinks {
		for _, id := range s.Got() {
			n[id]++
		}
	}
	return n
}
