package gateway

import (
	"strings"
	"testing"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// TestDeadlines: at its deadline a message comes back, or its sender hears that it
// is late, whatever the retry timer says and whether or not its destination is
// tried at all (RFC 2852 section 4.1).
func TestDeadlines(t *testing.T) {
	for _, c := range []struct {
		name   string
		mode   byte
		notify mail.Notify
		dead   bool
		state  store.State
		action string // "" for no DSN
	}{
		{"return", 'R', 0, false, store.ExpiredSt, "failed"},
		{"return from a dead destination", 'R', 0, true, store.ExpiredSt, "failed"},
		{"return, never to be reported", 'R', mail.NotifyNever, false, store.ExpiredSt, ""},
		{"notify", 'N', 0, false, store.Deferred, "delayed"},
		{"notify of a dead destination", 'N', 0, true, store.Deferred, "delayed"},
		{"notify asks for the notice by itself", 'N', mail.NotifyFailure, false, store.Deferred, "delayed"},
		{"notify, never to be reported", 'N', mail.NotifyNever, false, store.Deferred, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, func(cfg *Config) { cfg.RetryFirst, cfg.RetryMax = time.Hour, time.Hour })
			w.legacy.set(func(n *next) {
				n.answer = func(mail.Attempt) []mail.Outcome {
					return []mail.Outcome{{Failure: mail.FromReply("mx.far.example", 451, "4.7.1", "later")}}
				}
			})
			if c.dead {
				w.sched.mu.Lock()
				w.sched.dest("far.example").deadUntil = time.Now().Add(time.Hour)
				w.sched.mu.Unlock()
			}
			m := w.message(sample, "romeo@home.example", "x@far.example")
			m.Envelope.Recipients[0].Notify = c.notify
			deadline := time.Now().Add(1500 * time.Millisecond)
			m.Envelope.DeliverBy = &mail.DeliverBy{Deadline: deadline, Mode: c.mode}
			w.send(m, false)
			if c.action == "" {
				until(t, "the deadline's end", func() bool {
					list, err := w.store.List(t.Context(), store.Filter{Closed: true, Domain: "far.example"})
					return err == nil && time.Now().After(deadline) && list[0].State == c.state && (list[0].DueSecs > 60 || c.mode == 'R')
				})
				if len(w.local.deliveries()) != 0 {
					t.Error("a DSN that nobody asked for")
				}
				return
			}
			w.waitState("romeo@home.example", store.Delivered)
			dsn := w.local.deliveries()[0]
			if time.Now().Before(deadline) {
				t.Error("the DSN is early")
			}
			if !strings.Contains(dsn.content, "Action: "+c.action+"\r\n") || w.states()["x@far.example"] != c.state {
				t.Errorf("state %s, dsn:\n%s", w.states()["x@far.example"], dsn.content)
			}
			if c.dead != (w.legacy.tried() == 0) {
				t.Errorf("%d attempts", w.legacy.tried())
			}
			if list, err := w.store.List(t.Context(), store.Filter{Domain: "far.example"}); c.mode == 'N' && (err != nil || list[0].DueSecs < 60) {
				t.Errorf("after the notice: %+v, %v", list, err)
			}
		})
	}
}

// TestDeadlineAfterCutThrough: what a peer did not answer in time waits no longer
// than its deadline.
func TestDeadlineAfterCutThrough(t *testing.T) {
	w := newWorld(t, func(cfg *Config) { cfg.RetryFirst, cfg.RetryMax = time.Hour, time.Hour })
	w.peer.set(func(n *next) {
		n.live = true
		n.answer = func(mail.Attempt) []mail.Outcome { return []mail.Outcome{refuse(mail.Doubtful)} }
	})
	m := w.message(sample, "romeo@home.example", "x@peer.example")
	m.Envelope.DeliverBy = &mail.DeliverBy{Deadline: time.Now().Add(1500 * time.Millisecond), Mode: 'N'}
	w.send(m, false)
	w.waitState("romeo@home.example", store.Delivered)
	if got := w.local.deliveries()[0].content; !strings.Contains(got, "Action: delayed\r\n") {
		t.Errorf("dsn:\n%s", got)
	}
}
