package gateway

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// reportsTo counts the messages that are in the store for a sender.
func (w *world) reportsTo(rcpt string) int {
	w.t.Helper()
	list, err := w.store.List(w.t.Context(), store.Filter{Closed: true})
	if err != nil {
		w.t.Fatal(err)
	}
	n := 0
	for _, e := range list {
		if e.Rcpt == rcpt {
			n++
		}
	}
	return n
}

func salesForTwo(t *testing.T) func(*Config) {
	return withAliases(t, standsFor(t, "sales@home.example", "juliet@home.example", "nurse@home.example"))
}

// TestExpandedIsStoredWithTheMessage: a store that fails after the message is in
// cannot lose the report about it, by SMTP or from a peer; what is not stored
// has none either.
func TestExpandedIsStoredWithTheMessage(t *testing.T) {
	w := newWorld(t, salesForTwo(t))
	toSales := []mail.Recipient{{Address: address(t, "sales@home.example"), Notify: mail.NotifySuccess}}
	w.faulty.order(func(f *faulty) { f.put = store.ErrFull })
	m := w.message(sample, "a@far.example")
	m.Envelope.Recipients = toSales
	if v := w.send(m, false); v[0].Failure == nil {
		t.Fatal("taken without a store")
	}
	if n := w.reportsTo("a@far.example"); n != 0 {
		t.Fatalf("%d reports about what was not taken", n)
	}
	w.faulty.order(func(f *faulty) { f.put, f.puts, f.later = nil, 0, store.ErrFull })
	m = w.message(sample, "a@far.example")
	m.Envelope.Recipients = toSales
	if v := w.send(m, false); v[0].Failure != nil {
		t.Fatal(v[0].Failure)
	}
	if n := w.reportsTo("a@far.example"); n != 1 {
		t.Errorf("%d reports", n)
	}
	b := mail.Binding{Local: "home.example", Remote: "peer.example"}
	k := store.TransferKey{Domain: "peer.example", Local: "home.example", ID: strings.Repeat("e", 64)}
	for _, to := range []string{"", "b@home.example"} { // again, and with one more
		m := w.message(sample, "a@peer.example")
		m.Envelope.Recipients = toSales
		if to != "" {
			m.Envelope.Recipients = append(m.Envelope.Recipients, mail.Recipient{Address: address(t, to)})
		}
		m.Origin = mail.Origin{Transport: "xmpp", Peer: "peer.example", Received: time.Now()}
		if _, f := w.Gateway.Accept(t.Context(), k, store.ContentHash{Size: m.Facts.Size, SHA256: m.Facts.SHA256}, b, m); f[0] != nil {
			t.Fatal(f[0])
		}
		if n := w.reportsTo("a@peer.example"); n != 1 {
			t.Errorf("from a peer, to sales and %q: %d reports", to, n)
		}
	}
}

// TestStoreFailsToTellWhoIsMeant: an address of ours whose meaning the store
// cannot tell any more once the content is there puts the message off. It is
// not taken for a mailbox.
func TestStoreFailsToTellWhoIsMeant(t *testing.T) {
	w := newWorld(t, withSRS(t))
	long := mail.Address{Local: "bounces+" + strings.Repeat("x", 50), Domain: "lists.far.example"}
	short, err := w.SRS.Forward(long)
	if err != nil {
		t.Fatal(err)
	}
	name, _ := w.SRS.Stored(long)
	if err := w.store.PutReturnPath(t.Context(), name, long, time.Hour); err != nil {
		t.Fatal(err)
	}
	stranger := mail.Client{Addr: netip.MustParseAddrPort("192.0.2.1:1")}
	if f := w.entrance.Recipient(t.Context(), stranger, mail.Envelope{}, mail.Recipient{Address: short}); f != nil {
		t.Fatal(f)
	}
	w.faulty.order(func(f *faulty) { f.back = store.ErrFull })
	for _, perRecipient := range []bool{false, true} {
		v := w.entrance.Accept(t.Context(), stranger, w.message(sample, "", short.String()), perRecipient)
		if len(v) != 1 || v[0].Failure == nil || v[0].Failure.Class != mail.Temporary {
			t.Errorf("by SMTP, one verdict each %v: %+v", perRecipient, v)
		}
	}
	// Over XMPP the others are taken, for it has an answer for each.
	m := w.message(sample, "", "juliet@home.example", short.String())
	m.Origin = mail.Origin{Transport: "xmpp", Peer: "peer.example", Received: time.Now()}
	k := store.TransferKey{Domain: "peer.example", Local: "home.example", ID: strings.Repeat("f", 64)}
	_, f := w.Gateway.Accept(t.Context(), k, store.ContentHash{Size: m.Facts.Size, SHA256: m.Facts.SHA256}, mail.Binding{Local: "home.example", Remote: "peer.example"}, m)
	if f[0] != nil || f[1] == nil || f[1].Class != mail.Temporary {
		t.Errorf("from a peer: %v", f)
	}
	w.waitState("juliet@home.example", store.Delivered)
	if s := w.states(); len(s) != 1 {
		t.Errorf("stored: %v", s)
	}
	w.faulty.order(func(f *faulty) { f.back = nil })
	if v := w.entrance.Accept(t.Context(), stranger, w.message(sample, "", short.String()), false); v[0].Failure != nil {
		t.Error(v[0].Failure)
	}
	w.waitState(long.String(), store.Delivered)
}
