package postgres

import (
	"context"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"

	"mailxmppd/mail"
	"mailxmppd/mail/faults"
	"mailxmppd/store"
)

// known is what the store holds about one transfer.
type known struct {
	store.Transfer
	contentID int64 // of an open one
	turn      int64 // its fencing token
}

// heldBy reports whether k may act on the open transfer.
func (f *known) heldBy(k store.TransferKey) bool { return k.Turn == 0 || k.Turn == f.turn }

// maxKeyPart bounds the parts of a key in octets: they go into an index.
const maxKeyPart = 512

// checkKey refuses what the database could not hold, before it can fail others
// in the same group.
func checkKey(k store.TransferKey) error {
	for _, part := range []string{k.Domain, k.Local, k.ID} {
		if part == "" || len(part) > maxKeyPart || !utf8.ValidString(part) || strings.ContainsRune(part, 0) {
			return mail.Failf(mail.Malformed, "transfer id or domain is not valid")
		}
	}
	return nil
}

// queueLocks makes the transactions on these keys wait for each other, in an
// order that all nodes keep.
func queueLocks(b *pgx.Batch, keys []store.TransferKey) {
	locks := make([]int64, len(keys))
	for i, k := range keys {
		locks[i] = lockKey("transfer", k.Domain, k.Local, k.ID)
	}
	b.Queue(`SELECT pg_advisory_xact_lock(k) FROM (SELECT k FROM unnest($1::bigint[]) AS k ORDER BY k OFFSET 0) AS k`, locks)
}

// queueRecall reads what is known of each key.
func queueRecall(b *pgx.Batch, keys []store.TransferKey) []known {
	found := make([]known, len(keys))
	var domain, local, tid []string
	for _, k := range keys {
		domain, local, tid = append(domain, k.Domain), append(local, k.Local), append(tid, k.ID)
	}
	const asked = ` FROM unnest($1::text[], $2::text[], $3::text[]) WITH ORDINALITY AS k (domain, local, tid, i) `
	var (
		i, size, next, contentID, turn int64
		sum                            []byte
		rcpt                           string
		id                             mail.ID
	)
	b.Queue(`SELECT k.i, a.size, a.sha256, a.rcpt, a.message_id`+asked+
		`JOIN acceptances a ON a.domain = k.domain AND a.local = k.local AND a.tid = k.tid`, domain, local, tid).Query(func(rows pgx.Rows) error {
		_, err := pgx.ForEachRow(rows, []any{&i, &size, &sum, &rcpt, &id}, func() error {
			f := &found[i-1]
			f.set(size, sum)
			if f.Accepted == nil {
				f.Accepted = map[mail.Address]mail.ID{}
			}
			var a mail.Address
			err := a.UnmarshalText([]byte(rcpt))
			f.Accepted[a] = id
			return err
		})
		return err
	})
	b.Queue(`SELECT k.i, t.size, t.sha256, t.next, t.content_id, t.turn`+asked+
		`JOIN transfers t ON t.domain = k.domain AND t.local = k.local AND t.tid = k.tid`, domain, local, tid).Query(func(rows pgx.Rows) error {
		_, err := pgx.ForEachRow(rows, []any{&i, &size, &sum, &next, &contentID, &turn}, func() error {
			f := &found[i-1]
			f.set(size, sum)
			f.Open, f.Next, f.contentID, f.turn = true, next, contentID, turn
			return nil
		})
		return err
	})
	return found
}

func (f *known) set(size int64, sum []byte) {
	f.Known = true
	f.Hash.Size = size
	copy(f.Hash.SHA256[:], sum)
}

// Lookup implements store.Transfers.
func (s *Store) Lookup(ctx context.Context, k store.TransferKey) (store.Transfer, error) {
	if err := checkKey(k); err != nil {
		return store.Transfer{}, err
	}
	b := &pgx.Batch{}
	found := queueRecall(b, []store.TransferKey{k})
	if err := s.pool.SendBatch(ctx, b).Close(); err != nil {
		return store.Transfer{}, failed(err)
	}
	return found[0].Transfer, nil
}

// TransferBegin implements store.Transfers.
func (s *Store) TransferBegin(ctx context.Context, k store.TransferKey, h store.ContentHash) (store.Transfer, error) {
	if err := checkKey(k); err != nil {
		return store.Transfer{}, err
	}
	if h.Size < 0 {
		return store.Transfer{}, mail.Failf(mail.Malformed, "size of the content is negative")
	}
	var t store.Transfer
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		b := &pgx.Batch{}
		b.Queue(unflushed)
		queueLocks(b, []store.TransferKey{k})
		found := queueRecall(b, []store.TransferKey{k})
		if err := tx.SendBatch(ctx, b).Close(); err != nil {
			return err
		}
		if t = found[0].Transfer; t.Known && t.Hash != h {
			return store.ErrConflict
		}
		// Drawn anew, never counted: a transfer that is begun once more after
		// an abort must not bring an old token back to life.
		faults.Point("store.transfer.before-commit")
		if t.Open {
			return tx.QueryRow(ctx, `UPDATE transfers SET touched_at = now(), turn = nextval('content_ids')
				WHERE domain = $1 AND local = $2 AND tid = $3 RETURNING turn, next`, k.Domain, k.Local, k.ID).Scan(&t.Turn, &t.Next)
		}
		t.Known, t.Hash, t.Open = true, h, true
		return tx.QueryRow(ctx, `INSERT INTO transfers (domain, local, tid, size, sha256, content_id, next, touched_at, turn)
			VALUES ($1, $2, $3, $4, $5, nextval('content_ids'), 0, now(), nextval('content_ids')) RETURNING turn`,
			k.Domain, k.Local, k.ID, h.Size, h.SHA256[:]).Scan(&t.Turn)
	})
	if err != nil {
		return store.Transfer{}, failed(err)
	}
	return t, nil
}

// appendPieces adds rows where the transfer stands at $4 and has room for $5
// octets more, and is held under the token $8.
const appendPieces = `
WITH t AS (
	UPDATE transfers SET next = next + $5, touched_at = now()
	WHERE domain = $1 AND local = $2 AND tid = $3 AND next = $4 AND next + $5 <= size AND ($8::bigint = 0 OR turn = $8)
	RETURNING content_id
), c AS (
	INSERT INTO content (content_id, start, data) SELECT t.content_id, p.start, p.data FROM t, unnest($6::bigint[], $7::bytea[]) AS p (start, data)
)
SELECT EXISTS (SELECT FROM t)`

// Append implements store.Transfers. Each call makes rows of its own, as
// rewriting a row that is not full yet would cost its length again.
func (s *Store) Append(ctx context.Context, k store.TransferKey, offset int64, p []byte) (next int64, err error) {
	if err := checkKey(k); err != nil {
		return 0, err
	}
	var starts []int64
	var pieces [][]byte
	for rest, at := p, offset; len(rest) > 0; {
		piece := rest[:min(len(rest), store.PieceSize)]
		starts, pieces = append(starts, at), append(pieces, piece)
		at, rest = at+int64(len(piece)), rest[len(piece):]
	}
	var done bool
	var size, turn int64
	faults.Point("store.transfer.before-commit")
	err = s.sendUnflushed(ctx, func(b *pgx.Batch) {
		b.Queue(appendPieces, k.Domain, k.Local, k.ID, offset, int64(len(p)), starts, pieces, k.Turn).QueryRow(func(row pgx.Row) error { return row.Scan(&done) })
		b.Queue(`SELECT next, size, turn FROM transfers WHERE domain = $1 AND local = $2 AND tid = $3`, k.Domain, k.Local, k.ID).
			QueryRow(func(row pgx.Row) error { return row.Scan(&next, &size, &turn) })
	})
	faults.Point("store.transfer.after-commit")
	switch {
	case err != nil:
		return 0, failed(err)
	case !done && k.Turn != 0 && turn != k.Turn:
		return 0, store.ErrLeaseLost
	case !done && next == offset && int64(len(p)) > size-next:
		return next, mail.Failf(mail.Malformed, "transfer is longer than its size")
	}
	return next, nil
}

// OpenTransfer implements store.Transfers.
func (s *Store) OpenTransfer(ctx context.Context, k store.TransferKey) (io.ReadCloser, error) {
	if err := checkKey(k); err != nil {
		return nil, err
	}
	r := &pieces{ctx: ctx, pool: s.pool}
	err := s.pool.QueryRow(ctx, `SELECT content_id, next FROM transfers WHERE domain = $1 AND local = $2 AND tid = $3`, k.Domain, k.Local, k.ID).Scan(&r.id, &r.size)
	if err != nil {
		return nil, failed(err)
	}
	return r, nil
}

// TransferAbort implements store.Transfers.
func (s *Store) TransferAbort(ctx context.Context, k store.TransferKey) error {
	if err := checkKey(k); err != nil {
		return err
	}
	_, err := s.pool.Exec(ctx, `
		WITH t AS (
			DELETE FROM transfers WHERE domain = $1 AND local = $2 AND tid = $3 AND ($4::bigint = 0 OR turn = $4) RETURNING content_id
		)
		DELETE FROM content c USING t WHERE c.content_id = t.content_id`, k.Domain, k.Local, k.ID, k.Turn)
	return failed(err)
}
