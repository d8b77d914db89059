package gateway

import (
	"strings"
	"testing"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// TestDoubt: a peer may have taken a message, and then its domain is a peer no
// more, or cannot be reached.
func TestDoubt(t *testing.T) {
	for _, c := range []struct {
		name      string
		otherPath bool // the operator's choice
		held      bool // the domain is configured or pinned
		then      mail.Standing
		bySMTP    bool
	}{
		{"it waits", false, false, mail.Legacy, false},
		{"it goes", true, false, mail.Legacy, true},
		{"it waits for one that is held to XMPP", true, true, mail.Legacy, false},
		{"it waits for a peer", false, false, mail.Peer, false},
		{"it goes around a peer that stays away", true, false, mail.Peer, true},
		{"it waits for a peer that is held to XMPP", true, true, mail.Peer, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, func(cfg *Config) {
				cfg.DoubtOtherPath = c.otherPath
				cfg.RetryFirst, cfg.RetryMax = 200*time.Millisecond, 200*time.Millisecond
			})
			w.peer.set(func(n *next) {
				n.live, n.held = true, c.held
				n.answer = func(mail.Attempt) []mail.Outcome {
					n.live, n.standing = false, c.then
					return []mail.Outcome{refuse(mail.Doubtful)}
				}
			})
			w.send(w.message(sample, "romeo@home.example", "a@peer.example"), false)
			if c.bySMTP {
				w.waitState("a@peer.example", store.Delivered)
			} else {
				until(t, "two more attempts", func() bool {
					return w.Snapshot()["in-doubt-waited"] >= 2 || w.peer.tried() >= 3
				})
			}
			list, err := w.store.List(t.Context(), store.Filter{Closed: true})
			if err != nil {
				t.Fatal(err)
			}
			r, err := w.store.Show(t.Context(), list[0].ID)
			if err != nil {
				t.Fatal(err)
			}
			last := r.Attempts[len(r.Attempts)-1]
			count := w.Snapshot()["in-doubt-other-path"]
			if !c.bySMTP {
				if w.legacy.tried() != 0 || count != 0 {
					t.Errorf("%d attempts by SMTP, %d counted", w.legacy.tried(), count)
				}
				return
			}
			if len(w.legacy.deliveries()) != 1 || count != 1 {
				t.Errorf("%d by SMTP, %d counted", len(w.legacy.deliveries()), count)
			}
			if last.Way != store.WaySMTP || !strings.Contains(last.Text, "may have been taken over XMPP") {
				t.Errorf("record of the attempt: %+v", last)
			}
		})
	}
}

// TestDoubtOfOne: only the recipient in doubt waits.
func TestDoubtOfOne(t *testing.T) {
	w := newWorld(t, func(cfg *Config) {
		cfg.RetryFirst, cfg.RetryMax = 200*time.Millisecond, 200*time.Millisecond
	})
	w.peer.set(func(n *next) {
		n.live = true
		n.answer = func(mail.Attempt) []mail.Outcome {
			n.live, n.standing = false, mail.Legacy
			return []mail.Outcome{refuse(mail.Doubtful), refuse(mail.Refused)}
		}
	})
	w.send(w.message(sample, "romeo@home.example", "a@peer.example", "b@peer.example"), false)
	w.waitState("b@peer.example", store.Delivered)
	until(t, "the other waits", func() bool { return w.Snapshot()["in-doubt-waited"] >= 1 })
	if took := w.legacy.deliveries(); len(took) != 1 || len(took[0].rcpts) != 1 || took[0].rcpts[0] != "b@peer.example" {
		t.Errorf("by SMTP: %+v", took)
	}
	if s := w.states()["a@peer.example"]; !s.Open() {
		t.Errorf("the other is %s", s)
	}
	// The domain is a peer again: the doubt is resolved there.
	w.peer.set(func(n *next) { n.standing, n.answer = mail.Peer, nil })
	w.waitState("a@peer.example", store.Delivered)
	if a := w.peer.attempts[len(w.peer.attempts)-1]; !a.InDoubt {
		t.Error("the peer is not asked for its status")
	}
}

// TestMarkKeepsTheWords: what is marked says what became of it too.
func TestMarkKeepsTheWords(t *testing.T) {
	w := newWorld(t, nil)
	m := w.message(sample, "romeo@home.example", "a@peer.example", "b@peer.example", "c@peer.example")
	l := store.Lease{ID: m.ID, Envelope: m.Envelope, Domain: "peer.example", Deliveries: []store.Delivery{
		{N: 0, InDoubt: true}, {N: 1, InDoubt: true}, {N: 2, InDoubt: true},
	}}
	replied := mail.Fail(mail.Rejected, "not here", nil)
	outcomes := []mail.Outcome{{Text: "queued"}, {Failure: replied, Text: replied.Text}, {Failure: mail.Fail(mail.Unreachable, "refused", nil)}}
	w.mark(l, outcomes)
	for i, want := range []string{"queued", "not here", "refused"} {
		words := outcomes[i].Text
		if f := outcomes[i].Failure; f != nil && words == "" { // as the stores take it
			words = f.Text
		}
		if !strings.Contains(words, "may have been taken over XMPP: "+want) {
			t.Errorf("%d: %q", i, words)
		}
	}
}

// TestDoubtIsNotCaught: a recipient that was never offered does not come into
// doubt because a peer cannot be asked about another one of the message.
func TestDoubtIsNotCaught(t *testing.T) {
	w := newWorld(t, nil)
	w.peer.set(func(n *next) {
		n.answer = func(a mail.Attempt) []mail.Outcome { // as xmpp/transfer does where no stream is to be had
			out := make([]mail.Outcome, len(a.Envelope.Recipients))
			for i := range out {
				if out[i] = refuse(mail.Unreachable); a.InDoubt {
					out[i] = refuse(mail.Doubtful)
				}
			}
			return out
		}
	})
	m := w.message(sample, "romeo@home.example", "a@peer.example", "b@peer.example", "c@peer.example")
	l := store.Lease{ID: mail.NewID(), Envelope: m.Envelope, Facts: m.Facts, Domain: "peer.example", Deliveries: []store.Delivery{
		{N: 0, Attempt: 2}, {N: 1, Attempt: 2, InDoubt: true, DoubtWay: store.WayXMPP}, {N: 2, Attempt: 2},
	}}
	got := w.give(t.Context(), l, m.Content, route{toPeer, w.peer, false}, "home.example", m.Envelope.Sender)
	for i, want := range []mail.Class{mail.Temporary, mail.InDoubt, mail.Temporary} {
		if got[i].Failure == nil || got[i].Failure.Class != want {
			t.Errorf("recipient %d: %v", i, got[i].Failure)
		}
	}
}

// TestDoubtExpires: the sender hears that the message may have been delivered.
func TestDoubtExpires(t *testing.T) {
	w := newWorld(t, func(cfg *Config) {
		cfg.RetryFirst, cfg.RetryMax, cfg.Lifetime = 100*time.Millisecond, 100*time.Millisecond, time.Second
	})
	w.peer.set(func(n *next) {
		n.live = true
		n.answer = func(mail.Attempt) []mail.Outcome {
			n.live, n.standing = false, mail.Legacy
			return []mail.Outcome{refuse(mail.Doubtful)}
		}
	})
	w.send(w.message(sample, "romeo@home.example", "a@peer.example"), false)
	w.waitState("a@peer.example", store.ExpiredSt)
	w.waitState("romeo@home.example", store.Delivered)
	dsn := w.local.deliveries()
	if len(dsn) != 1 || !strings.Contains(dsn[0].content, "may have been\r\n    delivered all the same") || !strings.Contains(dsn[0].content, "Status: 5.4.7") {
		t.Errorf("dsns %+v", dsn)
	}
	if w.legacy.tried() != 0 {
		t.Error("it went by SMTP")
	}
}
