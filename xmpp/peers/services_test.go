package peers

import (
	"bytes"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"mailxmppd/mail"
	"mailxmppd/xmpp/transfer"
)

// town is domains whose chat server lists the service mail.montague.example,
// which has streams of its own, and a gateway elsewhere.
type town struct {
	zone             *zone
	service, capulet *node
	items            atomic.Pointer[[]string] // of montague.example
	listed           atomic.Int32             // how often a chat server was asked for them
}

const serviceName = "mail.montague.example"

func newTown(t *testing.T, serves ...string) *town {
	t.Helper()
	ca := newAuthority(t)
	w := &town{zone: startZone(t)}
	w.items.Store(&[]string{"conference.montague.example", serviceName})
	chat := startServer(t, listingServer(newCertificates(t, ca), func(string) []string {
		w.listed.Add(1)
		return *w.items.Load()
	}))
	resolver := w.zone.resolver(t)
	w.service = startNodeWith(t, ca, nodeConfig{domains: []string{serviceName}, serves: map[string][]string{serviceName: serves}, dns: resolver})
	w.capulet = startNodeWith(t, ca, nodeConfig{domains: []string{"capulet.example"}, dns: resolver})
	w.zone.serve(mailService, serviceName, w.service.addr)
	w.zone.serve(mailService, "capulet.example", w.capulet.addr)
	for _, domain := range []string{"montague.example", "verona.example"} {
		w.zone.serve(serverService, domain, chat)
	}
	return w
}

// TestService: a domain's mail goes to the service that it lists, and comes
// from it, small and in chunks, under the names that the draft says.
func TestService(t *testing.T) {
	t.Parallel()
	w := newTown(t, "montague.example")
	ctx := t.Context()
	r, f := w.capulet.dir.Rule(ctx, "capulet.example", "montague.example")
	if f != nil || r.Standing != mail.Peer {
		t.Fatalf("standing: %+v, %v", r, f)
	}
	for _, size := range []int{100, 300_000} {
		a := attempt("capulet.example", "montague.example", size, "romeo", "nobody")
		out := w.capulet.sender.Deliver(ctx, a)
		if !out[0].Delivered() || out[0].Remote != serviceName || out[1].Failure == nil || out[1].Failure.Kind != mail.NoSuchMailbox {
			t.Fatalf("to the domain: %+v, %v", out[0], out[1].Failure)
		}
		if again := w.capulet.sender.Deliver(ctx, a); again[0].RemoteID != out[0].RemoteID {
			t.Errorf("a twin: %+v", again[0])
		}
		back := w.service.sender.Deliver(ctx, attempt("montague.example", "capulet.example", size, "juliet"))
		if !back[0].Delivered() {
			t.Fatalf("from the domain: %v", back[0].Failure)
		}
	}
	w.service.content(t, 2)
	w.capulet.content(t, 2)
	if !w.capulet.dir.Live("capulet.example", "montague.example") || !slices.Equal(w.capulet.dir.Through(serviceName), []string{"montague.example"}) {
		t.Error("the service's stream is not known as the domain's")
	}
	if failures, err := w.capulet.sender.Check(ctx, "capulet.example", "montague.example", mail.Address{}, false,
		attempt("capulet.example", "montague.example", 1, "nobody", "romeo").Envelope.Recipients); err != nil || failures[0] == nil || failures[1] != nil {
		t.Errorf("check: %v, %v", failures, err)
	}
	if n := w.listed.Load(); n > 2 { // once each way at most
		t.Errorf("the domain was asked for its items %d times", n)
	}
	// What was seen holds after a restart, and asks the domain anew.
	if k, _, _, err := w.capulet.dir.memory.recall(ctx, "montague.example"); err != nil || k.via != serviceName || k.service != atServer {
		t.Errorf("remembered: %+v, %v", k, err)
	}
}

// TestServiceOfSeveral: the same message to two domains of one service makes
// two transfers.
func TestServiceOfSeveral(t *testing.T) {
	t.Parallel()
	w := newTown(t, "montague.example", "verona.example")
	var sent mail.Attempt
	for _, domain := range []string{"montague.example", "verona.example"} {
		a := attempt("capulet.example", domain, 300_000, "romeo")
		if sent.Transfer == "" {
			sent = a
		} else if a.Transfer != sent.Transfer {
			t.Fatal("not the same message")
		}
		if out := w.capulet.sender.Deliver(t.Context(), a); !out[0].Delivered() {
			t.Fatalf("%s: %v", domain, out[0].Failure)
		}
	}
	for _, content := range w.service.content(t, 2) {
		if !bytes.Equal(content, contentOf(sent)) {
			t.Error("content changed")
		}
	}
}

// TestServiceNotBoth: nothing goes where only one of the two has said so.
func TestServiceNotBoth(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		arrange func(w *town)
		kind    mail.Kind // of mail from the domain by the service
	}{
		{"the domain does not list it", func(w *town) { w.items.Store(&[]string{"conference.montague.example"}) }, mail.NotPermitted},
		{"the domain lists it by a node", func(w *town) { w.items.Store(&[]string{serviceName + "' node='mail"}) }, mail.NotPermitted},
		{"the domain lists a mailbox", func(w *town) { w.items.Store(&[]string{"x@" + serviceName}) }, mail.NotPermitted},
		{"too far down", func(w *town) {
			w.items.Store(&[]string{"a.example", "b.example", "c.example", "d.example", "e.example", "f.example", "g.example", "h.example", serviceName})
		}, mail.NotPermitted},
		{"the domain cannot be asked", func(w *town) { w.zone.set(serverService + "montague.example. SRV") }, mail.Unreachable},
		{"the domain's DNS fails", func(w *town) {
			w.zone.set(serverService + "montague.example. SRV")
			w.zone.fail("montague.example", "servfail")
		}, mail.Unreachable},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newTown(t, "montague.example")
			c.arrange(w)
			out := w.service.sender.Deliver(t.Context(), attempt("montague.example", "capulet.example", 100, "juliet"))
			if out[0].Delivered() || out[0].Failure.Kind != c.kind {
				t.Errorf("from the domain: %v", out[0].Failure)
			}
			if r, f := w.capulet.dir.Rule(t.Context(), "capulet.example", "montague.example"); f != nil || r.Standing != mail.Legacy {
				t.Errorf("to the domain: %+v, %v", r, f)
			}
			w.capulet.content(t, 0)
		})
	}
	t.Run("the service does not name it", func(t *testing.T) {
		t.Parallel()
		w := newTown(t, "verona.example")
		if r, f := w.capulet.dir.Rule(t.Context(), "capulet.example", "montague.example"); f != nil || r.Standing != mail.Legacy {
			t.Errorf("to the domain: %+v, %v", r, f)
		}
		before := w.listed.Load()
		if _, _, err := w.service.dir.Link(t.Context(), serviceName, "capulet.example"); err != nil {
			t.Fatal(err)
		}
		if f := w.capulet.dir.Speaks(t.Context(), "capulet.example", serviceName, "montague.example"); f == nil || f.Kind != mail.NotPermitted {
			t.Errorf("speaks: %v", f)
		}
		if w.listed.Load() != before {
			t.Error("a domain was asked that the service does not even claim")
		}
	})
}

// TestServiceOwnNameOnly: a component that takes mail for its own name does not
// draw that of the domain whose chat server lists it.
func TestServiceOwnNameOnly(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	for domain, want := range map[string]mail.Standing{"montague.example": mail.Legacy, serviceName: mail.Peer} {
		if r, f := w.capulet.dir.Rule(t.Context(), "capulet.example", domain); f != nil || r.Standing != want {
			t.Errorf("%s: %+v, %v", domain, r, f)
		}
	}
}

// TestServiceEnds: the domain takes its mail from a service by not listing it
// any more, and so does the service by not naming the domain.
func TestServiceEnds(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"domain", "service"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			w := newTown(t, "montague.example")
			d := w.capulet.dir
			if _, _, err := d.Link(t.Context(), "capulet.example", "montague.example"); err != nil {
				t.Fatal(err)
			}
			if how == "domain" {
				w.items.Store(&[]string{})
				d.listings.forget("montague.example") // a day later
			}
			var err error
			eventually(t, func() bool {
				if how == "service" { // again where who asks beside us has noted the answer of before
					d.links.mu.Lock()
					for l, a := range d.links.known {
						if a.pair.remote == serviceName {
							a.caps.Serves = []string{"verona.example"}
							d.links.known[l] = a
						}
					}
					d.links.mu.Unlock()
				}
				_, _, err = d.Link(t.Context(), "capulet.example", "montague.example")
				return err != nil
			})
			if f := mail.AsFailure(err); f == nil || f.Kind != mail.Unavailable {
				t.Fatalf("link: %v", err)
			}
			if r, f := d.Rule(t.Context(), "capulet.example", "montague.example"); f != nil || r.Standing != mail.Legacy {
				t.Errorf("standing: %+v, %v", r, f)
			}
		})
	}
}

// TestServiceAway: a stream of the chat server that lists a service is no stream
// over which the domain's mail goes: whoever waits for the service goes on
// waiting.
func TestServiceAway(t *testing.T) {
	t.Parallel()
	w := newTown(t, "montague.example")
	d := w.capulet.dir
	l, _, err := d.Link(t.Context(), "capulet.example", "montague.example")
	if err != nil {
		t.Fatal(err)
	}
	if d.cfg.Streams.Live("capulet.example", "montague.example") == nil || !d.Live("capulet.example", "montague.example") {
		t.Fatal("both have a stream")
	}
	l.(interface{ Close(string) }).Close("")
	<-l.Done()
	if d.cfg.Streams.Live("capulet.example", "montague.example") == nil {
		t.Fatal("the chat server's stream has ended as well")
	}
	if d.Live("capulet.example", "montague.example") {
		t.Error("the domain's mail is thought to go over its chat server's stream")
	}
}

// TestServicePins: the policy of a service is that of the domains it serves.
func TestServicePins(t *testing.T) {
	var k known
	now := time.Now()
	k.sightThrough(now, transfer.Capabilities{Policy: "enforce", MaxAge: day}, atServer, serviceName)
	facts, err := k.encode(now)
	if err != nil {
		t.Fatal(err)
	}
	back, err := decode(facts, hour, now)
	if err != nil || back.via != serviceName || back.basis(now, day) != Pinned {
		t.Errorf("%+v, %v", back, err)
	}
	back.sight(now, transfer.Unstated(), atServer)
	if back.via != "" || back.basis(now, day) != Seen {
		t.Errorf("the domain itself has spoken: %+v", back)
	}
}

// TestClaimsAreBounded: what a service claims costs a domain one question a
// minute, however often it sends.
func TestClaimsAreBounded(t *testing.T) {
	t.Parallel()
	w := newTown(t, "montague.example")
	w.items.Store(&[]string{})
	for range 20 {
		out := w.service.sender.Deliver(t.Context(), attempt("montague.example", "capulet.example", 100, "juliet"))
		if out[0].Delivered() || out[0].Failure.Kind != mail.NotPermitted {
			t.Fatalf("%v", out[0].Failure)
		}
	}
	if n := w.listed.Load(); n != 1 {
		t.Errorf("asked %d times", n)
	}
	s := &listings{validFor: day, known: map[string]listing{}}
	for i := range maxListings + 100 {
		s.put(string(rune('a'+i%26))+time.Duration(i).String(), listing{at: time.Now()})
	}
	if len(s.known) > maxListings {
		t.Errorf("%d listings are held", len(s.known))
	}
}
