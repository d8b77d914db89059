package peers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"mailxmppd/dns"
	"mailxmppd/mail"
	"mailxmppd/store"
	"mailxmppd/xmpp/stream"
)

var errTLS = &stream.NegotiationError{Stage: stream.StageTLS, Err: errors.New("certificate is for another name"), Permanent: true}

func remembered(feature bool, age time.Duration) store.Peer {
	b, _ := json.Marshal(stored{Feature: feature})
	return store.Peer{Domain: "montague.example", Facts: b, Age: age}
}

// situation is how the world looks now.
type situation struct {
	name string
	prep func(*setup)
}

// TestDowngrade is the table of xep-draft section 4.3: what is known of a
// domain against what happens now.
func TestDowngrade(t *testing.T) {
	const day = 24 * time.Hour
	peer := func(p Policy) []Configured {
		return []Configured{{Domain: "montague.example", Addrs: []string{"192.0.2.9:5270"}, Policy: p}}
	}
	nothingThere := situation{"no SRV", func(*setup) {}}
	servfail := situation{"SERVFAIL", func(x *setup) {
		x.dns.fails[mailService+"montague.example"], x.dns.fails[serverService+"montague.example"] = true, true
	}}
	ownService := situation{"_xmpps-mail", func(x *setup) { x.service(mailService); x.streams.err = errTLS }}
	declined := situation{"_xmpps-mail is .", func(x *setup) {
		x.service(serverService)
		x.streams.dialled = newFakeLink(withFeature, nil)
		x.dns.srv[mailService+"montague.example"] = []dns.SRV{{Target: "."}}
	}}
	chatTLS := situation{"chat server, TLS fails", func(x *setup) { x.service(serverService); x.streams.err = errTLS }}
	chatMute := situation{"chat server without answer", func(x *setup) {
		x.service(serverService)
		x.streams.dialled = newFakeLink("", stream.ErrTimeout)
	}}
	chatWithout := situation{"chat server without the feature", func(x *setup) {
		x.service(serverService)
		x.streams.dialled = newFakeLink(without, nil)
	}}
	chatRefuses := situation{"chat server that refuses disco", func(x *setup) {
		x.service(serverService)
		x.streams.dialled = newFakeLink("", &stream.StanzaError{Condition: "service-unavailable", Type: "cancel"})
	}}
	chatWith := situation{"chat server with the feature", func(x *setup) {
		x.service(serverService)
		x.streams.dialled = newFakeLink(withFeature, nil)
	}}
	all := []situation{nothingThere, servfail, ownService, declined, chatTLS, chatMute, chatWithout, chatRefuses, chatWith}
	for _, c := range []struct {
		name  string
		peers []Configured
		known *store.Peer
		peer  []string // where it is a peer; else legacy
	}{
		{"never seen", nil, nil, []string{ownService.name, chatWith.name}},
		{"seen yesterday", nil, new(remembered(true, day)), names(all)},
		{"seen 31 days ago", nil, new(remembered(true, 31*day)), []string{ownService.name, chatWith.name}},
		{"absent an hour ago", nil, new(remembered(false, time.Hour)), nil},
		{"absent 25 hours ago", nil, new(remembered(false, 25*time.Hour)), []string{ownService.name, chatWith.name}},
		{"required", peer(Required), nil, names(all)},
		{"required by default", peer(""), nil, names(all)},
		{"required, absent", peer(Required), new(remembered(false, time.Hour)), names(all)},
		{"never", peer(Never), new(remembered(true, day)), nil},
		{"preferred", peer(Preferred), nil, []string{declined.name, chatWith.name}},
		{"preferred, seen", peer(Preferred), new(remembered(true, day)), names(all)},
	} {
		for _, n := range all {
			t.Run(c.name+"/"+n.name, func(t *testing.T) {
				x := newSetup(t, c.peers...)
				if c.known != nil {
					x.store.peers["montague.example"] = *c.known
				}
				n.prep(x)
				if n.name == nothingThere.name || n.name == servfail.name {
					x.streams.err = errTLS
				}
				want := mail.Legacy
				if slices.Contains(c.peer, n.name) {
					want = mail.Peer
				}
				for range 2 { // the same from memory
					if got := x.standing(t); got != want {
						t.Errorf("standing %v, want %v", got, want)
					}
				}
			})
		}
	}
	t.Run("memory cannot be read", func(t *testing.T) {
		x := newSetup(t)
		x.store.err = errors.New("disk on fire")
		s, f := x.dir.Standing(context.Background(), "capulet.example", "montague.example")
		if s != mail.Unsure || f == nil || f.Class != mail.Temporary {
			t.Errorf("standing %v, %v", s, f)
		}
	})
}

func names(all []situation) []string {
	var out []string
	for _, n := range all {
		out = append(out, n.name)
	}
	return out
}

func TestLegacyDomainsAreCheap(t *testing.T) {
	x := newSetup(t)
	x.service(serverService)
	x.streams.err = errTLS
	for range 5 {
		x.standing(t)
	}
	if n := x.streams.count(); n != 1 {
		t.Errorf("dialled %d times for a chat server that fails", n)
	}
	x = newSetup(t)
	x.service(serverService)
	x.streams.dialled = newFakeLink(without, nil)
	x.standing(t)
	x.streams.set(func(f *fakeStreams) { f.live = nil })
	x.again() // another start: the store knows
	x.standing(t)
	if n := x.streams.count(); n != 1 {
		t.Errorf("dialled %d times for a domain without the feature", n)
	}
	if x.store.puts != 1 {
		t.Errorf("%d writes", x.store.puts)
	}
}

func TestManyAskAtOnce(t *testing.T) {
	x := newSetup(t)
	x.service(serverService)
	x.streams.err = errTLS
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() { x.standing(t) })
	}
	wg.Wait()
	// Who came after the first probe's end finds its result.
	if n := x.streams.count(); n != 1 {
		t.Errorf("dialled %d times", n)
	}
}

func TestLink(t *testing.T) {
	x := newSetup(t)
	x.service(mailService)
	x.streams.dialled = newFakeLink(withFeature, nil)
	for range 3 {
		l, caps, err := x.dir.Link(context.Background(), "capulet.example", "montague.example")
		if err != nil || l != x.streams.dialled || caps.MaxChunk != 6000 {
			t.Fatalf("link %v, %+v, %v", l, caps, err)
		}
	}
	if x.streams.dialled.asked != 1 || x.streams.dials != 1 || x.store.puts != 1 {
		t.Errorf("asked %d times, dialled %d, written %d", x.streams.dialled.asked, x.streams.dials, x.store.puts)
	}
	want := []stream.Target{{Host: "xmpp.montague.example", Addr: "192.0.2.7:5270"}, {Host: "xmpp.montague.example", Addr: "[2001:db8::7]:5270"}}
	if !slices.Equal(x.streams.targets, want) {
		t.Errorf("targets %v", x.streams.targets)
	}
	// A new link may have other capabilities.
	x.streams.live = newFakeLink(withFeature, nil)
	if _, _, err := x.dir.Link(context.Background(), "capulet.example", "montague.example"); err != nil || x.streams.live.asked != 1 {
		t.Errorf("new link: %v, asked %d times", err, x.streams.live.asked)
	}
}

func TestForgetAsksAnew(t *testing.T) {
	x := newSetup(t)
	link := newFakeLink(withFeature, nil)
	x.streams.live = link
	x.standing(t)
	link.info = without
	if x.standing(t) != mail.Peer {
		t.Error("asked again for no reason")
	}
	x.dir.Forget("capulet.example", "montague.example")
	if x.standing(t) != mail.Legacy {
		t.Error("not asked again")
	}
}

func TestMuteDomainIsAskedOnce(t *testing.T) {
	x := newSetup(t)
	link := newFakeLink("", stream.ErrTimeout)
	x.streams.live = link
	for range 5 {
		x.standing(t)
	}
	if link.asked != 1 {
		t.Errorf("asked %d times", link.asked)
	}
}

func TestLinkFailures(t *testing.T) {
	for _, c := range []struct {
		name, want string
		prep       func(*setup)
		peers      []Configured
	}{
		{"no SRV", "unreachable 4.4.3", func(*setup) {}, nil},
		{"SERVFAIL", "unreachable 4.4.3", func(x *setup) { x.dns.fails[mailService+"montague.example"] = true }, nil},
		{"no address", "unreachable 4.4.3", func(x *setup) { x.service(mailService); x.dns.addrs = nil }, nil},
		{"TLS", "unreachable 4.4.1", func(x *setup) { x.service(mailService); x.streams.err = errTLS }, nil},
		{"no answer", "unreachable 4.4.1", func(x *setup) { x.service(mailService); x.streams.live = newFakeLink("", stream.ErrTimeout) }, nil},
		{"no feature", "unavailable 4.3.2", func(x *setup) { x.streams.live = newFakeLink(without, nil) }, nil},
		{"empty answer", "unavailable 4.3.2", func(x *setup) { x.streams.live = newFakeLink("", nil) }, nil},
		{"never", "unavailable 4.3.2", func(x *setup) { x.streams.live = newFakeLink(withFeature, nil) }, []Configured{{Domain: "montague.example", Policy: Never}}},
		{"bad address", "unreachable 4.4.3", func(*setup) {}, []Configured{{Domain: "montague.example", Addrs: []string{"nowhere"}}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := newSetup(t, c.peers...)
			c.prep(x)
			_, _, err := x.dir.Link(context.Background(), "capulet.example", "montague.example")
			f := mail.AsFailure(err)
			if got := fmt.Sprintf("%s %s", f.Kind, f.Status()); got != c.want || f.Class != mail.Temporary {
				t.Errorf("got %s (%v), want %s", got, f, c.want)
			}
		})
	}
}

func TestAbsenceEndsASighting(t *testing.T) {
	x := newSetup(t)
	x.store.peers["montague.example"] = remembered(true, time.Hour)
	x.service(serverService)
	if x.standing(t) != mail.Peer {
		t.Fatal("sighted, and no peer")
	}
	x.streams.dialled = newFakeLink(without, nil)
	if _, _, err := x.dir.Link(context.Background(), "capulet.example", "montague.example"); err == nil {
		t.Fatal("link to a domain without the feature")
	}
	x.streams.live = nil
	if x.standing(t) != mail.Legacy {
		t.Error("it says that it takes no mail, and is still a peer")
	}
}

func TestSeenClearsANegative(t *testing.T) {
	x := newSetup(t)
	x.service(serverService)
	x.store.peers["montague.example"] = remembered(false, time.Hour)
	if x.standing(t) != mail.Legacy {
		t.Fatal("negative not believed")
	}
	// It comes, says that it has the feature, and goes again.
	link := newFakeLink(withFeature, nil)
	x.streams.set(func(f *fakeStreams) { f.live = link })
	x.dir.Seen("capulet.example", "montague.example")
	eventually(t, func() bool {
		x.store.mu.Lock()
		defer x.store.mu.Unlock()
		return x.store.puts == 1
	})
	x.streams.set(func(f *fakeStreams) { f.live, f.err = nil, errTLS })
	if x.standing(t) != mail.Peer {
		t.Error("the sighting is not remembered")
	}
	// It comes and goes before it could be asked: asked anew.
	x = newSetup(t)
	x.service(serverService)
	x.store.peers["montague.example"] = remembered(false, time.Hour)
	x.streams.dialled = newFakeLink(withFeature, nil)
	x.dir.Seen("capulet.example", "montague.example")
	if x.standing(t) != mail.Peer {
		t.Error("negative believed in spite of a stream since")
	}
}

func TestExpectRedials(t *testing.T) {
	x := newSetup(t, Configured{Domain: "montague.example", Addrs: []string{"192.0.2.9:5270"}})
	x.streams.err = errTLS
	for range 10 { // one goroutine for the pair
		x.dir.Expect("capulet.example", "montague.example")
	}
	eventually(t, func() bool { return x.streams.count() == 1 })
	x.streams.set(func(f *fakeStreams) { f.err, f.dialled = nil, newFakeLink(withFeature, nil) })
	eventually(t, func() bool {
		x.dir.waiting.mu.Lock()
		defer x.dir.waiting.mu.Unlock()
		return len(x.dir.waiting.until) == 0
	})
	if x.streams.Live("", "") == nil || x.streams.count() != 2 {
		t.Errorf("dialled %d times, live %v", x.streams.count(), x.streams.Live("", ""))
	}
}

func TestExpectIsBounded(t *testing.T) {
	x := newSetup(t)
	x.dir.waiting.max = 5
	for i := range 50 {
		x.dir.Expect("capulet.example", fmt.Sprintf("d%d.example", i))
	}
	x.dir.waiting.mu.Lock()
	n := len(x.dir.waiting.until)
	x.dir.waiting.mu.Unlock()
	if n != 5 {
		t.Errorf("%d waiting", n)
	}
	x.dir.Close() // goleak finds who does not end
	x.dir.Expect("capulet.example", "late.example")
	x.dir.Seen("capulet.example", "late.example")
}

func TestOrder(t *testing.T) {
	records := []dns.SRV{
		{Priority: 20, Weight: 0, Target: "c"}, {Priority: 10, Weight: 90, Target: "a"},
		{Priority: 10, Weight: 10, Target: "b"}, {Priority: 10, Weight: 0, Target: "z"},
	}
	draw := rand.New(rand.NewPCG(3, 4))
	first := map[string]int{}
	for range 10000 {
		out := order(records, draw.IntN)
		var seq strings.Builder
		for _, r := range out {
			seq.WriteString(r.Target)
		}
		if len(out) != 4 || !strings.HasSuffix(seq.String(), "c") {
			t.Fatalf("order %s", seq.String())
		}
		first[out[0].Target]++
	}
	if first["a"] < 8500 || first["b"] < 700 || first["z"] == 0 || first["z"] > 300 {
		t.Errorf("first of 10,000: %v", first)
	}
	if order(nil, draw.IntN) != nil {
		t.Error("something from nothing")
	}
}

func eventually(t *testing.T, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatal("did not happen within 10 s")
}
