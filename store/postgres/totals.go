package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"

	"mailxmppd/store"
)

// Totals implements store.Queue.
func (s *Store) Totals(ctx context.Context, f store.Filter, top int) (t store.Totals, err error) {
	w, err := filtered(f)
	if err != nil {
		return t, err
	}
	bounds := store.AgeClasses()
	ages := make([]float64, len(bounds))
	for i, b := range bounds {
		ages[i] = b.Seconds()
	}
	// The place of an age among the bounds is its class.
	sql := `SELECT d.domain, width_bucket(extract(epoch FROM now() - d.created_at)::float8, ` + w.arg(ages) + `::float8[]),
			count(*), count(*) FILTER (WHERE d.state = 'held'), count(*) FILTER (WHERE d.state = 'leased')
		FROM ` + w.from + w.where() + ` GROUP BY 1, 2`
	byDomain := map[string]*store.Total{}
	err = pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		// Unlike all else here this reads the whole queue.
		if _, err := tx.Exec(ctx, `SELECT set_config('enable_seqscan', 'on', true), set_config('enable_hashjoin', 'on', true)`); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, sql, w.args...)
		if err != nil {
			return err
		}
		var domain string
		var class, n, held, leased int
		_, err = pgx.ForEachRow(rows, []any{&domain, &class, &n, &held, &leased}, func() error {
			d := byDomain[domain]
			if d == nil {
				d = &store.Total{Domain: domain}
				byDomain[domain] = d
			}
			one := store.Total{Deliveries: n, Held: held, Leased: leased}
			one.Ages[class] = n
			d.Add(one)
			return nil
		})
		return err
	})
	if err != nil {
		return t, failed(err)
	}
	return store.Rank(byDomain, top), nil
}
