package sqlite

import (
	"sync/atomic"

	"mailxmppd/store"
)

// window is how many due deliveries a claim passes by time before it goes by
// destinations: a dead one's backlog may lie in front of all others.
const window = 1000

// picking finds what a claim is to lease.
type picking struct {
	n, perDest int
	busy       map[string]bool
	groups     []group
	seen       map[group]bool
	taken      map[string]int // groups, by destination
	blocked    bool           // the window was full of what cannot be taken
}

func newPicking(n int, busy []string, perDest int) *picking {
	p := &picking{n: n, perDest: perDest, busy: make(map[string]bool, len(busy))}
	if p.perDest <= 0 {
		p.perDest = n
	}
	for _, d := range busy {
		p.busy[d] = true
	}
	return p
}

func (p *picking) reset() {
	p.groups, p.seen, p.taken, p.blocked = nil, map[group]bool{}, map[string]int{}, false
}

func (p *picking) count(dest string) { p.taken[dest]++ }

// take adds a group, and reports whether that was the last.
func (p *picking) take(g group) (last bool) {
	dest := store.Destination(g.domain, g.next)
	if !p.busy[dest] && !p.seen[g] && p.taken[dest] < p.perDest {
		p.seen[g] = true
		p.count(dest)
		p.groups = append(p.groups, g)
	}
	return len(p.groups) == p.n
}

const (
	dueNow = "SELECT key >> 16, domain, next FROM deliveries WHERE state < 2 AND due <= ? ORDER BY due"
	ranOut = "SELECT key >> 16, domain, next FROM deliveries WHERE state = 2 AND due <= ? ORDER BY due"
)

// byTime finds what has been due for longest, after leases that ran out.
func (p *picking) byTime(c *conn, now int64) error {
	if full, err := p.from(c, ranOut, now); full || err != nil {
		return err
	}
	var err error
	p.blocked, err = p.from(c, dueNow, now)
	p.blocked = p.blocked && len(p.groups) < p.n
	return err
}

// from takes what a query finds, until enough is taken or a window passed:
// then it is full.
func (p *picking) from(c *conn, query string, now int64) (full bool, err error) {
	passed := 0
	err = c.query(query, []any{now}, func(r row) error {
		passed++
		if full = p.take(group{r.int(0), r.text(1), r.text(2)}) || passed >= window+len(p.groups); full {
			return errEnough
		}
		return nil
	})
	return full, err
}

const (
	nextHop  = "SELECT next FROM deliveries WHERE state < 2 AND next <> '' AND next > ? ORDER BY next LIMIT 1"
	dueOfHop = "SELECT key >> 16, domain FROM deliveries WHERE state < 2 AND next <> '' AND next = ? AND due <= ? ORDER BY due LIMIT ?"
)

// byHop goes over the next hops that operators have redirected mail to, which are
// few: the backlog of one that is busy does not hide what waits for another.
func (p *picking) byHop(c *conn, now int64) error {
	for at := ""; len(p.groups) < p.n; {
		r, err := c.first(nextHop, at)
		if err != nil || r == nil {
			return err
		}
		at = r.text(0)
		dest := store.Destination("", at)
		if p.busy[dest] {
			continue
		}
		err = c.query(dueOfHop, []any{at, now, p.perDest + window}, func(r row) error {
			if p.take(group{r.int(0), r.text(1), at}) || p.taken[dest] >= p.perDest {
				return errEnough
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

const (
	nextDomain  = "SELECT domain, due, next FROM deliveries WHERE state < 2 AND domain > ? ORDER BY domain, next, due LIMIT 1"
	dueOfDomain = "SELECT key >> 16 FROM deliveries WHERE state < 2 AND domain = ? AND next = '' AND due <= ? ORDER BY due LIMIT ?"
)

// byDomain goes over the domains that mail waits for, from the one on where
// the last walk ended, so that all get their turn; each takes one step in the
// index, however much waits for it. Redirected deliveries have an index of
// their own.
func (p *picking) byDomain(c *conn, now int64, walked *atomic.Pointer[string]) error {
	if err := p.byHop(c, now); err != nil || len(p.groups) == p.n {
		return err
	}
	start := *walked.Load()
	for at, wrapped := start, false; ; {
		r, err := c.first(nextDomain, at)
		switch {
		case err != nil:
			return err
		case r == nil && (wrapped || start == ""):
			walked.Store(new(string))
			return nil
		case r == nil:
			at, wrapped = "", true
			continue
		}
		if at = r.text(0); wrapped && at > start {
			return nil
		}
		if p.busy[at] || r.int(1) > now || r.text(2) != "" { // all of it is redirected
			continue
		}
		done := false
		err = c.query(dueOfDomain, []any{at, now, p.perDest + window}, func(r row) error {
			if done = p.take(group{r.int(0), at, ""}); done || p.taken[at] >= p.perDest {
				return errEnough
			}
			return nil
		})
		if err != nil {
			return err
		}
		if done {
			walked.Store(&at)
			return nil
		}
	}
}
