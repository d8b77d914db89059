package transfer

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// heavy is an offer with a large envelope of the n-th transfer of a domain.
func (x *setup) heavy(t *testing.T, domain, n int) string {
	t.Helper()
	var rcpts strings.Builder
	for i := range 560 {
		fmt.Fprintf(&rcpts, "<rcpt to='%s%d@montague.example' orcpt='rfc822;%s'/>", strings.Repeat("r", 50), i, strings.Repeat("o", 480))
	}
	b, sender := peerOf(domain)
	return x.ask(t, b, "set", offerXML(text(30_000), false, map[string]string{"tid": tidOf(n), "sender": sender}, rcpts.String()))
}

// TestOctetsAreShared: domains that fill all the octets they can get leave room
// for a newcomer, and no domain has more than its share.
func TestOctetsAreShared(t *testing.T) {
	x := newSetup()
	for domain := range 12 {
		opened := 0
		for n := range 20 {
			if !strings.HasPrefix(x.heavy(t, domain, n), "ready") {
				break
			}
			opened++
		}
		b, _ := peerOf(domain)
		if has := x.server.open.domain[b.Remote]; has.octets > domainOctets || has.open != opened || domain == 0 && opened < 8 {
			t.Errorf("domain %d has %d octets in %d offers, %d were answered as open", domain, has.octets, has.open, opened)
		}
	}
	if got := x.heavy(t, 1001, 0); !strings.HasPrefix(got, "ready 0 ok") {
		t.Errorf("a newcomer with many recipients is told %.60s", got)
	}
	b, sender := peerOf(1000)
	for n, children := range []string{"", many("user%d", 100)} {
		if got := x.ask(t, b, "set", offerXML(text(30_000), false, map[string]string{"tid": tidOf(n), "sender": sender}, children)); !strings.HasPrefix(got, "ready 0 ok") {
			t.Errorf("a newcomer is told %s", got)
		}
	}
}

// TestQuestionsAreNoProgress: neither status nor the same offer again keeps a
// transfer that rests from making room for its domain's next.
func TestQuestionsAreNoProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newSetup(func(s *ServerConfig, _ *SenderConfig) { s.MaxOpenPerDomain = 2 })
		content := text(1000)
		offer := func(n int) string {
			return x.ask(t, montague, "set", offerXML(content, false, map[string]string{"tid": tidOf(n)}, ""))
		}
		offer(0)
		offer(1)
		for at := range 4 {
			time.Sleep(restBeforeDrop / 4)
			x.ask(t, montague, "get", strings.Replace(statusXML(tid1, "romeo"), tid1, tidOf(0), 1))
			offer(0)
			x.ask(t, montague, "set", chunkXML(tidOf(1), 100*at, content[100*at:100*at+100]))
		}
		if got := offer(2); got != "ready 0 ok" {
			t.Errorf("next of the domain: %s", got)
		}
		if got := x.ask(t, montague, "set", chunkXML(tidOf(1), 400, content[400:])); got != "next 1000" {
			t.Errorf("the one that went on: %s", got)
		}
		if got := x.ask(t, montague, "set", chunkXML(tidOf(0), 0, content)); got != "unknown" {
			t.Errorf("the one that was only asked about: %s", got)
		}
	})
}
