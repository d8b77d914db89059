package store

import (
	"context"
	"errors"
	"time"
)

// ErrTooMany means that a bound of what may be kept has been reached. Nothing
// was changed.
var ErrTooMany = errors.New("too many are kept already")

// Grants keeps who may write to whom (xep-draft section 10): what our
// recipients have permitted and been asked for, and what peers have permitted
// our authors. Recipients and authors are mailboxes or, as "@example.org", all
// of a domain; they are compared as they are, so that whoever stores and asks
// puts them into one form.
type Grants interface {
	// PutGrant replaces what is stored under g's name; Created stays that of the
	// first. A new one is stored only within the bounds: ErrTooMany otherwise; with
	// b.Fresh only a new one is, ErrExists for all but one of those who store it at
	// the same time. Idempotence key: the name.
	PutGrant(ctx context.Context, g Grant, b GrantBounds) error
	// DeleteGrant forgets one; ErrNotFound if there is none.
	DeleteGrant(ctx context.Context, n GrantName) error
	// Grants lists by recipient and author, in the order of their octets.
	// Expired ones are left out.
	Grants(ctx context.Context, f GrantFilter) ([]Grant, error)
	// FindGrants returns those of a kind with one of the recipients, a peer, and
	// one of the authors (nil: any), 2,000 at most. Expired ones are left out.
	FindGrants(ctx context.Context, kind GrantKind, recipients []string, peer string, authors []string) ([]Grant, error)
	// AnyGrant reports whether there is any of a kind with one of these peers in a
	// state ("" for any) that is not expired.
	AnyGrant(ctx context.Context, kind GrantKind, state GrantState, peers []string) (bool, error)
	// ToldGrant notes that the peer has heard of a grant, unless it was stored
	// anew since it was read: version is that of what the peer heard of.
	ToldGrant(ctx context.Context, n GrantName, version int64) error
}

// GrantKind says whose permission an entry is about, and how far it got.
type GrantKind string

const (
	GrantGiven  GrantKind = "given"  // by a recipient of ours, or taken back by them
	GrantAsked  GrantKind = "asked"  // a request to a recipient of ours, waiting; Told once the recipient was asked
	GrantHeard  GrantKind = "heard"  // a request that nobody has looked at yet: the recipient need not exist
	GrantHeld   GrantKind = "held"   // by a peer's recipient, to an author of ours
	GrantWanted GrantKind = "wanted" // a request of an author of ours, waiting
)

// GrantState is what became of a permission.
type GrantState string

const (
	Granted GrantState = "granted"
	Revoked GrantState = "revoked" // of a given one also: refused, and not to be asked again; of an asked one: withdrawn
	Pending GrantState = "pending" // of what is asked or wanted
)

// GrantOrigin says whose doing an entry is.
type GrantOrigin string

const (
	ByOperator  GrantOrigin = "operator"
	ByRecipient GrantOrigin = "recipient" // who answered a request
	Automatic   GrantOrigin = "automatic" // the recipient has written to the author
	ByPeer      GrantOrigin = "peer"
)

// GrantName is what an entry is stored under.
type GrantName struct {
	Kind      GrantKind `json:"kind"`
	Recipient string    `json:"recipient"`
	Author    string    `json:"author"`
}

// Grant is one entry.
type Grant struct {
	GrantName
	Peer    string      `json:"peer"` // the domain of the other side: the author's of given and asked, else the recipient's
	State   GrantState  `json:"state"`
	Origin  GrantOrigin `json:"origin"`
	Key     []byte      `json:"key,omitempty"`  // given, held: for the offer; asked: makes the addresses to answer to single-use
	Text    string      `json:"text,omitempty"` // of a request, one line
	Told    bool        `json:"told"`           // the peer has heard of it, or need not
	Created time.Time   `json:"created"`        // set by the store
	// Expires is the grant's own instant, as it is told to peers; zero for never.
	Expires time.Time `json:"expires,omitzero"`
	Version int64     `json:"version"` // raised by each PutGrant; set by the store
}

// GrantBounds bound how many there are before a new one is stored; 0 for no
// bound.
type GrantBounds struct {
	// Fresh stores nothing in the place of what has not expired.
	Fresh        bool `json:"fresh,omitempty"`
	PerRecipient int  `json:"per_recipient"` // of the same kind, recipient and origin
	PerAuthor    int  `json:"per_author"`    // of the same kind and author
	PerPeer      int  `json:"per_peer"`      // of the same kind and peer
}

// GrantFilter chooses what Grants lists.
type GrantFilter struct {
	Kind      GrantKind
	Recipient string // "" for all
	Untold    bool   // only those that the peer has to hear of
	After     GrantName
	Limit     int // 1 to 10,000
}
