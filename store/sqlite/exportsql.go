package sqlite

import (
	"fmt"
	"strings"
)

// What Postgres keeps in another shape than SQLite is brought into that shape
// here. All other tables are alike in both, and are read as they are.

// apartContent are the pieces of content that no message holds in its own row,
// and that something refers to.
const apartContent = `key >> 24 NOT IN (SELECT content FROM loose) AND NOT EXISTS (SELECT 1 FROM messages WHERE num = key >> 24)`

const (
	openOfMessage = `FROM deliveries d WHERE d.key BETWEEN m.num << 16 AND m.num << 16 | 65535`

	// Content that came in one piece bears the number of its message.
	exportMessages = `SELECT m.id, m.tid, m.envelope, m.origin,
		json_object('received', m.received, 'has_id', json(iif(m.flags & 1, 'true', 'false')), 'eight_bit', json(iif(m.flags & 2, 'true', 'false')),
			'header_utf8', json(iif(m.flags & 4, 'true', 'false')), 'null', json(iif(m.flags & 8, 'true', 'false')),
			'long_line', json(iif(m.flags & 16, 'true', 'false'))) AS facts,
		m.trace, m.size, m.sha256,
		CASE WHEN m.content = m.num THEN (SELECT c.data FROM content c WHERE c.key = m.num << 24) END AS body,
		CASE WHEN m.content <> m.num THEN nullif(m.content, 0) END AS content_id,
		(SELECT count(d.due) ` + openOfMessage + `) AS open, m.created,
		(SELECT iif(count(d.due) = 0, max(d.settled), NULL) ` + openOfMessage + `) AS finished, nullif(m.dropped, 0) AS dropped
		FROM messages m ORDER BY m.num`

	exportContent = `SELECT key >> 24 AS content_id, 0 AS start, data FROM content WHERE ` + apartContent + ` ORDER BY key`

	exportTransfers = `SELECT domain, local, tid, size, sha256, content AS content_id, next, touched, turn FROM transfers`

	exportAcceptances = `SELECT domain, local, tid, rcpt, size, sha256, id AS message_id, at AS accepted FROM acceptances`

	exportEvents = `SELECT m.id AS message_id, e.seq, e.n, e.at, e.verb, e.by, e.detail
		FROM events e CROSS JOIN messages m ON m.num = e.num`
)

// exportOf is the query that gives the rows of a table.
func exportOf(table string) string {
	switch table {
	case "messages":
		return exportMessages
	case "content":
		return exportContent
	case "transfers":
		return exportTransfers
	case "acceptances":
		return exportAcceptances
	case "events":
		return exportEvents
	case "deliveries":
		return exportDeliveries()
	case "attempts":
		return exportAttempts()
	}
	return "SELECT * FROM " + quoted(table)
}

// exportDeliveries: a lease has been ended by opening the store, and a held
// delivery's due time has no meaning there. An attempt that was cut short has
// no end.
func exportDeliveries() string {
	return `SELECT m.id AS message_id, d.key & 65535 AS n, d.rcpt, d.domain, ` + stateName("d.state") + ` AS state,
		CASE WHEN d.state = 7 THEN d.parked ELSE coalesce(d.due, d.settled) END AS due, m.expires + d.extra AS expires, '' AS node,
		d.token, d.attempt, d.cut AS unsettled, d.in_doubt, d.delayed, d.text AS last_text, nullif(d.began, 0) AS began,
		iif(d.ended > 0, d.ended, NULL) AS ended, ` + outcomeOf("d") + ` AS outcome, d.way, d.doubt_way, d.next,
		nullif(d.parked, 0) AS parked, nullif(d.settled, 0) AS settled, m.created
		FROM deliveries d CROSS JOIN messages m ON m.num = d.key >> 16 ORDER BY d.key`
}

func exportAttempts() string {
	return `SELECT m.id AS message_id, a.delivery & 65535 AS n, a.number, a.began, iif(a.ended > 0, a.ended, NULL) AS ended,
		` + outcomeOf("a") + ` AS outcome, a.way
		FROM attempts a CROSS JOIN messages m ON m.num = a.delivery >> 16`
}

// outcomeOf is how an attempt ended, NULL if it did not.
func outcomeOf(t string) string {
	return strings.ReplaceAll(`CASE WHEN x.ended > 0 THEN json_object('result', `+stateName("x.result")+`, 'status', x.status, 'text', x.text,
		'remote', x.remote, 'remote_id', x.remote_id, 'proof', x.proof, 'tls', x.tls) END`, "x.", t+".")
}

// stateName turns the number of a state into its name.
func stateName(column string) string {
	var b strings.Builder
	b.WriteString("CASE " + column)
	for i, name := range stateNames() {
		fmt.Fprintf(&b, " WHEN %d THEN '%s'", i, name)
	}
	return b.String() + " END"
}
