package postgres

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"mailxmppd/mail/faults"
	"mailxmppd/store"
)

// Check implements store.MoveTarget.
func (t *Target) Check(ctx context.Context, given []store.MoveTable) (contents int64, err error) {
	if err := t.compareCounts(ctx, given); err != nil {
		return 0, failed(err)
	}
	whole, err := t.compareBodies(ctx)
	if err != nil {
		return 0, failed(err)
	}
	inPieces, err := t.comparePieces(ctx)
	if err != nil {
		return 0, failed(err)
	}
	if err := t.drawOn(ctx); err != nil {
		return 0, failed(err)
	}
	// Without statistics the first claims would read all.
	names := make([]string, len(t.tables))
	for i, x := range t.tables {
		names[i] = pgx.Identifier{x.Name}.Sanitize()
	}
	_, err = t.tx.Exec(ctx, `ANALYZE `+strings.Join(names, ", "))
	return whole + inPieces, failed(err)
}

// Commit implements store.MoveTarget.
func (t *Target) Commit(ctx context.Context) error {
	_, err := t.tx.Exec(ctx, `DROP TABLE `+unfinishedTable)
	if err == nil {
		err = t.tx.Commit(ctx)
	}
	if err == nil {
		faults.Point("move.committed")
	}
	return failed(err)
}

func (t *Target) compareCounts(ctx context.Context, given []store.MoveTable) error {
	for _, g := range given {
		var n int64
		if err := t.tx.QueryRow(ctx, `SELECT count(*) FROM `+pgx.Identifier{g.Name}.Sanitize()).Scan(&n); err != nil {
			return err
		}
		if n != g.Rows {
			return fmt.Errorf("table %s has %d rows, not %d", g.Name, n, g.Rows)
		}
	}
	return nil
}

// Messages whose content must be there: it goes with the last delivery, unless
// that was dropped.
const needsContent = `(finished_at IS NULL OR dropped_at IS NOT NULL)`

// compareBodies has the database read the contents that are within their
// message's row.
func (t *Target) compareBodies(ctx context.Context) (n int64, err error) {
	var wrong string
	err = t.tx.QueryRow(ctx, `SELECT count(*), coalesce(min(id) FILTER (WHERE length(coalesce(body, '')) <> size OR sha256(coalesce(body, '')) <> sha256), '')
		FROM messages WHERE content_id IS NULL AND `+needsContent).Scan(&n, &wrong)
	if err == nil && wrong != "" {
		err = notAsStored(wrong)
	}
	return n, err
}

func notAsStored(id string) error {
	return fmt.Errorf("the content of message %s is not what its hash says: drop or settle that message first", id)
}

// checkStep is how many messages are looked up at a time to have their pieces
// read.
const checkStep = 500

// comparePieces reads back the contents that are in pieces, one at a time.
func (t *Target) comparePieces(ctx context.Context) (n int64, err error) {
	type longOne struct {
		ID      string
		Sum     []byte
		Content int64
	}
	after := ""
	for {
		rows, err := t.tx.Query(ctx, `SELECT id, sha256, content_id FROM messages
			WHERE id > $1 AND content_id IS NOT NULL AND `+needsContent+` ORDER BY id LIMIT $2`, after, checkStep)
		if err != nil {
			return 0, err
		}
		found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[longOne])
		if err != nil {
			return 0, err
		}
		for _, m := range found {
			sum, err := t.sumOf(ctx, m.Content)
			if err != nil {
				return 0, err
			}
			if !bytes.Equal(sum, m.Sum) {
				return 0, notAsStored(m.ID)
			}
			after = m.ID
		}
		if n += int64(len(found)); len(found) < checkStep {
			return n, nil
		}
	}
}

func (t *Target) sumOf(ctx context.Context, content int64) ([]byte, error) {
	rows, err := t.tx.Query(ctx, `SELECT start, data FROM content WHERE content_id = $1 ORDER BY start`, content)
	if err != nil {
		return nil, err
	}
	h, next := sha256.New(), int64(0)
	var start int64
	var data []byte
	_, err = pgx.ForEachRow(rows, []any{&start, &data}, func() error {
		if start != next {
			return fmt.Errorf("content %d has a piece at %d where %d was due", content, start, next)
		}
		next += int64(len(data))
		h.Write(data)
		return nil
	})
	return h.Sum(nil), err
}

// drawOn has what the database numbers by itself go on after what came.
func (t *Target) drawOn(ctx context.Context) error {
	_, err := t.tx.Exec(ctx, `SELECT setval('content_ids', greatest(
			(SELECT last_value FROM content_ids), (SELECT max(content_id) FROM content), (SELECT max(content_id) FROM messages),
			(SELECT max(greatest(content_id, turn)) FROM transfers)))`)
	if err != nil {
		return err
	}
	rows, err := t.tx.Query(ctx, `SELECT r.relname, a.attname FROM pg_class r JOIN pg_attribute a ON a.attrelid = r.oid
		WHERE r.relnamespace = to_regnamespace($1) AND a.attidentity <> ''`, t.schema)
	if err != nil {
		return err
	}
	type numbered struct{ Table, Column string }
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[numbered])
	for _, x := range all {
		if err != nil {
			return err
		}
		name, column := pgx.Identifier{x.Table}.Sanitize(), pgx.Identifier{x.Column}.Sanitize()
		_, err = t.tx.Exec(ctx, `SELECT setval(pg_get_serial_sequence($1, $2), coalesce((SELECT max(`+column+`) FROM `+name+`), 0) + 1)`, name, x.Column)
	}
	return err
}
