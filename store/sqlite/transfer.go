package sqlite

import (
	"context"
	"fmt"
	"io"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// smallPiece is the length up to which a piece of a transfer is joined with
// the chunk that follows it, so that tiny chunks do not make as many rows.
const smallPiece = 4096

// openTransfer is a row of transfers.
type openTransfer struct {
	hash                  store.ContentHash
	content, pieces, next int64
	turn                  int64
}

// heldBy reports whether k may act on the open transfer.
func (o *openTransfer) heldBy(k store.TransferKey) bool { return k.Turn == 0 || k.Turn == o.turn }

func findOpen(c *conn, k store.TransferKey) (*openTransfer, error) {
	r, err := c.first("SELECT size, sha256, content, pieces, next, turn FROM transfers WHERE domain = ? AND local = ? AND tid = ?",
		k.Domain, k.Local, k.ID)
	if err != nil || r == nil {
		return nil, err
	}
	o := &openTransfer{content: r.int(2), pieces: r.int(3), next: r.int(4), turn: r.int(5)}
	o.hash = hashOf(r.int(0), r.blob(1))
	return o, nil
}

func hashOf(size int64, sum []byte) store.ContentHash {
	h := store.ContentHash{Size: size}
	copy(h.SHA256[:], sum)
	return h
}

// allOfTransfer gives what was accepted, then what is open. It is one statement,
// which sees one state without a transaction: every offer asks this twice.
const allOfTransfer = `SELECT size, sha256, rcpt, id, NULL, NULL, NULL, NULL FROM acceptances WHERE domain = ?1 AND local = ?2 AND tid = ?3
	UNION ALL
	SELECT size, sha256, NULL, NULL, content, pieces, next, turn FROM transfers WHERE domain = ?1 AND local = ?2 AND tid = ?3`

// find gathers what is known of a transfer.
func find(c *conn, k store.TransferKey) (t store.Transfer, o *openTransfer, err error) {
	err = c.query(allOfTransfer, []any{k.Domain, k.Local, k.ID}, func(r row) error {
		t.Known, t.Hash = true, hashOf(r.int(0), r.blob(1))
		if r[2] == nil {
			o = &openTransfer{t.Hash, r.int(4), r.int(5), r.int(6), r.int(7)}
			t.Open, t.Next = true, o.next
			return nil
		}
		var a mail.Address
		if err := a.UnmarshalText([]byte(r.text(2))); err != nil {
			return fmt.Errorf("stored acceptance: %w", err)
		}
		if t.Accepted == nil {
			t.Accepted = map[mail.Address]mail.ID{}
		}
		t.Accepted[a] = mail.ID(r.text(3))
		return nil
	})
	if err != nil {
		return store.Transfer{}, nil, err
	}
	return t, o, nil
}

// Lookup implements store.Transfers.
func (s *Store) Lookup(ctx context.Context, k store.TransferKey) (t store.Transfer, err error) {
	err = s.read(ctx, func(c *conn) (err error) {
		t, _, err = find(c, k)
		return err
	})
	return t, err
}

// TransferBegin implements store.Transfers.
func (s *Store) TransferBegin(ctx context.Context, k store.TransferKey, h store.ContentHash) (t store.Transfer, err error) {
	err = s.writer.do(ctx, receiving, 0, func(c *conn) (err error) {
		if t, _, err = find(c, k); err != nil {
			return err
		}
		if t.Known && t.Hash != h {
			t = store.Transfer{}
			return store.ErrConflict
		}
		// Drawn anew, never counted: a transfer that is begun once more after
		// an abort must not bring an old token back to life.
		t.Turn = s.num.Add(1)
		if t.Open {
			_, err = c.exec("UPDATE transfers SET touched = ?, turn = ? WHERE domain = ? AND local = ? AND tid = ?", s.now(), t.Turn, k.Domain, k.Local, k.ID)
			return err
		}
		t.Known, t.Open, t.Hash = true, true, h
		_, err = c.exec(`INSERT INTO transfers (domain, local, tid, size, sha256, content, pieces, next, touched, turn)
			VALUES (?, ?, ?, ?, ?, ?, 0, 0, ?, ?)`, k.Domain, k.Local, k.ID, h.Size, h.SHA256[:], s.num.Add(1), s.now(), t.Turn)
		return err
	})
	return t, err
}

// Append implements store.Transfers.
func (s *Store) Append(ctx context.Context, k store.TransferKey, offset int64, p []byte) (next int64, err error) {
	err = s.writer.do(ctx, receiving, len(p), func(c *conn) error {
		o, err := findOpen(c, k)
		if err != nil {
			return err
		}
		if o == nil {
			return store.ErrNotFound
		}
		if !o.heldBy(k) {
			return store.ErrLeaseLost
		}
		next = o.next
		if offset != o.next || len(p) == 0 {
			return nil
		}
		if int64(len(p)) > o.hash.Size-o.next {
			return fmt.Errorf("transfer of %d octets would grow to %d", o.hash.Size, o.next+int64(len(p)))
		}
		if err := o.append(c, p); err != nil {
			return err
		}
		next = o.next + int64(len(p))
		_, err = c.exec("UPDATE transfers SET pieces = ?, next = ?, touched = ? WHERE domain = ? AND local = ? AND tid = ?",
			o.pieces, next, s.now(), k.Domain, k.Local, k.ID)
		return err
	})
	return next, err
}

// append stores p, which the sender has cut as it liked, as one piece or more.
func (o *openTransfer) append(c *conn, p []byte) error {
	if o.pieces > 0 && len(p) < smallPiece {
		key := pieceKey(o.content, o.pieces-1)
		r, err := c.first("SELECT data FROM content WHERE key = ? AND length(data) < ?", key, smallPiece)
		if err != nil {
			return err
		}
		if r != nil {
			_, err := c.exec("UPDATE content SET data = ? WHERE key = ?", append(r.blob(0), p...), key)
			return err
		}
	}
	for len(p) > 0 {
		n := min(len(p), store.PieceSize)
		if _, err := c.exec(insertPiece, pieceKey(o.content, o.pieces), p[:n]); err != nil {
			return err
		}
		o.pieces++
		p = p[n:]
	}
	return nil
}

// OpenTransfer implements store.Transfers.
func (s *Store) OpenTransfer(ctx context.Context, k store.TransferKey) (io.ReadCloser, error) {
	r := &reader{s: s, ctx: ctx}
	err := s.snapshot(ctx, func(c *conn) error {
		o, err := findOpen(c, k)
		if err != nil {
			return err
		}
		if o == nil {
			return store.ErrNotFound
		}
		r.next, r.last = pieceKeys(o.content)
		r.left = o.next
		return r.load(c)
	})
	if err != nil {
		return nil, err
	}
	return r, nil
}

// TransferAbort implements store.Transfers.
func (s *Store) TransferAbort(ctx context.Context, k store.TransferKey) error {
	var left int64
	err := s.writer.do(ctx, plain, 0, func(c *conn) error {
		left = 0
		o, err := findOpen(c, k)
		if err != nil || o == nil || !o.heldBy(k) {
			return err
		}
		left, err = o.end(c, k, true)
		return err
	})
	if err != nil {
		return err
	}
	s.sweep(ctx, left)
	return nil
}

// end removes an open transfer, with its content unless a message has it now,
// and returns what is left to sweep.
func (o *openTransfer) end(c *conn, k store.TransferKey, withContent bool) (left int64, err error) {
	_, err = c.exec("DELETE FROM transfers WHERE domain = ? AND local = ? AND tid = ?", k.Domain, k.Local, k.ID)
	if err != nil || !withContent {
		return 0, err
	}
	return discard(c, o.content, o.next)
}
