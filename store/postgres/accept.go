package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// errIncomplete answers an Accept that comes before the last octet.
var errIncomplete = errors.New("open transfer is not complete")

// acceptOp is an Accept on its way.
type acceptOp struct {
	key  store.TransferKey
	hash store.ContentHash
	m    store.NewMessage
	all  *messageRow // with a delivery for every recipient
	open bool        // the content is the open transfer's

	// Decided under the lock of the key:
	row      *messageRow // what is stored; nil: no recipient is new
	accepted []mail.ID
	end      bool  // there is an open transfer to end
	unused   int64 // its content, where nothing refers to it any more
}

// Accept implements store.Transfers.
func (s *Store) Accept(ctx context.Context, k store.TransferKey, h store.ContentHash, m store.NewMessage) ([]mail.ID, []store.Lease, error) {
	if err := checkKey(k); err != nil {
		return nil, nil, err
	}
	row, err := s.newRow(m)
	if err != nil {
		return nil, nil, err
	}
	a := &acceptOp{key: k, hash: h, m: m, all: row, open: m.Content == nil}
	if m.Content != nil && m.Content.Size() > smallContent {
		release, err := s.enterLarge(ctx)
		if err != nil {
			return nil, nil, err
		}
		defer release()
	}
	switch {
	case m.Content == nil:
	case m.Content.Size() != h.Size:
		err = errWrongSize
	case m.Content.Size() > store.PieceSize:
		a.open = true
		err = s.fillTransfer(ctx, k, h, m)
	default:
		err = s.loadContent(ctx, row, m.Content)
	}
	if err != nil {
		return nil, nil, err
	}
	if a.open {
		row.size = h.Size
	}
	if err := s.submit(ctx, &op{accept: a, octets: row.octets()}); err != nil {
		return nil, nil, err
	}
	if a.row == nil {
		return a.accepted, nil, nil
	}
	return a.accepted, a.row.leases(m), nil
}

// fillTransfer writes content that is too large for one row by way of an open
// transfer. Another Accept of the same content may be doing so at once: then
// each goes on where the other got to.
func (s *Store) fillTransfer(ctx context.Context, k store.TransferKey, h store.ContentHash, m store.NewMessage) error {
	t, err := s.TransferBegin(ctx, k, h)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(m.Envelope.Recipients, func(r mail.Recipient) bool { return t.Accepted[r.Address] == "" }) {
		return nil
	}
	r, err := m.Content.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	piece := make([]byte, store.PieceSize)
	for at := int64(0); at < h.Size; {
		if at < t.Next {
			skipped, err := io.CopyN(io.Discard, r, t.Next-at)
			if err == io.EOF {
				err = errWrongSize
			}
			if err != nil {
				return err
			}
			at += skipped
			continue
		}
		p := piece[:min(int64(len(piece)), h.Size-at)]
		if err := readPiece(r, p); err != nil {
			return err
		}
		at += int64(len(p))
		t.Next, err = s.Append(ctx, k, at-int64(len(p)), p)
		switch {
		case errors.Is(err, store.ErrNotFound): // ended by the other: Accept will know
			return nil
		case err != nil:
			return err
		case t.Next < at:
			return errors.New("open transfer was begun anew meanwhile")
		}
	}
	return mustEnd(r)
}

// recall begins a transaction, takes the lock of each transfer so that
// duplicates wait for each other, reads what is known, and decides.
func recall(ctx context.Context, conn *pgxpool.Conn, ops []*op) error {
	keys := make([]store.TransferKey, len(ops))
	ids := make([]string, len(ops))
	for i, o := range ops {
		keys[i], ids[i] = o.accept.key, string(o.accept.m.ID)
	}
	b := &pgx.Batch{}
	b.Queue(`BEGIN`)
	queueLocks(b, keys)
	found := queueRecall(b, keys)
	var taken []mail.ID
	b.Queue(`SELECT id FROM messages WHERE id = ANY ($1)`, ids).Query(func(rows pgx.Rows) (err error) {
		taken, err = pgx.CollectRows(rows, pgx.RowTo[mail.ID])
		return err
	})
	if err := conn.SendBatch(ctx, b).Close(); err != nil {
		return err
	}
	for i, o := range ops {
		o.err = o.accept.decide(found[i], slices.Contains(taken, o.accept.m.ID))
	}
	return nil
}

// decide says what is to be stored, given what is known.
func (a *acceptOp) decide(f known, idTaken bool) error {
	a.row, a.accepted, a.end, a.unused = nil, nil, false, 0
	if f.Known && f.Hash != a.hash {
		return store.ErrConflict
	}
	row := *a.all
	row.deliveries = nil
	var accepted []mail.ID
	fresh := map[mail.Address]bool{}
	for n, r := range a.m.Envelope.Recipients {
		id, before := f.Accepted[r.Address]
		if !before {
			id = a.m.ID
			if !fresh[r.Address] { // named twice, it gets one delivery
				fresh[r.Address] = true
				row.deliveries = append(row.deliveries, a.all.deliveries[n])
			}
		}
		accepted = append(accepted, id)
	}
	switch {
	case len(fresh) == 0:
	case idTaken:
		return fmt.Errorf("message id %s is in use", a.m.ID)
	case a.open && !f.Open:
		return store.ErrNotFound
	case a.open && !f.heldBy(a.key):
		return store.ErrLeaseLost
	case a.open && f.Next != f.Hash.Size:
		return errIncomplete
	default:
		if !row.anyOpen() {
			row.body = nil // nobody will ask for it
		}
		a.row = &row
	}
	a.accepted, a.end = accepted, f.Open
	if a.row != nil && a.open && row.anyOpen() {
		row.contentID = f.contentID
	} else {
		a.unused = f.contentID
	}
	return nil
}

// queueAcceptances remembers what a group of Accepts took, and ends their open
// transfers.
func queueAcceptances(b *pgx.Batch, ops []*op) {
	var v struct {
		domain, local, tid, rcpt, id []string
		size                         []int64
		sum                          [][]byte
	}
	var end struct{ domain, local, tid []string }
	var unused []int64
	for _, o := range ops {
		a := o.accept
		if o.err != nil {
			continue
		}
		if a.end {
			end.domain, end.local, end.tid = append(end.domain, a.key.Domain), append(end.local, a.key.Local), append(end.tid, a.key.ID)
		}
		if a.unused != 0 {
			unused = append(unused, a.unused)
		}
		if a.row == nil {
			continue
		}
		for _, d := range a.row.deliveries {
			v.domain, v.local, v.tid = append(v.domain, a.key.Domain), append(v.local, a.key.Local), append(v.tid, a.key.ID)
			v.rcpt, v.id = append(v.rcpt, d.rcpt), append(v.id, string(a.m.ID))
			v.size, v.sum = append(v.size, a.hash.Size), append(v.sum, a.hash.SHA256[:])
		}
	}
	if len(v.id) > 0 {
		b.Queue(`INSERT INTO acceptances (domain, local, tid, rcpt, size, sha256, message_id, accepted_at)
			SELECT u.*, now() FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::bytea[], $7::text[]) AS u`,
			v.domain, v.local, v.tid, v.rcpt, v.size, v.sum, v.id)
	}
	if len(end.tid) > 0 {
		b.Queue(`DELETE FROM transfers t USING unnest($1::text[], $2::text[], $3::text[]) AS k (domain, local, tid)
			WHERE t.domain = k.domain AND t.local = k.local AND t.tid = k.tid`, end.domain, end.local, end.tid)
	}
	if len(unused) > 0 {
		b.Queue(`DELETE FROM content WHERE content_id = ANY ($1)`, unused)
	}
}
