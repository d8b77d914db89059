package postgres

import (
	"context"
	"slices"

	"github.com/jackc/pgx/v5"
)

// walkSteps is how many domains one statement of a walk passes at most.
const walkSteps = 1000

// The domains with waiting deliveries, from one on, until $4 of them can be
// claimed from: each step finds the next by the index of waiting deliveries,
// however many the domain has.
const walkDomains = `
WITH RECURSIVE walk AS (
	(SELECT domain, due_at <= now() AND domain <> ALL ($3::text[]) AS free, 1 AS step, 0 AS found FROM deliveries
		WHERE state IN ('due', 'deferred') AND domain > $1 ORDER BY domain, due_at LIMIT 1)
	UNION ALL
	SELECT x.domain, x.due_at <= now() AND x.domain <> ALL ($3::text[]), w.step + 1, w.found + w.free::int FROM walk w, LATERAL (
		SELECT d.domain, d.due_at FROM deliveries d
		WHERE d.state IN ('due', 'deferred') AND d.domain > w.domain ORDER BY d.domain, d.due_at LIMIT 1) AS x
	WHERE w.step < $2 AND w.found + w.free::int < $4
)
SELECT domain, free FROM walk`

// beyond claims by destinations, if busy ones fill the window: it walks over
// the domains from where the last walk ended, so that all get their turn.
func (c *claim) beyond(ctx context.Context) error {
	var full bool
	err := c.s.pool.QueryRow(ctx, `SELECT count(*) = $1 FROM (SELECT FROM deliveries
		WHERE state IN ('due', 'deferred') AND due_at <= now() ORDER BY due_at LIMIT $1) AS w`, c.window).Scan(&full)
	if err != nil || !full {
		return err
	}
	from := *c.s.walked.Load()
	for again := from != ""; ; {
		last, found, err := c.walk(ctx, from)
		if err == nil {
			err = c.byDomains(ctx, found)
		}
		if err != nil {
			return err
		}
		from = last
		c.s.walked.Store(&from)
		switch {
		case len(c.leases) >= c.n || last == "" && !again:
			return nil
		case last == "":
			again = false
		}
	}
}

// walk returns the domains with something to claim, and the last it passed: ""
// if there are no more.
func (c *claim) walk(ctx context.Context, from string) (last string, found []string, err error) {
	rows, err := c.s.pool.Query(ctx, walkDomains, from, walkSteps, c.busy, c.n-len(c.leases))
	if err != nil {
		return "", nil, err
	}
	var free bool
	passed := 0
	_, err = pgx.ForEachRow(rows, []any{&last, &free}, func() error {
		if passed++; free {
			found = append(found, last)
		}
		return nil
	})
	if passed < walkSteps && len(found) < c.n-len(c.leases) {
		last = ""
	}
	return last, found, err
}

// byDomains claims from domains. What the window gave counts against their
// bound.
func (c *claim) byDomains(ctx context.Context, domains []string) error {
	taken := map[string]bool{}
	for _, l := range c.leases {
		taken[l.Destination()] = true
	}
	domains = slices.DeleteFunc(domains, func(d string) bool { return taken[d] })
	left := c.n - len(c.leases)
	if len(domains) == 0 || left <= 0 {
		return nil
	}
	rows, err := c.s.pool.Query(ctx, claimOf(dueByDomain), left, seconds(c.lease), c.s.node, c.busy, min(c.perDest, left), c.perDest, domains)
	if err != nil {
		return err
	}
	return c.take(ctx, rows)
}
