package smtpbridge

import (
	"container/list"
	"net/netip"
	"sync"
	"time"

	"mailxmppd/mail"
)

// ServerRates bound how often a client comes; 0 is no bound. A client may use
// up its allowance at once, and gets it back evenly.
type ServerRates struct {
	ConnectionsPerMinute int            // of one address, of one /64 for IPv6
	MessagesPerMinute    int            // of one address; by XFORWARD, of the client that it tells of
	MessagesPerHour      int            // of one authenticated user, whatever the address
	Users                *UserRate      // instead of MessagesPerHour, for listeners that count together
	Addresses            *AddressRates  // instead of those of one address, likewise
	Exempt               []netip.Prefix // addresses that are not bounded
}

// UserRate bounds the messages of each user over all listeners that share it.
// Safe for concurrent use.
type UserRate struct{ table *rateTable }

// NewUserRate allows so many messages an hour; 0 is no bound.
func NewUserRate(messagesPerHour int) *UserRate {
	return &UserRate{newRateTable(messagesPerHour, time.Hour)}
}

// AddressRates bounds the connections and messages of each address over all
// listeners that share it. Safe for concurrent use.
type AddressRates struct{ connections, messages *rateTable }

// NewAddressRates allows so many a minute; 0 is no bound.
func NewAddressRates(connectionsPerMinute, messagesPerMinute int) *AddressRates {
	return &AddressRates{newRateTable(connectionsPerMinute, time.Minute), newRateTable(messagesPerMinute, time.Minute)}
}

// serverRates applies ServerRates.
type serverRates struct {
	exempt                          []netip.Prefix
	connections, messages, userMail *rateTable
}

func newServerRates(r ServerRates) *serverRates {
	if r.Users == nil {
		r.Users = NewUserRate(r.MessagesPerHour)
	}
	if r.Addresses == nil {
		r.Addresses = NewAddressRates(r.ConnectionsPerMinute, r.MessagesPerMinute)
	}
	return &serverRates{
		exempt: r.Exempt, connections: r.Addresses.connections, messages: r.Addresses.messages, userMail: r.Users.table,
	}
}

// connection counts a connection and says whether it may stay.
func (r *serverRates) connection(addr netip.AddrPort) bool {
	return within(addr.Addr(), r.exempt) || r.connections.take(clientKey(addr), time.Now())
}

// message counts a message that begins.
func (r *serverRates) message(c mail.Client) *serverReply {
	addr, _ := c.Author()
	now := time.Now()
	if c.User != "" && !r.userMail.take(c.User, now) {
		return &serverReply{450, "4.7.1", "too many messages an hour"}
	}
	if !within(addr.Addr(), r.exempt) && !r.messages.take(clientKey(addr), now) {
		return &serverReply{450, "4.7.1", "too many messages a minute from your address"}
	}
	return nil
}

// rateEntries bounds the memory of a rateTable. Beyond it the entry that was
// not used for longest is forgotten, which is the one that has most likely
// decayed: to push out another, a client must come from so many addresses.
const rateEntries = 20_000

// rateTable counts by key what happens, and forgets it evenly: a leaky bucket
// for each key. A nil table allows everything.
type rateTable struct {
	limit  float64       // what a bucket holds
	period time.Duration // in which a full one runs empty

	mu      sync.Mutex
	entries map[string]*list.Element
	used    *list.List // of *rateEntry, the latest in front
}

type rateEntry struct {
	key   string
	level float64
	at    time.Time
}

// newRateTable allows limit a period; 0 is no limit.
func newRateTable(limit int, period time.Duration) *rateTable {
	if limit <= 0 {
		return nil
	}
	return &rateTable{limit: float64(limit), period: period, entries: map[string]*list.Element{}, used: list.New()}
}

// take counts one more for a key, if there is room for it. The key "" is not
// counted: it stands for what has no address.
func (t *rateTable) take(key string, now time.Time) bool {
	if t == nil || key == "" {
		return true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.entry(key, now)
	if e.level+1 > t.limit {
		return false
	}
	e.level++
	return true
}

// giveBack undoes a take.
func (t *rateTable) giveBack(key string, now time.Time) {
	if t == nil || key == "" {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.entry(key, now)
	e.level = max(0, e.level-1)
}

// entry finds or makes the bucket of a key, as it is now.
func (t *rateTable) entry(key string, now time.Time) *rateEntry {
	if el, ok := t.entries[key]; ok {
		t.used.MoveToFront(el)
		e := el.Value.(*rateEntry)
		if passed := now.Sub(e.at); passed > 0 {
			e.level = max(0, e.level-t.limit*float64(passed)/float64(t.period))
			e.at = now
		}
		return e
	}
	if len(t.entries) >= rateEntries {
		oldest := t.used.Back()
		delete(t.entries, oldest.Value.(*rateEntry).key)
		t.used.Remove(oldest)
	}
	e := &rateEntry{key: key, at: now}
	t.entries[key] = t.used.PushFront(e)
	return e
}
