package sqlite

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// draft is a message about to be inserted, with all that can be done before
// the writer's turn.
type draft struct {
	store.NewMessage
	envelope string
	origin   string
	size     int64
	inline   []byte // content of one piece, inserted with the message
	content  int64  // longer content, staged already; 0: inline or empty
	reports  []*draft
	waits    bool // a delivery was inserted that no lease was given for
}

// PutMessage implements store.Store.
func (s *Store) PutMessage(ctx context.Context, m store.NewMessage) ([]store.Lease, error) {
	d, err := s.draft(m)
	if err != nil {
		return nil, err
	}
	if err := s.stage(ctx, d); err != nil {
		return nil, err
	}
	defer s.unstage(d)
	var leases []store.Lease
	err = s.writer.do(ctx, putting, d.weight(), func(c *conn) (err error) {
		var num int64
		if leases, num, err = s.insert(c, d, nil); err == nil && num != 0 {
			err = s.insertReports(c, d)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if d.waits {
		s.signal()
	}
	return leases, nil
}

// draft checks and encodes m.
func (s *Store) draft(m store.NewMessage) (*draft, error) {
	n := len(m.Envelope.Recipients)
	switch {
	case m.ID == "":
		return nil, errors.New("message without an id")
	case n == 0 || n > maxRecipients:
		return nil, fmt.Errorf("message with %d recipients: want 1 to %d", n, maxRecipients)
	case m.First != nil && len(m.First) != n:
		return nil, fmt.Errorf("message with %d recipients and %d first states", n, len(m.First))
	}
	envelope, err := json.Marshal(m.Envelope)
	if err != nil {
		return nil, fmt.Errorf("envelope of %s: %w", m.ID, err)
	}
	origin, err := json.Marshal(m.Origin)
	if err != nil {
		return nil, fmt.Errorf("origin of %s: %w", m.ID, err)
	}
	d := &draft{NewMessage: m, envelope: string(envelope), origin: string(origin)}
	for _, r := range m.Reports {
		r.Lease = store.Own{} // nobody would be told of the lease
		report, err := s.draftReport(r)
		if err != nil {
			return nil, err
		}
		d.reports = append(d.reports, report)
	}
	return d, nil
}

// draftReport is draft for a message that goes with another, its content
// included.
func (s *Store) draftReport(m store.NewMessage) (*draft, error) {
	switch {
	case m.Content == nil:
		return nil, fmt.Errorf("report %s without content", m.ID)
	case m.Content.Size() > store.PieceSize:
		return nil, fmt.Errorf("%s: %w", m.ID, store.ErrReport)
	}
	d, err := s.draft(m)
	if err != nil {
		return nil, err
	}
	return d, s.stage(context.Background(), d) // one piece: into memory
}

func (s *Store) insertReports(c *conn, d *draft) error {
	for _, r := range d.reports {
		if _, _, err := s.insert(c, r, nil); err != nil {
			return err
		}
		d.waits = true
	}
	return nil
}

// weight is about what d adds to a transaction, in octets.
func (d *draft) weight() int {
	n := len(d.inline) + 1024
	for _, r := range d.reports {
		n += r.weight()
	}
	return n
}

// first is how the i-th delivery starts.
func (d *draft) first(i int) store.First {
	if d.First == nil {
		return store.First{}
	}
	return d.First[i]
}

const insertMessage = `INSERT INTO messages
	(num, id, tid, envelope, origin, trace, size, sha256, received, flags, content, created, expires)
	VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING`

const insertDelivery = `INSERT INTO deliveries
	(key, domain, rcpt, state, due, token, attempt, cut, in_doubt, delayed, settled,
	 began, ended, result, status, text, remote, remote_id, proof, tls, way, doubt_way)
	VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`

const insertPiece = `INSERT INTO content (key, data) VALUES (?, ?)`

// insert stores d with a delivery for each of the recipients that only names
// (nil: all), and returns those that start leased and the message's number.
// A message that is there already stays as it is, its number is 0.
func (s *Store) insert(c *conn, d *draft, only []int) ([]store.Lease, int64, error) {
	now, num := s.now(), s.num.Add(1)
	d.waits = false
	if only == nil {
		only = make([]int, len(d.Envelope.Recipients))
		for i := range only {
			only[i] = i
		}
	}
	content := d.content
	if len(d.inline) > 0 {
		content = num
	}
	m := &message{num: num, id: d.ID, tid: d.Transfer, envelope: d.Envelope, origin: d.Origin, trace: d.Trace,
		facts: d.Facts, created: now, expires: now + millis(d.Lifetime)}
	m.facts.Size = d.size
	added, err := c.exec(insertMessage, num, string(d.ID), d.Transfer, d.envelope, d.origin, d.Trace, d.size,
		d.Facts.SHA256[:], d.Facts.Received, flagsOf(d.Facts), content, now, m.expires)
	if err != nil {
		return nil, 0, err
	}
	if added == 0 {
		d.waits = true // nobody may have heard of it
		leases, err := s.bornLeases(c, d, now)
		return leases, 0, err
	}
	open := false
	var leases []store.Lease
	for _, i := range only {
		leased, err := insertOne(c, d, m, i)
		if err != nil {
			return nil, 0, err
		}
		done := d.first(i).Done
		open, d.waits = open || !done, d.waits || !done && !leased
		if leased {
			leases = addBorn(leases, d, m, i, now)
		}
	}
	if !open {
		return nil, num, nil // nobody will read the content: what is staged stays loose
	}
	switch {
	case len(d.inline) > 0:
		_, err = c.exec(insertPiece, pieceKey(content, 0), d.inline)
	case content != 0:
		_, err = c.exec("DELETE FROM loose WHERE content = ?", content)
	}
	return leases, num, err
}

// insertOne stores the delivery for recipient i and reports whether it starts
// leased.
func insertOne(c *conn, d *draft, m *message, i int) (leased bool, err error) {
	f, rcpt, now := d.first(i), d.Envelope.Recipients[i].Address, m.created
	leased = !f.Done && f.Delay <= 0 && d.Lease.For > 0 && slices.Contains(d.Lease.Domains, rcpt.Domain)
	var (
		state          = stateDue
		due            any
		began, ended   int64
		token, settled int64
		result         int64
		o              record
	)
	switch {
	case f.Done:
		state, settled = stateDelivered, now
		if !f.Outcome.Delivered() {
			state = stateBounced
		}
	case leased:
		state, token, due, began = stateLeased, 1, now+millis(d.Lease.For), now
	default:
		due = min(now+millis(f.Delay), m.expires)
		if f.InDoubt || f.Outcome.Failure != nil {
			state = stateDeferred
		}
	}
	if f.Done || f.Outcome != (mail.Outcome{}) {
		o, result = recordOf(f.Outcome), stateDeferred
		if f.Done {
			result = state
		}
		if !leased {
			began, ended = now, now
		}
	}
	attempt, cut, way, doubtWay := 0, 0, f.Way, store.WayUnknown
	if f.InDoubt {
		doubtWay = f.Way
	}
	if leased {
		attempt, cut, way = 1, 1, d.Lease.Ways[rcpt.Domain]
		if o != (record{}) {
			if err := insertAttempt(c, deliveryKey(m.num, i), now, result, f.Way, o); err != nil {
				return false, err
			}
			o, result = record{text: o.text}, 0
		}
	}
	_, err = c.exec(insertDelivery, deliveryKey(m.num, i), rcpt.Domain, rcpt.String(), state, due, token, attempt, cut,
		f.InDoubt, settled, began, ended, result, o.status, o.text, o.remote, o.remoteID, o.proof, o.tls, string(way), string(doubtWay))
	return leased, err
}

// insertAttempt records the attempt before the spooling, number 0, beside one
// that has begun since.
func insertAttempt(c *conn, key, now, result int64, way store.Way, o record) error {
	_, err := c.exec(`INSERT INTO attempts
		(delivery, number, way, began, ended, result, status, text, remote, remote_id, proof, tls)
		VALUES (?, 0, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		key, string(way), now, now, result, o.status, o.text, o.remote, o.remoteID, o.proof, o.tls)
	return err
}

// addBorn adds delivery i, stored just now with its first attempt begun, to
// the lease of its domain.
func addBorn(leases []store.Lease, d *draft, m *message, i int, now int64) []store.Lease {
	domain := d.Envelope.Recipients[i].Address.Domain
	at := slices.IndexFunc(leases, func(l store.Lease) bool { return l.Domain == domain })
	if at < 0 {
		at = len(leases)
		leases = append(leases, m.lease(domain, now))
		leases[at].Way = d.Lease.Ways[domain]
	}
	f, doubtWay := d.first(i), store.WayUnknown
	if f.InDoubt {
		doubtWay = f.Way
	}
	leases[at].Deliveries = append(leases[at].Deliveries, store.Delivery{
		N: i, Token: 1, Attempt: 1, InDoubt: f.InDoubt, DoubtWay: doubtWay, Left: duration(max(0, m.expires-now)), LastText: recordOf(f.Outcome).text,
	})
	return leases
}

// bornLeases answers a repeated PutMessage with the leases that the first one
// gave, as far as they still stand.
func (s *Store) bornLeases(c *conn, d *draft, now int64) ([]store.Lease, error) {
	if len(d.Lease.Domains) == 0 {
		return nil, nil
	}
	m, err := findMessage(c, d.ID)
	if err != nil {
		return nil, err
	}
	first, last := deliveryKeys(m.num)
	var leases []store.Lease
	err = c.query("SELECT key & 65535, domain FROM deliveries WHERE key BETWEEN ? AND ? AND token = 1 AND state = 2 AND ended = 0",
		[]any{first, last}, func(r row) error {
			n := int(r.int(0))
			if n < len(d.Envelope.Recipients) && slices.Contains(d.Lease.Domains, r.text(1)) {
				leases = addBorn(leases, d, m, n, now)
			}
			return nil
		})
	return leases, err
}

// findMessage reads a message by its id.
func findMessage(c *conn, id mail.ID) (*message, error) {
	r, err := c.first("SELECT "+messageColumns+" FROM messages WHERE id = ?", string(id))
	if err != nil {
		return nil, err
	}
	if r == nil {
		return nil, store.ErrNotFound
	}
	return scanMessage(r)
}

// record is what is stored of an outcome.
type record struct{ status, text, remote, remoteID, proof, tls string }

func recordOf(o mail.Outcome) record {
	r := record{text: o.Text, remote: o.Remote, remoteID: o.RemoteID, proof: o.Proof, tls: o.TLS}
	if f := o.Failure; f != nil {
		r.status = f.Status()
		if r.text == "" {
			r.text = f.Text
		}
		if r.remote == "" {
			r.remote = f.Remote
		}
	}
	return r
}
