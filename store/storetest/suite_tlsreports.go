package storetest

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"time"

	"mailxmppd/store"
)

// leaseLost is nil for an answer that the store has given although it was not to
// answer at all.
func leaseLost(err error) error {
	if errors.Is(err, store.ErrLeaseLost) {
		return nil
	}
	return err
}

// tlsDay is a day whose report is due since an hour.
func tlsDay(day, domain string, counts ...store.TLSCount) store.TLSDay {
	return store.TLSDay{Day: day, Domain: domain, Due: time.Now().Add(-time.Hour), Counts: counts}
}

func (b *fixture) tlsDays(day, domain string, want ...store.TLSDay) {
	b.Helper()
	got, err := b.s.TLSDays(b.ctx, day, domain)
	b.ok(err)
	if len(got) != len(want) || len(want) > 0 && !reflect.DeepEqual(got, want) {
		b.Errorf("known of %s:\n%+v, want\n%+v", day, got, want)
	}
}

func testTLSCounts(b *fixture) {
	const day = "2026-03-04"
	b.tlsDays(day, "")
	ok := store.TLSCount{Policy: `{"type":"sts"}`, Sessions: 3}
	bad := store.TLSCount{Policy: `{"type":"sts"}`, Result: `{"result":"x \u0000 \u00e9"}`, Sessions: 1}
	const nodes, times = 4, 5
	var all sync.WaitGroup
	for range nodes {
		all.Go(func() {
			for range times {
				if err := b.s.AddTLS(b.ctx, []store.TLSDay{tlsDay(day, "b.example", bad), tlsDay(day, "a.example", ok, bad)}); err != nil {
					b.Error(err)
				}
			}
		})
	}
	all.Wait()
	b.ok(b.s.AddTLS(b.ctx, []store.TLSDay{tlsDay("2026-03-05", "a.example", ok)}))
	b.ok(b.s.AddTLS(b.ctx, nil))
	b.killed() // it was durable
	times20 := func(c store.TLSCount) store.TLSCount { c.Sessions *= nodes * times; return c }
	a := store.TLSDay{Day: day, Domain: "a.example", State: store.TLSWaiting, Counts: []store.TLSCount{times20(ok), times20(bad)}}
	other := store.TLSDay{Day: day, Domain: "b.example", State: store.TLSWaiting, Counts: []store.TLSCount{times20(bad)}}
	b.tlsDays(day, "", a, other)
	b.tlsDays(day, "b.example", other)
	b.tlsDays(day, "c.example")

	var many []store.TLSCount
	for i := range store.MaxTLSCounts + 50 {
		many = append(many, store.TLSCount{Result: fmt.Sprint(i), Sessions: 1})
	}
	for range 2 {
		b.ok(b.s.AddTLS(b.ctx, []store.TLSDay{tlsDay(day, "d.example", many...)}))
	}
	days, err := b.s.TLSDays(b.ctx, day, "d.example")
	b.ok(err)
	equal(b, "counts kept", len(days[0].Counts), store.MaxTLSCounts)
	for _, c := range days[0].Counts {
		equal(b, "sessions of "+c.Result, c.Sessions, 2)
	}
}

// says puts values side by side.
func says(values ...any) string { return strings.TrimSpace(fmt.Sprintln(values...)) }

func testTLSClaims(b *fixture) {
	claim := func(id string, lease time.Duration) (store.TLSDay, bool) {
		b.Helper()
		d, ok, err := b.s.ClaimTLSReport(b.ctx, id, lease)
		b.ok(err)
		return d, ok
	}
	_, ok := claim("none", long)
	equal(b, "anything due", ok, false)
	count := store.TLSCount{Policy: "p", Result: "r", Sessions: 1}
	early := tlsDay("2026-03-04", "a.example", count)
	early.Due = early.Due.Add(-time.Hour)
	later := store.TLSDay{Day: "2026-03-05", Domain: "a.example", Due: time.Now().Add(time.Hour)}
	b.ok(b.s.AddTLS(b.ctx, []store.TLSDay{tlsDay("2026-03-04", "b.example"), early, later}))

	first, ok := claim("one", long)
	equal(b, "the longest due", says(ok, first.Domain, first.ID, first.Tries, len(first.Counts)), "true a.example one 1 1")
	if first.Waited < time.Hour || first.Waited > 3*time.Hour {
		b.Errorf("waited %s", first.Waited)
	}
	second, ok := claim("two", time.Millisecond)
	equal(b, "the next", says(ok, second.Domain, second.ID), "true b.example two")
	b.eventually("the lease has run out", func() bool {
		again, ok := claim("three", long)
		if ok {
			equal(b, "with its first id", says(again.Domain, again.ID, again.Tries), "b.example two 2")
			b.is(b.s.SettleTLSReport(b.ctx, second, store.TLSSent, "", 0), store.ErrLeaseLost)
			b.ok(b.s.SettleTLSReport(b.ctx, again, store.TLSWaiting, "no answer", 0))
		}
		return ok
	})
	third, ok := claim("four", long)
	equal(b, "due again", says(ok, third.Domain, third.Said, third.Tries), "true b.example no answer 3")
	b.ok(b.s.SettleTLSReport(b.ctx, third, store.TLSFailed, "gave up", 0))
	b.is(b.s.SettleTLSReport(b.ctx, third, store.TLSSent, "", 0), store.ErrLeaseLost)
	b.ok(b.s.SettleTLSReport(b.ctx, first, store.TLSWaiting, "later", long))
	b.ok(b.s.AddTLS(b.ctx, []store.TLSDay{tlsDay("2026-03-04", "b.example", count)})) // makes no new report
	b.killed()
	_, ok = claim("five", long)
	equal(b, "anything due", ok, false)
	b.tlsDays("2026-03-04", "",
		store.TLSDay{Day: "2026-03-04", Domain: "a.example", State: store.TLSWaiting, ID: "one", Tries: 1, Said: "later", Counts: []store.TLSCount{count}},
		store.TLSDay{Day: "2026-03-04", Domain: "b.example", State: store.TLSFailed, ID: "two", Tries: 3, Said: "gave up", Counts: []store.TLSCount{count}})
}

func testMaintainTLS(b *fixture) {
	old := time.Now().UTC().AddDate(0, 0, -10).Format(time.DateOnly)
	today := time.Now().UTC().Format(time.DateOnly)
	count := store.TLSCount{Policy: "p", Sessions: 1}
	b.ok(b.s.AddTLS(b.ctx, []store.TLSDay{tlsDay(old, "a.example", count), tlsDay(today, "a.example", count)}))
	keep := keepAll()
	keep.TLSReports = 12 * 24 * time.Hour
	b.maintain(keep)
	b.tlsDays(old, "", store.TLSDay{Day: old, Domain: "a.example", State: store.TLSWaiting, Counts: []store.TLSCount{count}})
	keep.TLSReports = 8 * 24 * time.Hour
	b.maintain(keep)
	b.tlsDays(old, "")
	b.tlsDays(today, "", store.TLSDay{Day: today, Domain: "a.example", State: store.TLSWaiting, Counts: []store.TLSCount{count}})
}
