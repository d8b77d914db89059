package gateway

import (
	"strings"
	"testing"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// TestSuccessDSN: a success is reported by whoever is the last to know of the
// wish for it (RFC 3461 section 5.2).
func TestSuccessDSN(t *testing.T) {
	for _, c := range []struct {
		name    string
		notify  mail.Notify
		outcome mail.Outcome
		action  string // "" for no DSN
	}{
		{"the mailbox server has it", mail.NotifySuccess, mail.Outcome{Final: true}, "delivered"},
		{"a hop without DSN has it", mail.NotifySuccess, mail.Outcome{Relayed: true}, "relayed"},
		{"a hop with DSN has it", mail.NotifySuccess, mail.Outcome{}, ""},
		{"not asked for", 0, mail.Outcome{Final: true}, ""},
		{"failures only", mail.NotifyFailure, mail.Outcome{Relayed: true}, ""},
		{"its deadline was dropped", 0, mail.Outcome{Undated: true}, "relayed"},
		{"its deadline was dropped, never to be reported", mail.NotifyNever, mail.Outcome{Undated: true}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, nil)
			c.outcome.Remote = "mx.far.example"
			w.legacy.set(func(n *next) { n.answer = func(mail.Attempt) []mail.Outcome { return []mail.Outcome{c.outcome} } })
			m := w.message(sample, "romeo@home.example", "x@far.example")
			m.Envelope.Recipients[0].Notify = c.notify
			w.send(m, false)
			w.waitState("x@far.example", store.Delivered)
			if c.action == "" {
				if _, dsn := w.states()["romeo@home.example"]; dsn {
					t.Error("a DSN that nobody asked for")
				}
				return
			}
			w.waitState("romeo@home.example", store.Delivered)
			got := w.local.deliveries()[0].content
			if want := "Action: " + c.action + "\r\nStatus: 2.0.0\r\nRemote-MTA: dns; mx.far.example\r\n"; !strings.Contains(got, want) || strings.Contains(got, "Diagnostic-Code") {
				t.Errorf("dsn lacks %q:\n%s", want, got)
			}
		})
	}
}

// TestDeliverBy: a message that its sender wants back by a certain time does
// not wait for longer.
func TestDeliverBy(t *testing.T) {
	w := newWorld(t, nil)
	w.legacy.set(func(n *next) {
		n.answer = func(mail.Attempt) []mail.Outcome {
			return []mail.Outcome{{Failure: mail.FromReply("mx.far.example", 451, "4.7.1", "later")}}
		}
	})
	m := w.message(sample, "romeo@home.example", "x@far.example")
	m.Envelope.DeliverBy = &mail.DeliverBy{Deadline: time.Now().Add(1500 * time.Millisecond), Mode: 'R'}
	w.send(m, false)
	w.waitState("x@far.example", store.ExpiredSt)
}
