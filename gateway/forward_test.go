package gateway

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
)

func withSRS(t *testing.T) func(*Config) {
	t.Helper()
	srs, err := NewSRS([][]byte{[]byte(strings.Repeat("k", 32))}, "home.example")
	if err != nil {
		t.Fatal(err)
	}
	return func(c *Config) { c.SRS = srs }
}

// TestForwarded: a foreign reverse-path goes to a peer as one of ours, and to
// everybody else as it is; cut through or spooled makes no difference.
func TestForwarded(t *testing.T) {
	for name, live := range map[string]bool{"spooled": false, "cut through": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, withSRS(t))
			w.peer.set(func(n *next) { n.live = live })
			w.send(w.message(sample, "a@far.example", "b@peer.example"), false)
			w.send(w.message(sample, "a@far.example", "c@other.example"), false)
			until(t, "both delivered", func() bool { return len(w.peer.deliveries()) == 1 && len(w.legacy.deliveries()) == 1 })
			got := w.peer.deliveries()[0].attempt
			if from := got.Envelope.Sender; from.Domain != "home.example" || !strings.HasPrefix(from.Local, "SRS0=") || got.Local != "home.example" {
				t.Errorf("to the peer from %s, spoken for by %s", from, got.Local)
			}
			if from := w.legacy.deliveries()[0].attempt.Envelope.Sender.String(); from != "a@far.example" {
				t.Errorf("to a legacy domain from %s", from)
			}
		})
	}
}

// TestForwardedBounces: an address that SRS made leads back, for anybody; one
// that it did not make leads nowhere.
func TestForwardedBounces(t *testing.T) {
	w := newWorld(t, withSRS(t))
	made, err := w.SRS.Forward(address(t, "a@far.example"))
	if err != nil {
		t.Fatal(err)
	}
	away := mail.Client{Addr: netip.MustParseAddrPort("192.0.2.1:1")}
	if f := w.entrance.Recipient(t.Context(), away, mail.Envelope{}, mail.Recipient{Address: made}); f != nil {
		t.Errorf("the way back is refused: %v", f)
	}
	forged := made
	forged.Local = strings.Replace(made.Local, "=a", "=b", 1)
	if f := w.entrance.Recipient(t.Context(), away, mail.Envelope{}, mail.Recipient{Address: forged}); f == nil || f.Status() != "5.1.1" {
		t.Errorf("a forged way back: %v", f)
	}
	w.send(w.message(sample, "", made.String()), false)
	until(t, "the bounce", func() bool { return len(w.legacy.deliveries()) == 1 })
	if got := w.legacy.deliveries()[0].rcpts[0]; got != "a@far.example" {
		t.Errorf("bounced to %s", got)
	}

	// The same from a peer, over XMPP.
	b := mail.Binding{Local: "home.example", Remote: "peer.example"}
	env := mail.Envelope{Recipients: []mail.Recipient{{Address: made}, {Address: forged}, {Address: address(t, "juliet@home.example")}}}
	if f := w.Check(t.Context(), b, env); f[0] != nil || f[1] == nil || f[2] != nil {
		t.Errorf("check: %v", f)
	}
	m := w.message(sample, "", made.String())
	m.Origin = mail.Origin{Transport: "xmpp", Peer: "peer.example", Received: time.Now()}
	k := store.TransferKey{Domain: "peer.example", Local: "home.example", ID: strings.Repeat("b", 64)}
	if _, f := w.Gateway.Accept(t.Context(), k, store.ContentHash{Size: m.Facts.Size, SHA256: m.Facts.SHA256}, b, m); f[0] != nil {
		t.Fatal(f[0])
	}
	until(t, "the peer's bounce", func() bool { return len(w.legacy.deliveries()) == 2 })
}
