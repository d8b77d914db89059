package storetest

import (
	"fmt"
	"slices"

	"mailxmppd/mail"
	"mailxmppd/store"
)

func listTests() []test {
	return []test{
		{"a list goes on where the page before ended", testPages},
		{"a list goes on although its place is gone", testPageGone},
		{"totals count by domain and age", testTotals},
		{"a settled delivery tells when", testSettledAt},
		{"a claim takes no more of a destination than it may", testPerDest},
		{"a claim finds what lies behind a busy backlog", testBehindBacklog},
		{"a claim goes round the domains behind a backlog", testRoundBacklog},
		{"next due leaves out busy destinations", testNextDueBusy},
		{"a head start is claimed first", testHeadStart},
	}
}

func testPages(b *fixture) {
	var want []string
	for i := range 5 {
		m := b.message("a@montague.example", "b@capulet.example", "c@montague.example")
		b.put(m)
		for n := range 3 {
			want = append(want, fmt.Sprintf("%d %s.%d", 4-i, m.ID, n))
		}
	}
	slices.SortStableFunc(want, func(a, c string) int { return int(a[0]) - int(c[0]) })
	for _, domain := range []string{"", "montague.example"} {
		for _, size := range []int{1, 2, 4, 7, 100} {
			var got []string
			f := store.Filter{Limit: size, Domain: domain}
			for {
				page := b.list(f)
				for _, e := range page {
					got = append(got, fmt.Sprintf("%s.%d", e.ID, e.N))
					f.After, f.AfterN = e.ID, e.N
				}
				if len(page) < size {
					break
				}
			}
			i := 0
			for _, w := range want {
				if domain != "" && w[len(w)-1] == '1' {
					continue
				}
				if i >= len(got) || got[i] != w[2:] {
					b.Fatalf("pages of %d, domain %q: %v, want %v", size, domain, got, want)
				}
				i++
			}
			equal(b, "entries", len(got), i)
		}
	}
}

func testPageGone(b *fixture) {
	one := b.message("a@montague.example")
	gone := b.message("b@montague.example").ID
	two := b.message("c@montague.example")
	b.put(one)
	b.put(two)
	page := b.list(store.Filter{After: gone})
	equal(b, "entries", len(page), 1)
	equal(b, "entry", page[0].ID, one.ID)
	equal(b, "entries after the oldest", len(b.list(store.Filter{After: one.ID, AfterN: 0})), 0)
}

func testTotals(b *fixture) {
	for i, rcpts := range [][]string{{"a@montague.example", "b@montague.example"}, {"c@montague.example", "d@capulet.example"}, {"e@verona.example"}} {
		m := b.message(rcpts...)
		if i == 1 {
			m.Lease = store.Own{Domains: []string{"capulet.example"}, For: long}
		}
		b.put(m)
		if i == 0 {
			b.did(2)(b.s.Hold(b.ctx, all(m)))
		}
	}
	t, err := b.s.Totals(b.ctx, store.Filter{}, 1)
	b.ok(err)
	young := func(n int) (ages [10]int) { ages[0] = n; return ages }
	equal(b, "all", t.All, store.Total{Deliveries: 5, Ages: young(5), Held: 2, Leased: 1})
	equal(b, "domains", len(t.Domains), 1)
	equal(b, "first", t.Domains[0], store.Total{Domain: "montague.example", Deliveries: 3, Ages: young(3), Held: 2})
	equal(b, "others", t.Others, store.Total{Deliveries: 2, Ages: young(2), Leased: 1})
	t, err = b.s.Totals(b.ctx, store.Filter{Domain: "capulet.example"}, 10)
	b.ok(err)
	equal(b, "of one domain", t.All, store.Total{Deliveries: 1, Ages: young(1), Leased: 1})
}

func testSettledAt(b *fixture) {
	m := b.message("a@montague.example", "b@capulet.example")
	m.First = []store.First{{}, {Done: true, Outcome: delivered().Outcome}}
	b.put(m)
	b.settle(b.begin(b.claimOne()), deferred(0, "later"))
	equal(b, "settled while open", b.show(m.ID).Deliveries[0].Settled.IsZero(), true)
	b.settle(b.begin(b.claimOne()), delivered())
	for _, e := range b.show(m.ID).Deliveries {
		equal(b, "tells when", e.Settled.IsZero(), false)
	}
}

func testPerDest(b *fixture) {
	const next = "smtp://relay.example"
	for i := range 12 {
		m := b.message("a@montague.example", "b@montague.example")
		if i%4 == 3 {
			m = b.message("c@capulet.example")
		}
		b.put(m)
		if i == 0 {
			b.did(2)(b.s.Redirect(b.ctx, all(m), next))
		}
	}
	for _, want := range []map[string]int{
		{"montague.example": 2, "capulet.example": 2, ">" + next: 1},
		{"montague.example": 2, "capulet.example": 1},
		{"montague.example": 2}, {"montague.example": 2}, {},
	} {
		leases, err := b.s.Claim(b.ctx, 100, long, nil, 2)
		b.ok(err)
		got := map[string]int{}
		for _, l := range leases {
			got[l.Destination()]++
		}
		if len(got) != len(want) {
			b.Fatalf("claimed %v, want %v", got, want)
		}
		for d, n := range want {
			equal(b, "claimed for "+d, got[d], n)
		}
	}
}

// backlog puts n deliveries to a domain, due for long.
func (b *fixture) backlog(domain string, n int) {
	b.Helper()
	for n > 0 {
		m := b.message("x@" + domain)
		m.Envelope.Recipients = nil
		for range min(n, 1000) {
			m.Envelope.Recipients = append(m.Envelope.Recipients, mail.Recipient{Address: address(b, fmt.Sprintf("r%d@%s", n, domain))})
			n--
		}
		m.First = slices.Repeat([]store.First{{Delay: -long}}, len(m.Envelope.Recipients))
		b.put(m)
	}
}

func testBehindBacklog(b *fixture) {
	b.backlog("dead.example", 1500)
	m := b.message("a@montague.example", "b@aaa.example", "c@zzz.example")
	b.put(m)
	held := b.message("d@capulet.example")
	b.put(held)
	b.did(1)(b.s.Hold(b.ctx, all(held)))
	leases := b.claim(10, "dead.example")
	equal(b, "leases", len(leases), 3)
	for _, l := range leases {
		equal(b, "claimed", l.ID, m.ID)
		b.settle(b.begin(l), deferred(long, "later"))
	}
	equal(b, "leases", len(b.claim(10, "dead.example")), 0)
	wait, ok, err := b.s.NextDue(b.ctx, []string{"dead.example"})
	b.ok(err)
	if !ok || wait <= 0 || wait > long {
		b.Errorf("next due in %v, %v", wait, ok)
	}
	b.did(1)(b.s.Redirect(b.ctx, store.One(m.ID, 0, "me"), "smtp://relay.example"))
	b.did(1)(b.s.Retry(b.ctx, store.One(m.ID, 0, "me")))
	leases = b.claim(10, "dead.example", "montague.example")
	equal(b, "redirected leases", len(leases), 1)
	equal(b, "next hop", leases[0].Next, "smtp://relay.example")
}

func testRoundBacklog(b *fixture) {
	b.backlog("m.example", 1500)
	const domains = 9
	for i := range domains {
		for range 2 {
			b.put(b.message(fmt.Sprintf("a@d%d.example", i)))
		}
	}
	b.put(b.message("a@z.example"))
	seen := map[string]int{}
	for range domains + 1 {
		leases, err := b.s.Claim(b.ctx, 1, long, []string{"m.example"}, 1)
		b.ok(err)
		equal(b, "leases", len(leases), 1)
		seen[leases[0].Domain]++
	}
	equal(b, "domains that had their turn", len(seen), domains+1)
	leases, err := b.s.Claim(b.ctx, 100, long, []string{"m.example"}, 0)
	b.ok(err)
	equal(b, "the rest", len(leases), domains)
	equal(b, "then", len(b.claim(10, "m.example")), 0)
}

func testNextDueBusy(b *fixture) {
	dead := b.message("a@dead.example")
	b.put(dead)
	later := b.message("a@montague.example")
	later.First = []store.First{{Delay: long}}
	b.put(later)
	for _, tc := range []struct {
		busy []string
		due  bool
		ok   bool
	}{
		{nil, true, true},
		{[]string{"montague.example"}, true, true},
		{[]string{"dead.example"}, false, true},
		{[]string{"dead.example", "montague.example"}, false, false},
	} {
		wait, ok, err := b.s.NextDue(b.ctx, tc.busy)
		b.ok(err)
		if ok != tc.ok || ok && (wait == 0) != tc.due {
			b.Errorf("busy %v: %v, %v", tc.busy, wait, ok)
		}
	}
}

func testHeadStart(b *fixture) {
	plain, started := b.message("a@montague.example"), b.message("b@montague.example")
	b.put(plain)
	started.First = []store.First{{Delay: -long}}
	b.put(started)
	leases := b.claim(1)
	equal(b, "claimed first", leases[0].ID, started.ID)
	equal(b, "state", b.list(store.Filter{})[1].State, store.Due)
}
