package peers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"mailxmppd/dns"
	"mailxmppd/mail"
	"mailxmppd/xmpp/stream"
)

var errTLS = &stream.NegotiationError{Stage: stream.StageTLS, Err: errors.New("certificate is for another name"), Permanent: true}

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
	want := []stream.Target{
		{Host: "xmpp.montague.example", Port: 5270, Addr: "192.0.2.7:5270"}, {Host: "xmpp.montague.example", Port: 5270, Addr: "[2001:db8::7]:5270"},
	}
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
	x.service(serverService)
	link := newFakeLink(withFeature, nil)
	x.streams.dialled = link
	x.standing(t)
	link.info = without
	if x.link(t) != "" {
		t.Error("asked again for no reason")
	}
	x.dir.Forget("capulet.example", "montague.example")
	if x.link(t) == "" || x.standing(t) != mail.Legacy {
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
		{"no feature", "unavailable 4.3.2", func(x *setup) { x.service(mailService); x.streams.dialled = newFakeLink(without, nil) }, nil},
		{"empty answer", "unavailable 4.3.2", func(x *setup) { x.service(mailService); x.streams.dialled = newFakeLink("", nil) }, nil},
		{"no feature, and no record", "unreachable 4.4.1", func(x *setup) { x.streams.live = newFakeLink(without, nil) }, nil},
		{"declined", "unreachable 4.4.3", func(x *setup) { x.dns.srv[mailService+"montague.example"] = []dns.SRV{{Target: "."}} }, nil},
		{"never", "unavailable 4.3.2", func(x *setup) { x.streams.live = newFakeLink(withFeature, nil) }, []Configured{{Domain: "montague.example", Policy: Never}}},
		{"bad port", "unreachable 4.4.3", func(*setup) {}, []Configured{{Domain: "montague.example", Addrs: []string{"192.0.2.1:http"}}}},
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
	x.store.put("montague.example", time.Hour, sightedAt(atServer))
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
	x.store.put("montague.example", time.Hour, denied)
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
	x.store.put("montague.example", time.Hour, denied)
	x.streams.dialled = newFakeLink(withFeature, nil)
	x.dir.Seen("capulet.example", "montague.example")
	if x.standing(t) != mail.Peer {
		t.Error("negative believed in spite of a stream since")
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
