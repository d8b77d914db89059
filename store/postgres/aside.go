package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// unread is a lease of a message that cannot be read.
type unread struct {
	lease store.Lease // what could be read, deliveries included
	why   error
}

// collectLeases reads what leaseThem returns. A message that cannot be read is not
// the others' fault.
func collectLeases(rows pgx.Rows) (leases []store.Lease, aside []unread, err error) {
	_, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (struct{}, error) {
		l, err := scanLease(row)
		switch {
		case errors.Is(err, store.ErrUnreadable):
			aside, err = append(aside, unread{l, err}), nil
		case err == nil:
			leases = append(leases, l)
		}
		return struct{}{}, err
	})
	return leases, aside, err
}

// scanLease reads one row of them. With store.ErrUnreadable comes what could be
// read.
func scanLease(row pgx.CollectableRow) (store.Lease, error) {
	var (
		l                           store.Lease
		envelope, facts, origin, ds string
		size                        int64
		sum                         []byte
	)
	err := row.Scan(&l.ID, &l.Transfer, &envelope, &facts, &size, &sum, &l.Trace, &origin, &l.Domain, &l.Next, &ds, &l.Age)
	if err == nil {
		err = json.Unmarshal([]byte(ds), &l.Deliveries) // the server's own writing
	}
	if err != nil {
		return l, err
	}
	if l.Envelope, l.Origin, l.Facts, err = readMessage(envelope, origin, facts, size, sum); err == nil {
		err = l.CheckDeliveries()
	}
	return l, err
}

// readMessage makes sense of a message's columns; its errors are
// store.ErrUnreadable.
func readMessage(envelope, origin, facts string, size int64, sum []byte) (env mail.Envelope, from mail.Origin, f mail.Facts, err error) {
	if env, from, err = store.ReadStored(envelope, origin); err != nil {
		return env, from, f, err
	}
	var stored storedFacts
	if err := json.Unmarshal([]byte(facts), &stored); err != nil {
		return env, from, f, fmt.Errorf("%w: its facts: %w", store.ErrUnreadable, err)
	}
	f = mail.Facts{
		Size: size, Received: stored.Received, HasID: stored.HasID, EightBit: stored.EightBit,
		HeaderUTF8: stored.HeaderUTF8, Null: stored.Null, LongLine: stored.LongLine,
	}
	copy(f.SHA256[:], sum)
	return env, from, f, nil
}

// putAside holds deliveries under our lease whose message cannot be read, as an
// operator would, and says why where the words of the last attempt stand. What a
// crash leaves leased in between is claimed again, and held then.
const putAside = `
WITH done AS (
	UPDATE deliveries d SET state = 'held', token = d.token + 1, node = '', parked_at = now(), last_text = $4
	FROM unnest($2::int[], $3::bigint[]) AS u (n, token)
	WHERE d.message_id = $1 AND d.n = u.n AND d.token = u.token AND d.state = 'leased'
	RETURNING d.message_id, d.n
)
INSERT INTO events (message_id, n, at, verb, by, detail) SELECT message_id, n, now(), 'hold', $5, $4 FROM done`

// putAside does not fail: what it cannot hold now comes again.
func (s *Store) putAside(ctx context.Context, all []unread) {
	for _, u := range all {
		var ns []int
		var tokens []int64
		for _, d := range u.lease.Deliveries {
			ns, tokens = append(ns, d.N), append(tokens, d.Token)
		}
		if _, err := s.pool.Exec(ctx, putAside, u.lease.ID, ns, tokens, clean(u.why.Error()), store.ByStore); err != nil {
			s.log.Error("stored message cannot be read, nor held", "id", u.lease.ID, "domain", u.lease.Domain, "err", errors.Join(u.why, failed(err)))
			continue
		}
		s.log.Error("stored message held, it cannot be read", "id", u.lease.ID, "domain", u.lease.Domain, "err", u.why)
	}
}

// Unreadable looks at what is stored of every message, content excepted, and names
// those that this program cannot read. It works beside running gateways too.
func Unreadable(ctx context.Context, cfg Config) (found store.Unreadables, err error) {
	ccfg, err := pgx.ParseConfig(cfg.URL)
	if err != nil {
		return found, withoutSecret(err)
	}
	ccfg.RuntimeParams["search_path"] = cfg.Schema
	c, err := pgx.ConnectConfig(ctx, ccfg)
	if err != nil {
		return found, err
	}
	defer c.Close(context.WithoutCancel(ctx))
	// In stretches, so that no snapshot keeps dead rows for long.
	at := ""
	for looked := unreadableStep; looked == unreadableStep; {
		looked = 0
		rows, err := c.Query(ctx, `SELECT id, envelope, origin, facts, size, sha256, (SELECT max(n) FROM deliveries WHERE message_id = id)
			FROM messages WHERE id > $1 ORDER BY id LIMIT $2`, at, unreadableStep)
		if err != nil {
			return found, failed(err)
		}
		var envelope, origin, facts string
		var size int64
		var sum []byte
		var last *int
		_, err = pgx.ForEachRow(rows, []any{&at, &envelope, &origin, &facts, &size, &sum, &last}, func() error {
			looked++
			env, _, _, err := readMessage(envelope, origin, facts, size, sum)
			if err == nil && last != nil {
				err = store.Lease{Envelope: env, Deliveries: []store.Delivery{{N: *last}}}.CheckDeliveries()
			}
			if err != nil {
				found.Add(mail.ID(at), err)
			}
			return nil
		})
		if err != nil {
			return found, fmt.Errorf("schema %s: %w", cfg.Schema, failed(err))
		}
	}
	return found, nil
}

// unreadableStep is how many messages are looked at in one query.
const unreadableStep = 1000
