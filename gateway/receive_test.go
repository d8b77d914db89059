package gateway

import (
	"strings"
	"testing"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// TestReceiveFromPeer: durable with its acceptance, delivered once, answered
// from memory the second time.
func TestReceiveFromPeer(t *testing.T) {
	w := newWorld(t, nil)
	b := mail.Binding{Local: "home.example", Remote: "peer.example", Proof: "pkix", TLS: "TLS1.3"}
	k := store.TransferKey{Domain: "peer.example", Local: "home.example", ID: strings.Repeat("a", 64)}
	var ids []mail.ID
	for range 2 {
		m := w.message(sample, "tybalt@peer.example", "juliet@home.example")
		m.Origin = mail.Origin{Transport: "xmpp", Peer: "peer.example", Remote: "127.0.0.1:5270", Received: time.Now()}
		m.Trace = []byte("Received: from theirs\r\n")
		got, failures := w.Gateway.Accept(t.Context(), k, store.ContentHash{Size: m.Facts.Size, SHA256: m.Facts.SHA256}, b, m)
		if failures[0] != nil {
			t.Fatal(failures[0])
		}
		ids = append(ids, got[0])
	}
	if ids[0] != ids[1] {
		t.Errorf("accepted as %s, then as %s", ids[0], ids[1])
	}
	w.waitState("juliet@home.example", store.Delivered)
	got := w.local.deliveries()
	if len(got) != 1 || !strings.Contains(got[0].content, "by gw.home.example with XMPP id") || !strings.HasSuffix(got[0].content, "Received: from theirs\r\n"+sample) {
		t.Errorf("delivered %+v", got)
	}
}
