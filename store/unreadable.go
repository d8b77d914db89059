package store

import (
	"encoding/json"
	"errors"
	"fmt"

	"mailxmppd/mail"
)

// ErrUnreadable means that what is stored of a message makes no sense to this
// program: its row was damaged, or a newer program wrote it. Whoever claims it
// would find it again and again, so that its deliveries are held instead, for an
// operator to see to.
var ErrUnreadable = errors.New("stored message cannot be read")

// ByStore is who asked for what the store did on its own account (Event.By).
const ByStore = "store"

// UnknownSender stands for the sender of a message that cannot be read.
const UnknownSender = "?"

// Unreadable names a message that cannot be read, and why.
type Unreadable struct {
	ID  mail.ID `json:"id"`
	Why string  `json:"why"`
}

// MaxUnreadable is how many of them a check names; the others it counts.
const MaxUnreadable = 100

// Unreadables is what a check of all messages found.
type Unreadables struct {
	Count int          `json:"count"`
	First []Unreadable `json:"first,omitempty"` // at most MaxUnreadable
}

// Add adds a message.
func (u *Unreadables) Add(id mail.ID, why error) {
	if u.Count++; len(u.First) < MaxUnreadable {
		u.First = append(u.First, Unreadable{ID: id, Why: why.Error()})
	}
}

// ReadStored makes sense of what both backends keep of a message as JSON. Its
// errors are ErrUnreadable.
func ReadStored(envelope, origin string) (env mail.Envelope, from mail.Origin, err error) {
	if err := json.Unmarshal([]byte(envelope), &env); err != nil {
		return env, from, fmt.Errorf("%w: its envelope: %w", ErrUnreadable, err)
	}
	if len(env.Recipients) == 0 {
		return env, from, fmt.Errorf("%w: its envelope has no recipient", ErrUnreadable)
	}
	if err := json.Unmarshal([]byte(origin), &from); err != nil {
		return env, from, fmt.Errorf("%w: its origin: %w", ErrUnreadable, err)
	}
	return env, from, nil
}

// CheckDeliveries reports a delivery of a lease that the message's envelope has no
// recipient for, as ErrUnreadable.
func (l Lease) CheckDeliveries() error {
	for _, d := range l.Deliveries {
		if d.N < 0 || d.N >= len(l.Envelope.Recipients) {
			return fmt.Errorf("%w: its envelope has %d recipients, and none for delivery %d", ErrUnreadable, len(l.Envelope.Recipients), d.N)
		}
	}
	return nil
}
