package peers

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"mailxmppd/dns"
	"mailxmppd/mail"
	"mailxmppd/xmpp/stream"
)

// TestPinsLife follows a domain through the directory and its store, each day
// on new streams and from a cold start.
func TestPinsLife(t *testing.T) {
	x := newSetup(t)
	x.service(serverService)
	dial := func(info string) {
		x.streams.set(func(f *fakeStreams) { f.dialled, f.live = newFakeLink(info, nil), nil })
	}
	check := func(when string, want mail.Standing, basis Basis) {
		t.Helper()
		r, f := x.dir.Rule(context.Background(), "capulet.example", "montague.example")
		if f != nil || r.Standing != want || r.Basis != basis {
			t.Errorf("%s: %+v, %v", when, r, f)
		}
	}
	dial(withPolicy("enforce", 60*day, "xmpp-only"))
	check("discovered", mail.Peer, Seen)
	if only, err := x.dir.XMPPOnly(context.Background(), "montague.example"); !only || err != nil {
		t.Error("sends=xmpp-only is not remembered:", err)
	}
	x.later(40 * day)
	x.streams.err = errTLS
	check("nobody there for 40 days", mail.Peer, Pinned)
	x.streams.err = nil
	dial(without)
	if text := x.link(t); !strings.Contains(text, "pinned until it says so again a day later") {
		t.Error("first absence:", text)
	}
	check("absent once", mail.Peer, Pinned)
	x.later(23 * hour)
	dial(without)
	x.link(t)
	check("absent again too soon", mail.Peer, Pinned)
	x.later(hour)
	dial(without)
	x.link(t)
	check("absent a day apart", mail.Legacy, Negative)
	if only, _ := x.dir.XMPPOnly(context.Background(), "montague.example"); only {
		t.Error("sends=xmpp-only outlives the pin")
	}
	x.later(25 * hour)
	dial(withPolicy("enforce", 60*day, "any"))
	check("back", mail.Peer, Seen)
	x.later(day)
	check("pinned anew", mail.Peer, Pinned)
	dial(withPolicy("none", 0, "any"))
	x.link(t)
	x.later(29 * day)
	check("its policy ended, seen", mail.Peer, Seen)
	x.streams.err = errTLS
	x.later(day)
	check("not seen for 30 days", mail.Legacy, Unknown)
}

// TestChatServerCannotDenyTheMailService: whoever hides the _xmpps-mail
// records must not make the domain's own chat server end its standing.
func TestChatServerCannotDenyTheMailService(t *testing.T) {
	for _, c := range []struct {
		name  string
		known func(*known, time.Time)
		prep  func(*setup)
		want  mail.Standing
	}{
		{"seen at the mail service", sightedAt(atMail), func(x *setup) { x.service(serverService) }, mail.Peer},
		{"seen on a stream of the domain's", sightedAt(atUnknown), func(x *setup) { x.service(serverService) }, mail.Peer},
		{"pinned", pinnedAt(atMail, day), func(x *setup) { x.service(serverService) }, mail.Peer},
		{"seen at the chat server", sightedAt(atServer), func(x *setup) { x.service(serverService) }, mail.Legacy},
		{"the mail service itself says so", sightedAt(atMail), func(x *setup) { x.service(mailService) }, mail.Legacy},
		{"proven that there is no mail service", sightedAt(atMail), func(x *setup) {
			x.service(serverService)
			x.dns.secure = true
		}, mail.Legacy},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := newSetup(t)
			x.store.put("montague.example", hour, c.known)
			c.prep(x)
			x.streams.dialled = newFakeLink(without, nil)
			if x.link(t) == "" {
				t.Fatal("link without the feature")
			}
			x.streams.set(func(f *fakeStreams) { f.live = nil })
			if got := x.standing(t); got != c.want {
				t.Errorf("standing %v, want %v", got, c.want)
			}
		})
	}
}

// TestStreamOfTheChatServer: a domain's chat server has opened a stream to us.
// It takes no mail; the mail service of the same domain does.
func TestStreamOfTheChatServer(t *testing.T) {
	x := newSetup(t)
	chat, own := newFakeLink(without, nil), newFakeLink(withFeature, nil)
	chat.inbound = true
	x.service(mailService)
	x.streams.live, x.streams.second = chat, own
	if x.standing(t) != mail.Peer {
		t.Error("its chat server makes it no peer")
	}
	for range 3 {
		if l, _, err := x.dir.Link(context.Background(), "capulet.example", "montague.example"); err != nil || l != own {
			t.Fatalf("link %v, %v", l, err)
		}
	}
	if chat.asked != 1 || own.asked != 1 {
		t.Errorf("asked %d and %d times", chat.asked, own.asked)
	}
	// Without its mail service it is a peer still, and mail waits.
	close(own.done)
	x.streams.set(func(f *fakeStreams) { f.second = nil })
	if text := x.link(t); !strings.Contains(text, "stream that the peer domain has opened takes no mail") || x.standing(t) != mail.Peer {
		t.Error("without its mail service:", text)
	}
}

func TestAbsenceIsAskedAgain(t *testing.T) {
	x := newSetup(t)
	x.service(serverService)
	x.store.put("montague.example", hour, pinnedAt(atServer, 60*day))
	link := newFakeLink(without, nil)
	x.streams.dialled = link
	for range 3 {
		x.link(t)
	}
	if link.asked != 1 || x.store.puts != 1 {
		t.Errorf("asked %d times, written %d times", link.asked, x.store.puts)
	}
	x.dir.links.mu.Lock()
	a := x.dir.links.known[link]
	a.until = time.Now()
	x.dir.links.known[link] = a
	x.dir.links.mu.Unlock()
	x.link(t)
	if link.asked != 2 {
		t.Error("a link without the feature is never asked again")
	}
}

func TestServerWithoutBidi(t *testing.T) {
	errBidi := &stream.NegotiationError{Stage: stream.StageBackOff, Permanent: true, Err: &stream.NegotiationError{Stage: stream.StageBidi, Permanent: true}}
	for _, c := range []struct {
		name   string
		known  func(*known, time.Time)
		probed string
		probes int
		want   mail.Standing
	}{
		{"never seen", nil, without, 0, mail.Legacy},
		{"seen, and it does not answer", sightedAt(atServer), "", 1, mail.Peer},
		{"seen, and it takes no mail", sightedAt(atServer), without, 1, mail.Legacy},
		{"seen, and it has the feature", sightedAt(atServer), withFeature, 1, mail.Peer},
		{"pinned, and it takes no mail", pinnedAt(atServer, 60*day), without, 1, mail.Peer},
		{"seen elsewhere, and it takes no mail", sightedAt(atMail), without, 1, mail.Peer},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := newSetup(t)
			x.service(startTLSService)
			x.streams.err, x.streams.probed = errBidi, c.probed
			if c.known != nil {
				x.store.put("montague.example", hour, c.known)
			}
			for range 3 {
				x.standing(t)
				x.link(t)
			}
			if got := x.standing(t); got != c.want || x.streams.probes != c.probes {
				t.Errorf("standing %v, want %v; probed %d times", got, c.want, x.streams.probes)
			}
		})
	}
}

func TestNegativesAreKept(t *testing.T) {
	for _, c := range []struct {
		name string
		err  error
		puts int // in the store: for 24 h
	}{
		{"certificate of another name", errTLS, 0}, // as far as the proofs could be looked up
		{"no bidirectional streams", &stream.NegotiationError{Stage: stream.StageBidi, Permanent: true}, 1},
		{"connection lost in TLS", &stream.NegotiationError{Stage: stream.StageTLS}, 0},
		{"our certificate refused", &stream.NegotiationError{Stage: stream.StageAuth, Permanent: true}, 0},
		{"no connection", &stream.NegotiationError{Stage: stream.StageDial}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := newSetup(t)
			x.service(serverService)
			x.streams.err = c.err
			for range 3 {
				if x.standing(t) != mail.Legacy {
					t.Error("a peer")
				}
			}
			if x.streams.count() != 1 || x.store.puts != c.puts {
				t.Errorf("dialled %d times, written %d", x.streams.count(), x.store.puts)
			}
			x.later(23 * hour)
			x.standing(t)
			if want := 2 - c.puts; x.streams.count() != want {
				t.Errorf("after a restart dialled %d times, want %d", x.streams.count(), want)
			}
			x.later(2 * hour)
			x.standing(t)
			if want := 3 - c.puts; x.streams.count() != want {
				t.Errorf("after a day dialled %d times, want %d", x.streams.count(), want)
			}
		})
	}
}

func TestBulk(t *testing.T) {
	bulk := func(x *setup) Link {
		t.Helper()
		l, err := x.dir.Bulk(context.Background(), "capulet.example", "montague.example")
		if err != nil {
			t.Fatal(err)
		}
		return l.(Link)
	}
	x := newSetup(t)
	x.service(mailService)
	first, second := newFakeLink(withFeature, nil), newFakeLink(withFeature, nil)
	x.streams.dialled = first
	if bulk(x) != first {
		t.Error("not the only one")
	}
	x.streams.second = second
	if bulk(x) != second {
		t.Error("not the second one")
	}
	x.streams.second = newFakeLink(without, nil)
	if bulk(x) != first {
		t.Error("a stream without the feature")
	}
	x.dns.srv = map[string][]dns.SRV{}
	if bulk(x) != first {
		t.Error("a peer without records that has dialled us")
	}
	x.streams.set(func(f *fakeStreams) { f.live = nil })
	if _, err := x.dir.Bulk(context.Background(), "capulet.example", "montague.example"); err == nil {
		t.Error("a link out of nothing")
	}
}

func TestMemoryCannotBeRead(t *testing.T) {
	x := newSetup(t)
	x.store.put("montague.example", hour, pinnedAt(atMail, day))
	x.store.err = context.DeadlineExceeded
	s, f := x.dir.Standing(context.Background(), "capulet.example", "montague.example")
	if s != mail.Unsure || f == nil || f.Class != mail.Temporary {
		t.Errorf("standing %v, %v", s, f)
	}
	// What a stream says meanwhile does not overwrite what could not be read.
	x.service(mailService)
	x.streams.dialled = newFakeLink(without, nil)
	x.link(t)
	x.store.err = nil
	if r, _ := x.dir.Rule(context.Background(), "capulet.example", "montague.example"); r.Basis != Pinned {
		t.Errorf("the pin is gone: %+v", r)
	}
}

// TestHeldToXMPP: what a message in doubt may not leave XMPP for.
func TestHeldToXMPP(t *testing.T) {
	for name, c := range map[string]struct {
		known func(*known, time.Time)
		peers []Configured
		want  bool
	}{
		"unknown":   {nil, nil, false},
		"seen":      {sightedAt(atServer), nil, false},
		"pinned":    {pinnedAt(atServer, 60*day), nil, true},
		"required":  {nil, []Configured{{Domain: "montague.example"}}, true},
		"preferred": {nil, []Configured{{Domain: "montague.example", Policy: Preferred}}, true},
	} {
		x := newSetup(t, c.peers...)
		if c.known != nil {
			x.store.put("montague.example", hour, c.known)
		}
		if got := x.dir.HeldToXMPP(t.Context(), "montague.example"); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	x := newSetup(t)
	x.store.err = errors.New("disk is gone")
	if !x.dir.HeldToXMPP(t.Context(), "montague.example") {
		t.Error("what cannot be told is no permission")
	}
}
