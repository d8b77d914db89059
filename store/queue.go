package store

import (
	"context"
	"time"

	"mailxmppd/mail"
)

// Queue is what the operator's verbs need. Each verb says how many deliveries
// it changed, and records for each message that it did so, when, and at whose
// request. Verbs on a Filter work in bounded batches, each a transaction of its
// own: one that fails has done what it says.
type Queue interface {
	// List returns deliveries, the newest message first, those of one message
	// in the order of its recipients. A message that cannot be read has
	// UnknownSender.
	List(ctx context.Context, f Filter) ([]Entry, error)
	// Totals counts deliveries by recipient domain and age: those of the top
	// domains with most of them, and the others together.
	Totals(ctx context.Context, f Filter, top int) (Totals, error)
	// Show returns a message with all its deliveries, their attempts and what
	// operators did; of one that cannot be read, what can.
	Show(ctx context.Context, id mail.ID) (Record, error)

	// Retry makes waiting deliveries due now.
	Retry(ctx context.Context, sel Selection) (int, error)
	// Hold keeps open deliveries from being tried and from expiring; a running
	// attempt loses its lease.
	Hold(ctx context.Context, sel Selection) (int, error)
	// Unhold makes held deliveries due now. The time that they were held is
	// added to their lifetime.
	Unhold(ctx context.Context, sel Selection) (int, error)
	// Redirect has open deliveries go to a next hop, written as in a route of
	// the configuration; "" takes that back. A running attempt goes on.
	Redirect(ctx context.Context, sel Selection, next string) (int, error)
	// Drop ends open deliveries without a DSN; a running attempt loses its
	// lease. Their content is kept for Retention.Dropped.
	Drop(ctx context.Context, sel Selection) (int, error)
	// Restore makes dropped deliveries due again, as long as their content is
	// there: after that ErrNotFound. The time since is added to their lifetime.
	Restore(ctx context.Context, sel Selection) (int, error)
}

// Selection names the deliveries of a verb: those of a message, or all that a
// filter finds.
type Selection struct {
	ID     mail.ID `json:"id,omitempty"` // "" selects by Filter
	N      int     `json:"n"`            // one delivery of the message; negative: all
	Filter Filter  `json:"filter"`       // Limit and After do not count
	By     string  `json:"by"`           // who asks for it
}

// One selects a message's n-th delivery, or all of them if n < 0.
func One(id mail.ID, n int, by string) Selection { return Selection{ID: id, N: n, By: by} }

// Filter narrows List and Totals. What is left out does not narrow.
type Filter struct {
	Domain  string        `json:"domain,omitempty"`  // of the recipient
	Sender  string        `json:"from,omitempty"`    // an address, "@domain", or "<>" for the null reverse-path
	States  []State       `json:"states,omitempty"`  // nil: the open ones, or with Closed all
	Closed  bool          `json:"all,omitempty"`     // finished deliveries too
	Older   time.Duration `json:"older,omitempty"`   // than that
	Younger time.Duration `json:"younger,omitempty"` // than that
	Text    string        `json:"text,omitempty"`    // within the words of the last outcome, ASCII letters of either case
	Limit   int           `json:"limit,omitempty"`   // at most so many; 0 means 1,000

	// After is the last entry of the page before: what follows it is listed.
	After  mail.ID `json:"after,omitempty"`
	AfterN int     `json:"after_n,omitempty"`
}

// Entry is a delivery as the operator sees it.
type Entry struct {
	ID       mail.ID       `json:"id"`
	N        int           `json:"n"`
	State    State         `json:"state"`
	Sender   string        `json:"from"`
	Rcpt     string        `json:"rcpt"`
	Domain   string        `json:"domain"`
	Next     string        `json:"next,omitempty"` // where an operator redirected it to
	Size     int64         `json:"size"`
	Attempts int           `json:"attempts"`
	Age      time.Duration `json:"-"`
	AgeSecs  int64         `json:"age_s"`
	DueSecs  int64         `json:"due_in_s"` // until it may be tried; negative: overdue; 0 when held or closed
	Settled  time.Time     `json:"settled,omitzero"`
	InDoubt  bool          `json:"in_doubt,omitempty"`
	DoubtWay Way           `json:"doubt_way,omitempty"`
	Last     string        `json:"last,omitempty"` // words of the last outcome
}

// Record is a message as the operator sees it.
type Record struct {
	ID         mail.ID       `json:"id"`
	Transfer   string        `json:"tid"`
	Envelope   mail.Envelope `json:"envelope"`
	Size       int64         `json:"size"`
	SHA256     string        `json:"sha256"` // hexadecimal
	Origin     mail.Origin   `json:"origin"`
	Trace      string        `json:"trace"`
	Stored     time.Time     `json:"stored"`
	Deliveries []Entry       `json:"deliveries"`
	Attempts   []Try         `json:"attempts"`
	Events     []Event       `json:"events,omitempty"`
	Unreadable string        `json:"unreadable,omitempty"` // why envelope and origin cannot be shown
}

// Try is one recorded attempt. An attempt without an end was cut short by a
// crash, or is running.
type Try struct {
	N        int       `json:"n"`
	Number   int       `json:"attempt"`
	Way      Way       `json:"way,omitempty"`
	Began    time.Time `json:"began"`
	Ended    time.Time `json:"ended,omitzero"`
	Result   State     `json:"result,omitempty"`
	Status   string    `json:"status,omitempty"` // enhanced status of a failure
	Text     string    `json:"text,omitempty"`
	Remote   string    `json:"remote,omitempty"`
	RemoteID string    `json:"remote_id,omitempty"`
	Proof    string    `json:"proof,omitempty"`
	TLS      string    `json:"tls,omitempty"`
}

// Event is what an operator did, or ByStore.
type Event struct {
	N      int       `json:"n"` // of the delivery; -1: the whole message
	At     time.Time `json:"at"`
	Verb   string    `json:"verb"` // retry, hold, unhold, redirect, drop, restore or fail
	By     string    `json:"by"`
	Detail string    `json:"detail,omitempty"` // redirect: the next hop
}
