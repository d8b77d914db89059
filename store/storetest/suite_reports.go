package storetest

import (
	"fmt"
	"sync"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
)

func reportTests() []test {
	return []test{
		{"reports are stored with their message", testReports},
		{"a repetition stores no reports", testReportsOnce},
		{"an accept stores reports with new recipients only", testReportsOfAccepts},
		{"what fails stores neither message nor report", testReportsFail},
		{"what was given out is used so often", testUses},
		{"users at the same time are counted", testUsesTogether},
	}
}

// reporting makes a message with a report about it.
func (b *fixture) reporting(content []byte, rcpts ...string) (m, report store.NewMessage) {
	m, report = b.messageOf(content, rcpts...), b.message("juliet@capulet.example")
	report.Lease = store.Own{Domains: []string{"capulet.example"}, For: long}
	m.Reports = []store.NewMessage{report}
	return m, report
}

func testReports(b *fixture) {
	for _, size := range []int{100, 70 << 10, store.PieceSize + 1} {
		m, report := b.reporting(octets(size), "romeo@montague.example")
		if leases := b.put(m); len(leases) != 0 {
			b.Fatalf("%d octets: leases that nobody would hear of: %v", size, leases)
		}
		b.killed()
		equal(b, fmt.Sprintf("state with a message of %d octets", size), b.state(m.ID, 0), store.Due)
		equal(b, "state of its report", b.state(report.ID, 0), store.Due)
		b.sameContent(b.content(report.ID), report.Content.(mail.Bytes))
		b.sameContent(b.content(m.ID), m.Content.(mail.Bytes))
	}
}

func testReportsOnce(b *fixture) {
	m, _ := b.reporting(octets(100), "romeo@montague.example")
	b.put(m)
	b.put(m)
	other := b.message("juliet@capulet.example")
	m.Reports = []store.NewMessage{other}
	b.put(m)
	_, err := b.s.Show(b.ctx, other.ID)
	b.is(err, store.ErrNotFound)
	equal(b, "deliveries", len(b.list(store.Filter{})), 2)
}

func testReportsOfAccepts(b *fixture) {
	accept := func(m store.NewMessage) {
		b.Helper()
		_, _, err := b.s.Accept(b.ctx, key("t"), hashOf(m.Content.(mail.Bytes)), m)
		b.ok(err)
	}
	m, report := b.reporting(octets(100), "romeo@montague.example")
	accept(m)
	b.killed()
	equal(b, "state of the report", b.state(report.ID, 0), store.Due)
	again, twin := b.reporting(octets(100), "romeo@montague.example")
	accept(again)
	_, err := b.s.Show(b.ctx, twin.ID)
	b.is(err, store.ErrNotFound)
	more, another := b.reporting(octets(100), "romeo@montague.example", "tybalt@montague.example")
	accept(more)
	equal(b, "state of the report about more", b.state(another.ID, 0), store.Due)
}

func testReportsFail(b *fixture) {
	m, report := b.reporting(octets(100), "romeo@montague.example")
	report.Content = mail.Bytes(octets(store.PieceSize + 1))
	m.Reports = []store.NewMessage{report}
	_, err := b.s.PutMessage(b.ctx, m)
	b.is(err, store.ErrReport)
	m, _ = b.reporting(octets(100), "romeo@montague.example")
	b.accept(key("t"), b.messageOf(octets(99), "tybalt@montague.example"))
	_, _, err = b.s.Accept(b.ctx, key("t"), hashOf(octets(100)), m)
	b.is(err, store.ErrConflict)
	equal(b, "deliveries", len(b.list(store.Filter{})), 1)
}

func testUses(b *fixture) {
	uses := func(name, user string, most int, want bool) {
		b.Helper()
		ok, err := b.s.Use(b.ctx, name, user, most, time.Hour)
		b.ok(err)
		if ok != want {
			b.Errorf("%s used by %s, at most %d times: %v", name, user, most, ok)
		}
	}
	uses("a", "one", 2, true)
	uses("a", "two", 2, true)
	uses("a", "three", 2, false)
	uses("a", "one", 2, true) // again
	uses("b", "three", 1, true)
	b.killed()
	uses("a", "three", 2, false)
	uses("a", "two", 2, true)
	_, err := b.s.Use(b.ctx, "c", "one", 1, -time.Hour)
	b.ok(err)
	b.maintain(store.Retention{})
	uses("c", "two", 1, true)
	uses("a", "three", 2, false)
}

func testUsesTogether(b *fixture) {
	var all sync.WaitGroup
	var mu sync.Mutex
	used := 0
	for i := range 10 {
		all.Go(func() {
			ok, err := b.s.Use(b.ctx, "a", fmt.Sprint(i), 3, time.Hour)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				b.Error(err)
			}
			if ok {
				used++
			}
		})
	}
	all.Wait()
	equal(b, "uses", used, 3)
}
