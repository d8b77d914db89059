package sqlite

import (
	"context"
	"errors"
	"fmt"
	"io"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// sweepPieces is how many pieces one op removes: SQLite follows a long blob
// page by page to free it.
const sweepPieces = 16

// stage takes d's content in: one piece into memory, to go in with the
// message; longer content into the database, under a number that is listed as
// loose until a message refers to it. unstage must follow.
func (s *Store) stage(ctx context.Context, d *draft) error {
	if d.Content == nil {
		return fmt.Errorf("message %s without content", d.ID)
	}
	r, err := d.Content.Open()
	if err != nil {
		return fmt.Errorf("content of %s: %w", d.ID, err)
	}
	defer r.Close()
	d.size = d.Content.Size()
	if d.size <= store.PieceSize {
		d.inline = make([]byte, d.size)
		return readPiece(r, d.inline, d.size)
	}
	select {
	case s.large <- struct{}{}:
		defer func() { <-s.large }()
	case <-ctx.Done():
		return ctx.Err()
	}
	piece := make([]byte, store.PieceSize)
	d.content = s.num.Add(1)
	s.staging.Store(d.content, true)
	for n, left := int64(0), d.size; left > 0; n++ {
		p := piece[:min(left, store.PieceSize)]
		err := readPiece(r, p, left)
		if err == nil {
			err = s.writer.do(ctx, staging, len(p), func(c *conn) error { return stagePiece(c, d.content, n, p) })
		}
		if err != nil {
			s.unstage(d)
			return err
		}
		left -= int64(len(p))
	}
	return nil
}

func stagePiece(c *conn, content, n int64, p []byte) error {
	if n == 0 {
		if _, err := c.exec("INSERT INTO loose (content) VALUES (?)", content); err != nil {
			return err
		}
	}
	_, err := c.exec(insertPiece, pieceKey(content, n), p)
	return err
}

// readPiece fills p, the next piece of content of which left octets remain.
func readPiece(r io.Reader, p []byte, left int64) error {
	if _, err := io.ReadFull(r, p); err != nil {
		return fmt.Errorf("content is shorter than it was said to be: %w", err)
	}
	if left > int64(len(p)) {
		return nil
	}
	if n, _ := io.ReadFull(r, make([]byte, 1)); n > 0 {
		return errors.New("content is longer than it was said to be")
	}
	return nil
}

// unstage ends what stage began. Content that came to belong to no message is
// removed; where that fails Maintain finds it.
func (s *Store) unstage(d *draft) {
	if d.content == 0 {
		return
	}
	s.staging.Delete(d.content)
	s.sweep(context.Background(), d.content)
}

// discard takes a content from its message or transfer, within their
// transaction: one piece at once, more by a sweep after it. all is how many
// octets there are.
func discard(c *conn, content, size int64) (left int64, err error) {
	if content == 0 {
		return 0, nil
	}
	if size > store.PieceSize {
		_, err := c.exec("INSERT INTO loose (content) VALUES (?)", content)
		return content, err
	}
	first, last := pieceKeys(content)
	_, err = c.exec("DELETE FROM content WHERE key BETWEEN ? AND ?", first, last)
	return 0, err
}

// sweep removes the pieces of a content if it is loose, some at a time so that
// nobody waits long, and reports whether all are gone.
func (s *Store) sweep(ctx context.Context, content int64) bool {
	if content == 0 {
		return true
	}
	first, last := pieceKeys(content)
	for gone := false; !gone; {
		err := s.writer.do(ctx, sweeping, 0, func(c *conn) error {
			gone = true
			r, err := c.first("SELECT content FROM loose WHERE content = ?", content)
			if err != nil || r == nil {
				return err
			}
			n, err := c.exec(`DELETE FROM content WHERE key IN
				(SELECT key FROM content WHERE key BETWEEN ? AND ? LIMIT ?)`, first, last, sweepPieces)
			if err != nil {
				return err
			}
			if gone = n < sweepPieces; !gone {
				return nil
			}
			_, err = c.exec("DELETE FROM loose WHERE content = ?", content)
			return err
		})
		if err != nil {
			s.log.Warn("content not removed yet", "err", err)
			return false
		}
	}
	return true
}

// OpenContent implements store.Store.
func (s *Store) OpenContent(ctx context.Context, id mail.ID) (io.ReadCloser, error) {
	r := &reader{s: s, ctx: ctx}
	err := s.read(ctx, func(c *conn) error {
		m, err := c.first(`SELECT content, size FROM messages WHERE id = ? AND EXISTS
			(SELECT 1 FROM deliveries WHERE key BETWEEN num << 16 AND num << 16 | 65535 AND due IS NOT NULL)`, string(id))
		if err != nil {
			return err
		}
		if m == nil {
			return store.ErrNotFound
		}
		r.next, r.last = pieceKeys(m.int(0))
		r.left = m.int(1)
		return r.load(c)
	})
	if err != nil {
		return nil, err
	}
	return r, nil
}

// reader reads content piece by piece, each in a read of its own, so that a
// slow reader holds up nothing. ctx is that of the call that opened it.
type reader struct {
	s          *Store
	ctx        context.Context
	next, last int64 // keys
	left       int64 // octets not loaded yet
	buf        []byte
	err        error
}

// load reads pieces until a PieceSize is there: transfers come in smaller ones.
func (r *reader) load(c *conn) error {
	if r.left <= 0 {
		return nil
	}
	var p []byte
	got := int64(0)
	err := c.query("SELECT key, data FROM content WHERE key BETWEEN ? AND ? ORDER BY key", []any{r.next, r.last}, func(row row) error {
		if row.int(0) != r.next {
			return fmt.Errorf("%w: content was removed while it was read", store.ErrNotFound)
		}
		d := row.blob(1)
		r.next++
		got += int64(len(d))
		if p == nil {
			p = d
		} else {
			p = append(p, d...)
		}
		if got >= store.PieceSize || got >= r.left {
			return errEnough
		}
		return nil
	})
	if err != nil {
		return err
	}
	if got == 0 {
		return fmt.Errorf("%w: content was removed while it was read", store.ErrNotFound)
	}
	// Chunks that came after an open transfer was looked at are not part of it.
	r.buf = p[:min(got, r.left)]
	r.left -= int64(len(r.buf))
	return nil
}

// Read implements io.Reader.
func (r *reader) Read(p []byte) (int, error) {
	if len(r.buf) == 0 && r.err == nil && r.left > 0 {
		r.err = r.s.read(r.ctx, r.load)
	}
	if r.err != nil {
		return 0, r.err
	}
	if len(r.buf) == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.buf)
	r.buf = r.buf[n:]
	return n, nil
}

// Close implements io.Closer.
func (r *reader) Close() error {
	r.buf, r.err = nil, errors.New("content reader is closed")
	return nil
}
