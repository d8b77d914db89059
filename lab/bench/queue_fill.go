package main

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"fmt"
	"net/url"
	"strings"

	"mailxmppd/lab/harness"
)

// stock is what is put into a spool in bulk, past the gateway: messages of one
// recipient each.
type stock struct {
	messages int
	domains  int // they go to dN.example, in turn; 0: all to live.example, and are due
	share    int // 1 in so many is marked, of each domain alike
	content  []byte
}

// waiting is a full queue: each message has failed once and is due again
// within four hours, but not within the next.
func waiting(messages, domains, share int) stock {
	return stock{messages, domains, share, message("waiting", 512)}
}

// due is a spool of new mail.
func due(messages, size int) stock {
	return stock{messages: messages, share: 1, content: message("due", size)}
}

// open opens a spool as the gateway finds it.
func openSpool(s harness.Side) (db *sql.DB, postgres bool, err error) {
	if path, ok := strings.CutPrefix(s.Store, "sqlite://"); ok {
		db, err = sql.Open("sqlite", (&url.URL{Scheme: "file", Path: path, RawQuery: "_pragma=busy_timeout(10000)"}).String())
	} else if u, perr := url.Parse(s.Store); perr != nil {
		err = perr
	} else {
		query := u.Query()
		query.Set("search_path", s.Schema)
		u.RawQuery, postgres = query.Encode(), true
		db, err = sql.Open("pgx", u.String())
	}
	if err == nil {
		db.SetMaxOpenConns(1)
	}
	return db, postgres, err
}

// fillStep bounds one statement.
const fillStep = 100_000

const fillPostgres = `WITH m AS (
	INSERT INTO messages (id, tid, envelope, origin, facts, trace, size, sha256, body, open, created_at)
	SELECT lpad(i::text, 26, '0'), CASE WHEN i / greatest($3::int, 1) % $4::int = 0 THEN 'marked' ELSE '' END,
		'{"sender":"romeo@capulet.example","recipients":[{"address":"' || rcpt || '"}]}', '{}', '{"has_id":true}', '', length($5::bytea), $6::bytea, $5::bytea, 1, now()
	FROM (SELECT i, CASE WHEN $3::int = 0 THEN 'juliet@live.example' ELSE 'x@d' || (i % greatest($3::int, 1)) || '.example' END AS rcpt
		FROM generate_series($1::int, $2::int) i) s
	RETURNING id, id::int AS i, created_at)
INSERT INTO deliveries (message_id, n, rcpt, domain, state, due_at, expires_at, node, token, attempt, unsettled, in_doubt, delayed, last_text,
	began_at, ended_at, outcome, created_at, way)
SELECT id, 0, CASE WHEN $3::int = 0 THEN 'juliet@live.example' ELSE 'x@d' || (i % greatest($3::int, 1)) || '.example' END,
	CASE WHEN $3::int = 0 THEN 'live.example' ELSE 'd' || (i % greatest($3::int, 1)) || '.example' END,
	CASE WHEN $3::int = 0 THEN 'due' ELSE 'deferred' END, CASE WHEN $3::int = 0 THEN now() ELSE now() + (61 + i % 180) * interval '1 minute' END,
	now() + interval '5 days', '', $7::int, $7::int, 0, false, true, CASE WHEN $3::int = 0 THEN '' ELSE 'connection refused' END,
	CASE WHEN $3::int > 0 THEN now() END, CASE WHEN $3::int > 0 THEN now() END, CASE WHEN $3::int > 0 THEN '{}' END, created_at, ''
FROM m`

const fillSQLiteMessages = `WITH RECURSIVE s(i) AS (SELECT ?1 UNION ALL SELECT i + 1 FROM s WHERE i < ?2)
INSERT INTO messages (num, id, tid, envelope, origin, trace, size, sha256, received, flags, content, created, expires)
SELECT i, printf('%026d', i), CASE WHEN i / max(?3, 1) % ?4 = 0 THEN 'marked' ELSE '' END,
	'{"sender":"romeo@capulet.example","recipients":[{"address":"' || CASE WHEN ?3 = 0 THEN 'juliet@live.example' ELSE 'x@d' || (i % max(?3, 1)) || '.example' END || '"}]}',
	'{}', NULL, length(?5), ?6, 0, 1, i, unixepoch() * 1000, (unixepoch() + 432000) * 1000 FROM s`

const fillSQLiteContent = `WITH RECURSIVE s(i) AS (SELECT ?1 UNION ALL SELECT i + 1 FROM s WHERE i < ?2)
INSERT INTO content (key, data) SELECT i << 24, ?3 FROM s`

// The states are 0 for due and 1 for deferred.
const fillSQLiteDeliveries = `WITH RECURSIVE s(i) AS (SELECT ?1 UNION ALL SELECT i + 1 FROM s WHERE i < ?2)
INSERT INTO deliveries (key, domain, rcpt, state, due, token, attempt, cut, in_doubt, delayed, settled, began, ended, result, status, text, remote, remote_id, proof, tls)
SELECT i << 16, CASE WHEN ?3 = 0 THEN 'live.example' ELSE 'd' || (i % max(?3, 1)) || '.example' END,
	CASE WHEN ?3 = 0 THEN 'juliet@live.example' ELSE 'x@d' || (i % max(?3, 1)) || '.example' END,
	?4, CASE WHEN ?3 = 0 THEN unixepoch() * 1000 ELSE (unixepoch() + (61 + i % 180) * 60) * 1000 END, ?4, ?4, 0, 0, 1, 0,
	CASE WHEN ?3 > 0 THEN unixepoch() * 1000 ELSE 0 END, CASE WHEN ?3 > 0 THEN unixepoch() * 1000 ELSE 0 END, ?4, '',
	CASE WHEN ?3 > 0 THEN 'connection refused' ELSE '' END, '', '', '', '' FROM s`

// fill puts a stock into a spool that a gateway has prepared.
func fill(ctx context.Context, s harness.Side, st stock) error {
	db, postgres, err := openSpool(s)
	if err != nil {
		return err
	}
	defer db.Close()
	sum, failed := sha256.Sum256(st.content), 0
	if st.domains > 0 {
		failed = 1
	}
	for from := 1; from <= st.messages; from += fillStep {
		to := min(from+fillStep-1, st.messages)
		if postgres {
			_, err = db.ExecContext(ctx, fillPostgres, from, to, st.domains, st.share, st.content, sum[:], failed)
		} else if _, err = db.ExecContext(ctx, fillSQLiteMessages, from, to, st.domains, st.share, st.content, sum[:]); err == nil {
			if _, err = db.ExecContext(ctx, fillSQLiteContent, from, to, st.content); err == nil {
				_, err = db.ExecContext(ctx, fillSQLiteDeliveries, from, to, st.domains, failed)
			}
		}
		if err != nil {
			return fmt.Errorf("filling the spool: %w", err)
		}
	}
	if postgres {
		for _, table := range []string{"messages", "deliveries"} {
			if _, err := db.ExecContext(ctx, "VACUUM (ANALYZE) "+table); err != nil {
				return err
			}
		}
	}
	return nil
}

// overdue makes the marked messages due, as if the gateway had been away for
// hours, and returns how many those are.
func overdue(ctx context.Context, s harness.Side) (int64, error) {
	db, postgres, err := openSpool(s)
	if err != nil {
		return 0, err
	}
	defer db.Close()
	query := `UPDATE deliveries SET due = due - 6 * 3600000 WHERE key >> 16 IN (SELECT num FROM messages WHERE tid = 'marked')`
	if postgres {
		query = `UPDATE deliveries d SET due_at = due_at - interval '6 hours' FROM messages m WHERE m.id = d.message_id AND m.tid = 'marked'`
	}
	result, err := db.ExecContext(ctx, query)
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

// countOverdue counts what is still due.
func countOverdue(ctx context.Context, s harness.Side) (n int, err error) {
	db, postgres, err := openSpool(s)
	if err != nil {
		return 0, err
	}
	defer db.Close()
	query := `SELECT count(*) FROM deliveries WHERE state < 2 AND due <= unixepoch() * 1000`
	if postgres {
		query = `SELECT count(*) FROM deliveries WHERE state IN ('due', 'deferred') AND due_at <= now()`
	}
	return n, db.QueryRowContext(ctx, query).Scan(&n)
}
