package postgres

import (
	"bytes"
	"context"
	"errors"
	"io"

	"github.com/jackc/pgx/v5"

	"mailxmppd/mail"
	"mailxmppd/mail/faults"
	"mailxmppd/store"
)

// smallContent is what travels with a group; longer content goes alone, a few
// at a time, so that memory does not grow with the number of callers.
const smallContent = 64 << 10

var (
	errNoContent = errors.New("message without content")
	errWrongSize = errors.New("content is not as long as it says")
)

// PutMessage implements store.Store.
func (s *Store) PutMessage(ctx context.Context, m store.NewMessage) ([]store.Lease, error) {
	row, err := s.newRow(m)
	if err != nil {
		return nil, err
	}
	if len(row.reports) > 0 { // seldom
		there, err := s.isThere(ctx, row.id)
		if err != nil {
			return nil, err
		}
		if there {
			row.reports = nil
		}
	}
	switch {
	case m.Content == nil:
		err = errNoContent
	case !row.anyOpen(): // nobody will ask for its content
		err = s.submit(ctx, &op{put: row, octets: row.octets()})
	case m.Content.Size() <= smallContent:
		if err = s.loadContent(ctx, row, m.Content); err == nil {
			err = s.submit(ctx, &op{put: row, octets: row.octets()})
		}
	default:
		err = s.putLarge(ctx, row, m.Content)
	}
	if err != nil {
		return nil, err
	}
	if !row.inserted {
		return s.repeatedLeases(ctx, row, m)
	}
	return row.leases(m), nil
}

// repeatedLeases answers a PutMessage whose id was there: its own first answer
// was lost, so the leases that it was born with are the caller's, unless they
// have run out and gone to another.
func (s *Store) repeatedLeases(ctx context.Context, row *messageRow, m store.NewMessage) ([]store.Lease, error) {
	rows, err := s.pool.Query(ctx, `SELECT n FROM deliveries WHERE message_id = $1 AND token = 1 AND node = $2`, row.id, s.node)
	if err != nil {
		return nil, failed(err)
	}
	held, err := pgx.CollectRows(rows, pgx.RowTo[int32])
	if err != nil {
		return nil, failed(err)
	}
	kept := map[int32]bool{}
	for _, n := range held {
		kept[n] = true
	}
	for i, d := range row.deliveries {
		if d.state == store.Leased && !kept[d.n] {
			row.deliveries[i].state = store.Due
		}
	}
	return row.leases(m), nil
}

// putLarge stores a message that is too large for a group.
func (s *Store) putLarge(ctx context.Context, row *messageRow, c mail.Content) error {
	release, err := s.enterLarge(ctx)
	if err != nil {
		return err
	}
	defer release()
	if there, err := s.isThere(ctx, row.id); err != nil || there { // a repetition need not write its content again
		return err
	}
	if err := s.loadContent(ctx, row, c); err != nil {
		return err
	}
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if err := claimUpload(ctx, tx, row.contentID); err != nil {
			return err
		}
		b := &pgx.Batch{}
		queueMessages(b, row.all())
		if row.claimable() {
			b.Queue(`SELECT pg_notify($1, $2)`, s.channel(), s.node)
		}
		if err := tx.SendBatch(ctx, b).Close(); err != nil {
			return err
		}
		if !row.inserted && row.contentID != 0 {
			return dropContent(ctx, tx, row.contentID)
		}
		faults.Point("store.put.before-commit")
		return nil
	})
	if err != nil {
		return failed(err)
	}
	faults.Point("store.put.after-commit")
	if row.claimable() {
		s.wakeSelf()
	}
	return nil
}

// isThere reports whether a message is stored already.
func (s *Store) isThere(ctx context.Context, id mail.ID) (there bool, err error) {
	err = s.pool.QueryRow(ctx, `SELECT EXISTS (SELECT FROM messages WHERE id = $1)`, id).Scan(&there)
	return there, failed(err)
}

// loadContent reads content into the row, or, where it is longer than a piece,
// writes it beside.
func (s *Store) loadContent(ctx context.Context, row *messageRow, c mail.Content) (err error) {
	if c == nil {
		return errNoContent
	}
	if row.size = c.Size(); row.size <= store.PieceSize {
		row.body, err = readAll(c)
	} else {
		row.contentID, err = s.upload(ctx, c)
	}
	return err
}

// enterLarge waits for a place among the large contents.
func (s *Store) enterLarge(ctx context.Context) (release func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	select {
	case <-s.closing:
		return nil, errClosed
	default:
	}
	select {
	case s.large <- struct{}{}:
		return func() { <-s.large }, nil
	case <-s.closing:
		return nil, errClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// upload writes content in pieces that nothing but an uploads row refers to.
// The pieces need not be flushed: the commit that refers to them flushes the
// log up to itself, theirs included.
func (s *Store) upload(ctx context.Context, c mail.Content) (id int64, err error) {
	r, err := c.Open()
	if err != nil {
		return 0, err
	}
	defer r.Close()
	err = s.sendUnflushed(ctx, func(b *pgx.Batch) {
		b.Queue(`INSERT INTO uploads SELECT nextval('content_ids'), now() RETURNING content_id`).QueryRow(func(row pgx.Row) error { return row.Scan(&id) })
	})
	if err != nil {
		return 0, failed(err)
	}
	piece := make([]byte, store.PieceSize)
	for start := int64(0); start < c.Size(); {
		p := piece[:min(int64(len(piece)), c.Size()-start)]
		if err := readPiece(r, p); err != nil {
			return 0, err
		}
		faults.Point("store.stage.before-commit")
		err := s.sendUnflushed(ctx, func(b *pgx.Batch) {
			b.Queue(`WITH u AS (UPDATE uploads SET touched_at = now() WHERE content_id = $1 RETURNING content_id)
				INSERT INTO content (content_id, start, data) SELECT content_id, $2, $3 FROM u`, id, start, p)
		})
		if err != nil {
			return 0, failed(err)
		}
		faults.Point("store.stage.after-commit")
		start += int64(len(p))
	}
	return id, mustEnd(r)
}

// readPiece fills p from content that is said to hold so much.
func readPiece(r io.Reader, p []byte) error {
	_, err := io.ReadFull(r, p)
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return errWrongSize
	}
	return err
}

// mustEnd checks that content is not longer than it said.
func mustEnd(r io.Reader) error {
	switch n, err := io.ReadFull(r, make([]byte, 1)); {
	case n > 0:
		return errWrongSize
	case err != io.EOF:
		return err
	}
	return nil
}

// claimUpload makes the pieces the transaction's own. That the row is gone
// means that Maintain took the upload for abandoned.
func claimUpload(ctx context.Context, tx pgx.Tx, contentID int64) error {
	if contentID == 0 {
		return nil
	}
	tag, err := tx.Exec(ctx, `DELETE FROM uploads WHERE content_id = $1`, contentID)
	if err == nil && tag.RowsAffected() == 0 {
		return errors.New("content took longer to arrive than open transfers are kept")
	}
	return err
}

func dropContent(ctx context.Context, tx pgx.Tx, contentID int64) error {
	_, err := tx.Exec(ctx, `DELETE FROM content WHERE content_id = $1`, contentID)
	return err
}

// unflushed makes the commit of the transaction at hand not wait for the disk.
const unflushed = `SELECT set_config('synchronous_commit', 'off', true)`

// sendUnflushed sends statements as one transaction in one round trip, without
// waiting for the disk.
func (s *Store) sendUnflushed(ctx context.Context, fill func(b *pgx.Batch)) error {
	b := &pgx.Batch{}
	b.Queue(unflushed)
	fill(b)
	return s.pool.SendBatch(ctx, b).Close()
}

// readAll reads content that fits into memory.
func readAll(c mail.Content) ([]byte, error) {
	if b, ok := c.(mail.Bytes); ok {
		return orEmpty(b), nil
	}
	r, err := c.Open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b := bytes.NewBuffer(make([]byte, 0, c.Size()+bytes.MinRead))
	if _, err := b.ReadFrom(io.LimitReader(r, c.Size()+1)); err != nil {
		return nil, err
	}
	if int64(b.Len()) != c.Size() {
		return nil, errWrongSize
	}
	return b.Bytes(), nil
}
