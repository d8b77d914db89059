package peers

import (
	"context"
	"testing"
	"time"

	"mailxmppd/dns"
	"mailxmppd/mail"
	"mailxmppd/xmpp/stream"
)

func (x *setup) rules(t *testing.T, when string, want mail.Standing, basis Basis) {
	t.Helper()
	r, f := x.dir.Rule(context.Background(), "capulet.example", "montague.example")
	if f != nil || r.Standing != want || r.Basis != basis {
		t.Errorf("%s: %+v, %v", when, r, f)
	}
}

// TestMailRecordsThatCannotBeLookedUp: what a chat server says or fails in
// meanwhile is not stored, since the records may lead elsewhere.
func TestMailRecordsThatCannotBeLookedUp(t *testing.T) {
	for name, fail := range map[string]error{"takes no mail": nil, "no bidirectional streams": errNoBidi} {
		t.Run(name, func(t *testing.T) {
			x := newSetup(t)
			x.service(serverService)
			x.dns.fails[mailService+"montague.example"] = true
			x.streams.dialled, x.streams.err = newFakeLink(without, nil), fail
			x.rules(t, "records dark", mail.Legacy, Unknown)
			x.rules(t, "records dark, again", mail.Legacy, Negative) // for ten minutes, here
			if x.store.puts != 0 {
				t.Errorf("stored: %s", x.store.peers["montague.example"].Facts)
			}
			x.dns.fails = map[string]bool{}
			x.service(mailService)
			x.later(12 * hour)
			x.rules(t, "records found", mail.Peer, Announced)
		})
	}
	for name, learn := range map[string]func(*known, time.Time){"seen": sightedAt(atServer), "pinned": pinnedAt(atServer, 60*day)} {
		t.Run(name, func(t *testing.T) {
			x := newSetup(t)
			x.service(serverService)
			x.dns.fails[mailService+"montague.example"] = true
			x.store.put("montague.example", hour, learn)
			link := newFakeLink(without, nil)
			x.streams.dialled = link
			x.link(t)
			if x.standing(t) != mail.Peer || x.store.puts != 0 {
				t.Errorf("ended by a chat server: %s", x.store.peers["montague.example"].Facts)
			}
			x.dir.running.Wait() // for the question for a withdrawal
			// The same answer counts when the records are known not to be there.
			x.dns.fails = map[string]bool{}
			x.link(t)
			if x.store.puts != 1 || link.asked != 1 {
				t.Errorf("written %d times, asked %d", x.store.puts, link.asked)
			}
		})
	}
}

// TestRecordsOutrankANegative: a domain that announces itself is a peer,
// whatever its chat server has said before; its mail service's own word stands.
func TestRecordsOutrankANegative(t *testing.T) {
	by := func(at service) func(*known, time.Time) {
		return func(k *known, now time.Time) { k.deny(now, "said no", at) }
	}
	for _, c := range []struct {
		name  string
		known func(*known, time.Time)
		want  mail.Standing
		basis Basis
	}{
		{"chat server takes no mail", by(atServer), mail.Peer, Announced},
		{"a failure", func(k *known, now time.Time) { k.refuse(now, "no stream") }, mail.Peer, Announced},
		{"mail service takes no mail", by(atMail), mail.Legacy, Negative},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := newSetup(t)
			x.store.put("montague.example", 12*hour, c.known)
			x.service(mailService)
			x.rules(t, "records", c.want, c.basis)
			x.rules(t, "again", c.want, c.basis)
			x.again(Configured{Domain: "montague.example", Policy: Preferred})
			x.rules(t, "preferred", mail.Legacy, Negative)
		})
	}
}

// TestRecordsAreLookedForOnceAMinute where there is a negative, and ".", or a
// failure to look, is no announcement.
func TestRecordsAreLookedForOnceAMinute(t *testing.T) {
	for name, prep := range map[string]func(*setup){
		"none":     func(*setup) {},
		"declined": func(x *setup) { x.dns.srv[mailService+"montague.example"] = []dns.SRV{{Target: "."}} },
		"SERVFAIL": func(x *setup) { x.dns.fails[mailService+"montague.example"] = true },
	} {
		t.Run(name, func(t *testing.T) {
			x := newSetup(t)
			x.store.put("montague.example", hour, denied)
			prep(x)
			for range 5 {
				x.rules(t, "negative", mail.Legacy, Negative)
			}
			if len(x.dns.asked) != 1 || x.streams.count() != 0 {
				t.Errorf("asked %v, dialled %d times", x.dns.asked, x.streams.count())
			}
			x.dns.fails = map[string]bool{}
			x.service(mailService)
			x.rules(t, "within the minute", mail.Legacy, Negative)
			x.dir.memory.mu.Lock()
			e := x.dir.memory.entries["montague.example"]
			e.looked = time.Now()
			x.dir.memory.entries["montague.example"] = e
			x.dir.memory.mu.Unlock()
			x.rules(t, "after it", mail.Peer, Announced)
		})
	}
}

// TestProofThatCouldNotBeLookedUp: a failed TLSA look-up leaves a certificate
// unproven like a wrong one; it costs ten minutes here and nothing elsewhere.
func TestProofThatCouldNotBeLookedUp(t *testing.T) {
	x := newSetup(t)
	x.service(serverService)
	x.streams.err = &stream.NegotiationError{Stage: stream.StageBackOff, Permanent: true, Err: errTLS}
	x.rules(t, "unproven", mail.Legacy, Unknown)
	x.rules(t, "again", mail.Legacy, Negative)
	if x.store.puts != 0 || x.streams.count() != 1 {
		t.Errorf("written %d times, dialled %d", x.store.puts, x.streams.count())
	}
	x.streams.set(func(f *fakeStreams) { f.err, f.dialled = nil, newFakeLink(withFeature, nil) })
	x.again() // another node
	x.rules(t, "proven", mail.Peer, Seen)
}
