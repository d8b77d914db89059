package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/jackc/pgx/v5/pgxpool"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// OpenContent implements store.Store.
func (s *Store) OpenContent(ctx context.Context, id mail.ID) (io.ReadCloser, error) {
	var (
		body      []byte
		contentID *int64
		size      int64
	)
	err := s.pool.QueryRow(ctx, `SELECT body, content_id, size FROM messages WHERE id = $1 AND finished_at IS NULL`, id).Scan(&body, &contentID, &size)
	switch {
	case err != nil:
		return nil, failed(err)
	case contentID == nil:
		return io.NopCloser(bytes.NewReader(body)), nil
	}
	return &pieces{ctx: ctx, pool: s.pool, id: *contentID, size: size}, nil
}

// pieces reads content row by row, with no transaction open between reads: a
// slow reader must not hold back the database's clean-up.
type pieces struct {
	ctx    context.Context
	pool   *pgxpool.Pool
	id     int64
	size   int64
	next   int64 // offset of what is not fetched yet
	rows   int   // to fetch at a time
	buf    [][]byte
	closed bool
}

// Read implements io.Reader.
func (p *pieces) Read(b []byte) (int, error) {
	if p.closed {
		return 0, errors.New("read from closed content")
	}
	for len(p.buf) == 0 {
		if p.next >= p.size {
			return 0, io.EOF
		}
		if err := p.fetch(); err != nil {
			return 0, err
		}
	}
	n := copy(b, p.buf[0])
	if p.buf[0] = p.buf[0][n:]; len(p.buf[0]) == 0 {
		p.buf = p.buf[1:]
	}
	return n, nil
}

// fetch gets the next rows, as many as make about one piece: a peer that sent
// small chunks left small rows.
func (p *pieces) fetch() error {
	res, err := p.pool.Query(p.ctx, `SELECT start, data FROM content WHERE content_id = $1 AND start >= $2 ORDER BY start LIMIT $3`, p.id, p.next, max(1, p.rows))
	if err != nil {
		return failed(err)
	}
	defer res.Close()
	for res.Next() {
		var start int64
		var data []byte
		if err := res.Scan(&start, &data); err != nil {
			return failed(err)
		}
		if start != p.next || len(data) == 0 {
			return fmt.Errorf("content %d: piece at %d where %d was due: %w", p.id, start, p.next, store.ErrNotFound)
		}
		p.buf = append(p.buf, data)
		p.next += int64(len(data))
		p.rows = min(64, store.PieceSize/len(data))
	}
	if err := res.Err(); err != nil {
		return failed(err)
	}
	if len(p.buf) == 0 {
		return fmt.Errorf("content %d: removed after %d of %d octets: %w", p.id, p.next, p.size, store.ErrNotFound)
	}
	return nil
}

// Close implements io.Closer.
func (p *pieces) Close() error {
	p.closed, p.buf = true, nil
	return nil
}
