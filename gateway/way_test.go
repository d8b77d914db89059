package gateway

import (
	"testing"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// TestWayRecorded: while an attempt runs the store holds by which way it goes,
// also where that is not what was likely when it began.
func TestWayRecorded(t *testing.T) {
	for _, c := range []struct {
		name, rcpt string
		live       bool
		standing   mail.Standing
		want       store.Way
	}{
		{"local", "romeo@second.example", false, mail.Peer, store.WayLocal},
		{"legacy", "a@far.example", false, mail.Peer, store.WaySMTP},
		{"peer with a stream", "a@peer.example", true, mail.Peer, store.WayXMPP},
		{"peer without a stream", "a@peer.example", false, mail.Peer, store.WayXMPP},
		{"peer no more", "a@peer.example", true, mail.Legacy, store.WaySMTP},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, func(cfg *Config) { cfg.CutThrough = false })
			running := make(chan store.Way, 1)
			for _, n := range []*next{w.local, w.peer, w.legacy} {
				n.set(func(n *next) {
					n.live, n.standing = c.live, c.standing
					n.answer = func(a mail.Attempt) []mail.Outcome {
						if r, err := w.store.Show(t.Context(), a.ID); err == nil {
							running <- r.Attempts[0].Way
						}
						return make([]mail.Outcome, len(a.Envelope.Recipients))
					}
				})
			}
			w.send(w.message(sample, "romeo@home.example", c.rcpt), false)
			if got := <-running; got != c.want {
				t.Errorf("way %q, want %q", got, c.want)
			}
			w.waitState(c.rcpt, store.Delivered)
		})
	}
}
