// Package store states the contract between the gateway and its durable
// memory: messages and their content, deliveries with leases and fencing
// tokens, transfers from peers with what was accepted, what is known of peers,
// the users who may submit mail, the keys of those who write to ours, and who may
// write to whom. store/sqlite and store/postgres fulfil it; store/storetest shows it.
//
// Every method is safe for concurrent use and honours its context. Unless a
// method says otherwise, what it did is durable when it returns nil: it
// survives a kill of the process and a loss of power. An error means that
// nothing was done, or, when the answer of the database was lost, that it may
// have been done whole, never half.
//
// Times are the store's: the database's clock with Postgres, the one process's
// clock with SQLite. Callers pass durations, never instants, for what is due.
package store

import (
	"context"
	"errors"
	"io"
	"strings"
	"time"

	"mailxmppd/mail"
)

var (
	// ErrLeaseLost is the only answer to a stale fencing token: the lease ran
	// out and another claim took the deliveries over, or an operator settled
	// them; of an open transfer, that another node or offer took it up.
	// Nothing was changed.
	ErrLeaseLost = errors.New("lease lost")
	// ErrNotFound means that there is no such message, delivery or transfer.
	ErrNotFound = errors.New("not found")
	// ErrConflict means that a transfer id is in use for other content.
	ErrConflict = errors.New("transfer id is in use for other content")
	// ErrFull means that the disk or the database has no room left.
	ErrFull = errors.New("store is full")
	// ErrNewer means that the store's schema is newer than this program.
	ErrNewer = errors.New("store was written by a newer version of this program")
	// ErrReport means that a report is too large to go with its message.
	ErrReport = errors.New("report is longer than a piece of content")
)

// PieceSize is how content is cut in the store: every piece but the last has
// this many octets, but for content that came in the chunks of a transfer, which
// is cut as they were and never into longer pieces.
const PieceSize = 512 << 10

// Store is the whole contract. The gateway's parts declare what they use of it.
type Store interface {
	// PutMessage makes a message and its deliveries durable in one
	// transaction; content longer than a piece is written before it, in
	// pieces that nothing refers to until then. Idempotence key: m.ID.
	// Deliveries that are due now and whose recipient's domain is in
	// m.Lease.Domains come back leased, their first attempt already begun.
	PutMessage(ctx context.Context, m NewMessage) ([]Lease, error)

	// OpenContent reads a message's content in pieces. ErrNotFound once the
	// last delivery has been settled. The reader need not see a removal that
	// happens meanwhile, but then fails instead of ending early.
	OpenContent(ctx context.Context, id mail.ID) (io.ReadCloser, error)

	// Claim leases up to n groups of due deliveries for the given time, the
	// longest due first, leaving out those to busy destinations (see
	// Lease.Destination) and taking at most perDest groups of any other, 0 for
	// no bound. A group is all due deliveries of one message to one domain by
	// one next hop. Where a long backlog of busy destinations lies in front, it
	// goes by destinations instead of by time, so that its cost does not grow
	// with that backlog. Two claims never return the same delivery under the
	// same token. A message that cannot be read keeps nothing from being claimed:
	// its deliveries are held, with the reason for their last words and as an event
	// by ByStore, and logged. Durable. A lease that has run out is
	// due like anything else, and so is, once the store is opened again, that
	// of a process that ended: at once, but after its second attempt in a row
	// that was begun and never settled with a back-off of 4 s that doubles to
	// 5 min. Such an attempt counts as ended in doubt.
	Claim(ctx context.Context, n int, lease time.Duration, busy []string, perDest int) ([]Lease, error)

	// NextDue tells how long a claimer that leaves out the busy destinations,
	// and has just taken what it could, may sleep until it looks again: 0 for
	// not at all, ok false when nothing is waiting. It looks at a bounded part
	// of the queue, and may so say less than the truth where busy destinations
	// have a long backlog, never more.
	NextDue(ctx context.Context, busy []string) (wait time.Duration, ok bool, err error)

	// BeginAttempt records, before anything is dialled, that an attempt
	// starts, and by which way as far as that is known: it raises Attempt by
	// one, so that a crash loop is counted. Fencing token: l. Returns the lease
	// with the raised counts and its Way.
	BeginAttempt(ctx context.Context, l Lease, way Way) (Lease, error)

	// SetWay records by which way the running attempt goes, where that was
	// unknown or another when it began; to be called before the mail can have
	// been taken. Fencing token: l.
	SetWay(ctx context.Context, l Lease, way Way) error

	// Renew prolongs leases. Those that are lost are returned.
	Renew(ctx context.Context, leases []Lease, lease time.Duration) (lost []Lease, err error)

	// Settle ends a lease in one transaction: every delivery of the lease gets
	// its result, the DSNs (nil: none) are queued, and the content goes when
	// no delivery of the message is open any more. Fencing token: s.Lease;
	// with ErrLeaseLost nothing happened, DSNs included.
	Settle(ctx context.Context, s Settlement) error

	// Release makes the waiting deliveries to a destination due now (all of
	// them for ""), leased and held ones excepted, the soonest due first, and
	// says how many. Not durable before the
	// next durable write.
	Release(ctx context.Context, destination string) (int, error)

	// Seize leases the open deliveries of a message (one of them if n >= 0)
	// whoever holds them and whatever they wait for, so that they can be
	// settled now at the request of by, which is recorded. A running attempt
	// loses its lease. A lease that runs out unsettled leaves them due.
	// ErrUnreadable for a message that cannot be read: nothing was changed.
	Seize(ctx context.Context, id mail.ID, n int, by string, lease time.Duration) ([]Lease, error)

	// Wake receives, without blocking the sender, when deliveries may have
	// become due by the doing of this or another node.
	Wake() <-chan struct{}

	// Revived receives the destination whose deliveries another node has made
	// due by Release, or "" where an operator did so by a verb: whoever takes it
	// for dead is to try it again. It comes before the Wake for the same, and
	// may get lost.
	Revived() <-chan string

	Transfers
	Peers
	Keys
	Users
	Contacts
	Policies
	Grants
	TLSReports
	Signing
	ReturnPaths
	Uses
	Queue

	// Maintain removes what has outlived its retention: acceptances, open
	// transfers, traces of finished messages, the content of dropped ones,
	// expired policies, grants, return paths and uses, old days of TLS reports, content
	// that nothing refers to.
	// At most one bounded batch of each a call; more reports that some is left.
	Maintain(ctx context.Context, r Retention) (more bool, err error)

	// Close ends the work in hand and closes the store.
	Close() error
}

// Transfers remembers what peers sent, per bound domain and transfer id.
type Transfers interface {
	// Lookup tells what is known of a transfer: which of its recipients were
	// accepted under which id, and how far an open one got.
	Lookup(ctx context.Context, k TransferKey) (Transfer, error)

	// TransferBegin opens a transfer for content that comes in chunks, or
	// finds the open one with the same hash and size, and says from which
	// offset to go on. ErrConflict when the key is in use for other content.
	// Each call draws a new fencing token (Turn): whoever held the transfer
	// before, on this node or another, has lost it. Not durable before the
	// next durable write.
	TransferBegin(ctx context.Context, k TransferKey, h ContentHash) (Transfer, error)

	// Append adds octets at an offset, which must be where the transfer
	// stands: otherwise nothing is done, and the returned offset says where it
	// stands. Fencing token: k.Turn. Not durable before Accept.
	Append(ctx context.Context, k TransferKey, offset int64, p []byte) (next int64, err error)

	// OpenTransfer reads back what an open transfer holds.
	OpenTransfer(ctx context.Context, k TransferKey) (io.ReadCloser, error)

	// Accept makes a peer's message durable and remembers its acceptance, in
	// one transaction: for each recipient that was not accepted before, a
	// delivery of m (leased as in PutMessage) and the acceptance. Recipients
	// accepted before are answered from memory and get no second delivery.
	// m.Content nil takes the content of the open transfer, which Accept ends;
	// then k.Turn is its fencing token. Idempotence key: k with the recipient.
	// ErrConflict as in TransferBegin.
	// accepted has, per recipient of m's envelope, the id under which it was
	// accepted, now or before; m itself is stored only if a recipient is new.
	Accept(ctx context.Context, k TransferKey, h ContentHash, m NewMessage) (accepted []mail.ID, leases []Lease, err error)

	// TransferAbort forgets an open transfer and its content. Acceptances stay.
	// Fencing token: k.Turn, but a transfer that is somebody else's now is left
	// alone without an error.
	TransferAbort(ctx context.Context, k TransferKey) error
}

// Peers remembers what was learned of other domains.
type Peers interface {
	// Peer returns what is stored for a domain; ErrNotFound if nothing is.
	Peer(ctx context.Context, domain string) (Peer, error)
	// PutPeer replaces what is stored for p.Domain.
	PutPeer(ctx context.Context, p Peer) error
}

// Keys keeps secrets that all nodes share and that outlive a restart.
type Keys interface {
	// Key returns the secret of a name. Where there is none, fresh becomes it;
	// of callers at the same time one wins, and all get the same.
	Key(ctx context.Context, name string, fresh []byte) ([]byte, error)
}

// Users keeps who may submit mail. Names are compared as they are: whoever
// stores and asks puts them into one form.
type Users interface {
	// User returns what is stored for a name; ErrNotFound if nothing is.
	User(ctx context.Context, name string) (User, error)
	// PutUser replaces what is stored for u.Name.
	PutUser(ctx context.Context, u User) error
	// DeleteUser forgets a user; ErrNotFound if there is none.
	DeleteUser(ctx context.Context, name string) error
	// Users returns all of them, in the order of their names' octets.
	Users(ctx context.Context) ([]User, error)
}

// Policies keeps what domains ask of TLS (MTA-STS, RFC 8461) as long as it is
// in force.
type Policies interface {
	// GetPolicy returns what PutPolicy stored for a domain; nil where there is
	// nothing, or it has expired.
	GetPolicy(ctx context.Context, domain string) ([]byte, error)
	// PutPolicy replaces what is stored for a domain. The instant is the
	// policy's own: it says when it was fetched and for how long it holds.
	PutPolicy(ctx context.Context, domain string, policy []byte, expires time.Time) error
}

// NewMessage is a message to store.
type NewMessage struct {
	mail.Message
	Transfer string        // mail.TransferID
	Lifetime time.Duration // until its deliveries expire
	First    []First       // per recipient how its delivery starts; nil: all due now
	Lease    Own           // deliveries to start with a lease

	// Reports are about this message, and stored in its transaction if anything
	// of it is: a repetition, or an Accept without a new recipient, stores none.
	// Their content is of one piece at most, and they start without leases.
	Reports []NewMessage
}

// First is how a delivery starts when it is not simply due now. With a failure
// in Outcome it starts Deferred, and that attempt is recorded as number 0.
type First struct {
	Delay   time.Duration // until it is due; negative for a head start over what is due by then
	Way     Way           // of the attempt before the spooling
	InDoubt bool          // that attempt ended in doubt
	Done    bool          // settled already (e.g. accepted by cut-through): kept for the trace only
	Outcome mail.Outcome  // of that attempt
}

// Own asks for leases together with storing.
type Own struct {
	Domains []string       // recipient domains to lease
	For     time.Duration  // how long
	Ways    map[string]Way // by domain, as far as known: where the attempt goes
}

// Way is how an attempt carries mail.
type Way string

const (
	WayUnknown Way = ""
	WayXMPP    Way = "xmpp"
	WaySMTP    Way = "smtp"
	WayLocal   Way = "local" // final delivery here
)

// Lease is the right to try the deliveries of one message to one domain, until
// it runs out. Token fences: each claim of a delivery raises it.
type Lease struct {
	ID         mail.ID
	Transfer   string
	Envelope   mail.Envelope // all recipients of the message, by number
	Facts      mail.Facts
	Trace      []byte
	Origin     mail.Origin
	Domain     string
	Next       string // the next hop that an operator redirected them to; "" as routed
	Way        Way    // of the running attempt, as recorded
	Deliveries []Delivery
	Age        time.Duration // since the message was stored
}

// Destination is what Claim's busy names: the recipients' domain, or the next
// hop that the deliveries were redirected to.
func (l Lease) Destination() string { return Destination(l.Domain, l.Next) }

// Destination is that of deliveries to a domain that were redirected to a next
// hop, or not (""). The mark before a next hop is in no domain's name.
func Destination(domain, next string) string {
	if next == "" {
		return domain
	}
	return redirectMark + next
}

const redirectMark = ">"

// Redirected is the next hop that a destination stands for, ok false if it is
// a domain.
func Redirected(destination string) (next string, ok bool) {
	return strings.CutPrefix(destination, redirectMark)
}

// Delivery is one recipient's life, the part that a lease carries.
type Delivery struct {
	N       int   // of the recipient in the envelope; the delivery is "<ID>.<N>"
	Token   int64 // fencing token of this lease
	Attempt int   // attempts begun so far, the current one included once begun
	InDoubt bool  // an earlier attempt ended in doubt
	// DoubtWay is the way of the last attempt that ended in doubt, settled so
	// or cut short by a crash. Once it is WayXMPP it stays that until the
	// delivery is settled for good: what a later attempt by another way came
	// to says nothing of what the peer took.
	DoubtWay Way
	Delayed  bool // a delay DSN has been sent
	Expired  bool // its lifetime is over: this is its last attempt's settlement, no dialling
	Left     time.Duration
	LastText string // words of the last failure, for DSNs
}

// State is where a delivery stands.
type State string

const (
	Due       State = "due"      // waits for its first attempt
	Deferred  State = "deferred" // waits for another attempt
	Leased    State = "leased"   // an attempt may be running
	Held      State = "held"     // an operator keeps it from being tried, and from expiring
	Delivered State = "delivered"
	Bounced   State = "bounced"
	ExpiredSt State = "expired"
	Dropped   State = "dropped"
)

// States lists all of them.
func States() []State {
	return []State{Due, Deferred, Leased, Held, Delivered, Bounced, ExpiredSt, Dropped}
}

// Open reports whether a delivery in this state still has to be settled.
func (s State) Open() bool { return s == Due || s == Deferred || s == Leased || s == Held }

// Settlement is the end of one attempt.
type Settlement struct {
	Lease   Lease
	Results []Result // one for each of Lease.Deliveries, in their order
	DSNs    []NewMessage
}

// Result is what a delivery becomes.
type Result struct {
	State   State         // Deferred, Delivered, Bounced or ExpiredSt
	Delay   time.Duration // Deferred: until the next attempt
	InDoubt bool          // Deferred: this attempt ended in doubt; earlier doubt is kept anyway
	Delayed bool          // a delay DSN goes out with this settlement
	Outcome mail.Outcome  // recorded with the attempt
}

// TransferKey names a transfer from a peer: ids are the sender's to choose and
// mean nothing outside the domain that its stream has proven.
type TransferKey struct {
	Domain string // bound domain, A-labels
	Local  string // our domain that it was sent to
	ID     string

	// Turn fences: it is that of the TransferBegin by which the caller got the
	// open transfer, and what is done under an older one than the last fails
	// with ErrLeaseLost. 0, for a caller that holds none, fences nothing. It is
	// no part of the name.
	Turn int64
}

// Name is the key without its fencing token.
func (k TransferKey) Name() TransferKey {
	k.Turn = 0
	return k
}

// ContentHash is what a sender promises about its content.
type ContentHash struct {
	Size   int64
	SHA256 [32]byte
}

// Transfer is what is known of a transfer. The zero value: nothing.
type Transfer struct {
	Known    bool
	Hash     ContentHash
	Open     bool                     // chunks may be appended at Next
	Next     int64                    // octets held of an open one
	Turn     int64                    // fencing token of an open one, from TransferBegin alone
	Accepted map[mail.Address]mail.ID // recipients accepted, with the id given to the sender
}

// Peer is what was learned of another domain.
type Peer struct {
	Domain string
	Facts  []byte        // JSON of the package that learned it
	Seen   time.Time     // the store's time of the last PutPeer, set by the store
	Age    time.Duration // since Seen, set by the store
}

// User is somebody who may submit mail.
type User struct {
	Name string `json:"name"`
	// Verifier is what is kept of the password, never the password itself; ""
	// where another program checks it.
	Verifier string `json:"verifier,omitempty"`
	// Addresses are the user's own: mailboxes, or "@example.org" for all
	// mailboxes of a domain.
	Addresses []string `json:"addresses"`
}

// Retention says how long finished things are kept.
type Retention struct {
	Acceptances time.Duration // at least 7 days (xep-draft section 5.6)
	Transfers   time.Duration // open transfers without progress
	Traces      time.Duration // finished messages
	Dropped     time.Duration // the content of what an operator dropped
	TLSReports  time.Duration // whole days
}
