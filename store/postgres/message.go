package postgres

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// messageRow is a message with its deliveries as the tables hold them.
type messageRow struct {
	id                           mail.ID
	tid, envelope, origin, facts string
	trace, sha256, body          []byte
	size, contentID              int64
	deliveries                   []deliveryRow
	inserted                     bool // false after the commit: the id was there before
	reports                      []*messageRow
}

type deliveryRow struct {
	n                     int32
	rcpt, domain, node    string
	state                 store.State
	due, expires          float64 // seconds from now
	token                 int64
	attempt               int32
	way, doubtWay         store.Way
	inDoubt, began, ended bool
	lastText, outcome     string
	left                  time.Duration
}

// storedFacts is the part of mail.Facts that has no column of its own.
type storedFacts struct {
	Received   int  `json:"received,omitempty"`
	HasID      bool `json:"has_id,omitempty"`
	EightBit   bool `json:"eight_bit,omitempty"`
	HeaderUTF8 bool `json:"header_utf8,omitempty"`
	Null       bool `json:"null,omitempty"`
	LongLine   bool `json:"long_line,omitempty"`
}

// newRow prepares m, without its content.
func (s *Store) newRow(m store.NewMessage) (*messageRow, error) {
	if _, err := mail.ParseID(string(m.ID)); err != nil {
		return nil, err
	}
	if len(m.Envelope.Recipients) == 0 {
		return nil, fmt.Errorf("message %s: no recipients", m.ID)
	}
	if len(m.First) != 0 && len(m.First) != len(m.Envelope.Recipients) {
		return nil, fmt.Errorf("message %s: %d first states for %d recipients", m.ID, len(m.First), len(m.Envelope.Recipients))
	}
	envelope, err := json.Marshal(m.Envelope)
	if err != nil {
		return nil, err
	}
	origin, err := json.Marshal(m.Origin)
	if err != nil {
		return nil, err
	}
	facts, err := json.Marshal(storedFacts{m.Facts.Received, m.Facts.HasID, m.Facts.EightBit, m.Facts.HeaderUTF8, m.Facts.Null, m.Facts.LongLine})
	if err != nil {
		return nil, err
	}
	row := &messageRow{
		id: m.ID, tid: clean(m.Transfer), envelope: string(envelope), origin: string(origin), facts: string(facts),
		trace: orEmpty(m.Trace), sha256: m.Facts.SHA256[:], size: m.Facts.Size,
		deliveries: make([]deliveryRow, len(m.Envelope.Recipients)),
	}
	for n := range m.Envelope.Recipients {
		row.deliveries[n] = s.newDelivery(m, n)
	}
	for _, r := range m.Reports {
		report, err := s.newReport(r)
		if err != nil {
			return nil, err
		}
		row.reports = append(row.reports, report)
	}
	return row, nil
}

// newReport is newRow for a message that goes with another, its content
// included.
func (s *Store) newReport(m store.NewMessage) (*messageRow, error) {
	switch {
	case m.Content == nil:
		return nil, errNoContent
	case m.Content.Size() > store.PieceSize:
		return nil, fmt.Errorf("%s: %w", m.ID, store.ErrReport)
	}
	m.Lease = store.Own{} // nobody would be told of the lease
	row, err := s.newRow(m)
	if err == nil {
		row.size = m.Content.Size()
		row.body, err = readAll(m.Content)
	}
	return row, err
}

// all are the rows of a message and of the reports about it: a repetition finds
// them there like itself.
func (r *messageRow) all() []*messageRow { return append([]*messageRow{r}, r.reports...) }

// octets is how much content goes with the row.
func (r *messageRow) octets() int {
	n := len(r.body)
	for _, report := range r.reports {
		n += report.octets()
	}
	return n
}

// newDelivery is how recipient n of m starts.
func (s *Store) newDelivery(m store.NewMessage, n int) deliveryRow {
	rcpt := m.Envelope.Recipients[n].Address
	d := deliveryRow{
		n: int32(n), rcpt: clean(rcpt.String()), domain: clean(rcpt.Domain), state: store.Due,
		expires: seconds(m.Lifetime), left: m.Lifetime,
	}
	var first store.First
	if m.First != nil {
		first = m.First[n]
	}
	if first.Outcome != (mail.Outcome{}) || first.Done {
		d.began, d.ended = true, true
		d.outcome, d.lastText = storedOutcome(firstState(first), first.Outcome)
	}
	d.due, d.inDoubt, d.way = seconds(first.Delay), first.InDoubt, first.Way
	if first.InDoubt {
		d.doubtWay = first.Way
	}
	switch {
	case first.Done:
		d.state = firstState(first)
	case first.Delay <= 0 && slices.Contains(m.Lease.Domains, rcpt.Domain):
		d.state, d.node, d.token, d.attempt = store.Leased, s.node, 1, 1
		d.due, d.began, d.ended, d.outcome = seconds(m.Lease.For), true, false, ""
		d.way = m.Lease.Ways[rcpt.Domain]
	case d.began || first.InDoubt:
		d.state = store.Deferred
	}
	return d
}

func firstState(f store.First) store.State {
	switch {
	case !f.Done:
		return store.Deferred
	case f.Outcome.Delivered():
		return store.Delivered
	}
	return store.Bounced
}

// claimable reports whether a delivery is there for anybody to claim.
func (r *messageRow) claimable() bool {
	return len(r.reports) > 0 || slices.ContainsFunc(r.deliveries, func(d deliveryRow) bool { return d.state.Open() && d.state != store.Leased })
}

// anyOpen reports whether a delivery is not settled from the start, so that
// the content will be asked for.
func (r *messageRow) anyOpen() bool {
	return slices.ContainsFunc(r.deliveries, func(d deliveryRow) bool { return d.state.Open() })
}

// leases are what the born-leased deliveries of r come back as.
func (r *messageRow) leases(m store.NewMessage) []store.Lease {
	var out []store.Lease
	for _, d := range r.deliveries {
		if d.state != store.Leased {
			continue
		}
		i := slices.IndexFunc(out, func(l store.Lease) bool { return l.Domain == d.domain })
		if i < 0 {
			i = len(out)
			out = append(out, store.Lease{
				ID: m.ID, Transfer: m.Transfer, Envelope: m.Envelope, Facts: m.Facts,
				Trace: m.Trace, Origin: m.Origin, Domain: d.domain, Way: d.way,
			})
		}
		out[i].Deliveries = append(out[i].Deliveries, store.Delivery{
			N: int(d.n), Token: d.token, Attempt: int(d.attempt), InDoubt: d.inDoubt, DoubtWay: d.doubtWay, Left: d.left, LastText: d.lastText,
		})
	}
	return out
}

// insertMessages stores messages that are new with their deliveries; a message
// that is there already keeps the deliveries it has.
const insertMessages = `
WITH m AS (
	INSERT INTO messages (id, tid, envelope, origin, facts, trace, size, sha256, body, content_id, open, created_at, finished_at)
	SELECT id, tid, envelope, origin, facts, trace, size, sha256, body, NULLIF(content_id, 0), open, now(), CASE WHEN open = 0 THEN now() END
	FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bytea[], $7::bigint[], $8::bytea[], $9::bytea[], $10::bigint[], $11::int[])
		AS u (id, tid, envelope, origin, facts, trace, size, sha256, body, content_id, open)
	ON CONFLICT (id) DO NOTHING
	RETURNING id
), d AS (
	INSERT INTO deliveries (message_id, n, rcpt, domain, node, state, due_at, expires_at, token, attempt, unsettled, in_doubt, delayed,
		last_text, began_at, ended_at, outcome, way, doubt_way, settled_at)
	SELECT m.id, n, rcpt, domain, node, state, now() + least(due, expires) * interval '1 second', now() + expires * interval '1 second', token, attempt, attempt,
		in_doubt, false, last_text, CASE WHEN began THEN now() END, CASE WHEN ended THEN now() END, NULLIF(outcome, ''), way, doubt_way, CASE WHEN state IN ('delivered', 'bounced') THEN now() END
	FROM unnest($12::text[], $13::int[], $14::text[], $15::text[], $16::text[], $17::text[], $18::float8[], $19::float8[], $20::bigint[],
			$21::int[], $22::bool[], $23::bool[], $24::bool[], $25::text[], $26::text[], $27::text[], $28::text[])
		AS u (message_id, n, rcpt, domain, node, state, due, expires, token, attempt, in_doubt, began, ended, last_text, outcome, way, doubt_way)
	JOIN m ON m.id = u.message_id
)
SELECT id FROM m`

// queueMessages adds the rows to a transaction, and marks those that were new.
func queueMessages(b *pgx.Batch, rows []*messageRow) {
	if len(rows) == 0 {
		return
	}
	b.Queue(insertMessages, messageArgs(rows)...).Query(func(res pgx.Rows) error {
		ids, err := pgx.CollectRows(res, pgx.RowTo[mail.ID])
		for _, r := range rows {
			r.inserted = slices.Contains(ids, r.id)
		}
		return err
	})
}

func messageArgs(rows []*messageRow) []any {
	var m struct {
		id, tid, envelope, origin, facts []string
		trace, sha256, body              [][]byte
		size, contentID                  []int64
		open                             []int32
	}
	var d struct {
		id, rcpt, domain, node, state, text, outcome, way, doubtWay []string
		n, attempt                                                  []int32
		token                                                       []int64
		due, expires                                                []float64
		doubt, began, ended                                         []bool
	}
	for _, r := range rows {
		open := int32(0)
		for _, v := range r.deliveries {
			if v.state.Open() {
				open++
			}
			d.id, d.n, d.rcpt, d.domain = append(d.id, string(r.id)), append(d.n, v.n), append(d.rcpt, v.rcpt), append(d.domain, v.domain)
			d.node, d.state, d.token = append(d.node, v.node), append(d.state, string(v.state)), append(d.token, v.token)
			d.due, d.expires, d.attempt = append(d.due, v.due), append(d.expires, v.expires), append(d.attempt, v.attempt)
			d.doubt, d.began, d.ended = append(d.doubt, v.inDoubt), append(d.began, v.began), append(d.ended, v.ended)
			d.text, d.outcome = append(d.text, v.lastText), append(d.outcome, v.outcome)
			d.way, d.doubtWay = append(d.way, string(v.way)), append(d.doubtWay, string(v.doubtWay))
		}
		m.id, m.tid, m.envelope = append(m.id, string(r.id)), append(m.tid, r.tid), append(m.envelope, r.envelope)
		m.origin, m.facts, m.trace = append(m.origin, r.origin), append(m.facts, r.facts), append(m.trace, r.trace)
		m.size, m.sha256, m.body = append(m.size, r.size), append(m.sha256, r.sha256), append(m.body, r.body)
		m.contentID, m.open = append(m.contentID, r.contentID), append(m.open, open)
	}
	return []any{
		m.id, m.tid, m.envelope, m.origin, m.facts, m.trace, m.size, m.sha256, m.body, m.contentID, m.open,
		d.id, d.n, d.rcpt, d.domain, d.node, d.state, d.due, d.expires, d.token, d.attempt, d.doubt, d.began, d.ended, d.text, d.outcome,
		d.way, d.doubtWay,
	}
}

// clean makes text fit for the database, which takes neither NUL nor invalid
// UTF-8; what names something was checked before it got here.
func clean(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}

// orEmpty keeps nil from becoming NULL.
func orEmpty(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}
