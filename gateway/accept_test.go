package gateway

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// TestSpoolToLocal: stored, delivered with the trace in front and the content
// unchanged, content gone afterwards.
func TestSpoolToLocal(t *testing.T) {
	w := newWorld(t, nil)
	v := w.send(w.message(sample, "a@far.example", "juliet@home.example"), false)
	if v[0].Failure != nil || !strings.HasPrefix(v[0].Text, "queued as ") {
		t.Fatalf("verdict %+v", v[0])
	}
	w.waitState("juliet@home.example", store.Delivered)
	got := w.local.deliveries()
	if len(got) != 1 || !strings.HasSuffix(got[0].content, sample) || !strings.HasPrefix(got[0].content, "Received: from client.example ([127.0.0.1])\r\n") {
		t.Fatalf("delivered %+v", got)
	}
	if _, err := w.store.OpenContent(t.Context(), mail.ID(strings.TrimPrefix(v[0].Text, "queued as "))); err == nil {
		t.Error("content is still there after the last delivery was settled")
	}
}

// TestRecipient: who may send where, before any content.
func TestRecipient(t *testing.T) {
	w := newWorld(t, nil)
	w.local.set(func(n *next) {
		n.exists = func(a mail.Address) *mail.Failure {
			switch a.Local {
			case "nobody", "Postmaster":
				return mail.Fail(mail.NoSuchMailbox, "", nil)
			case "later":
				return mail.Fail(mail.ResourceShort, "", nil)
			}
			return nil
		}
	})
	w.peer.set(func(n *next) { n.exists = w.local.exists })
	here := mail.Client{Addr: netip.MustParseAddrPort("127.0.0.1:1")}
	away := mail.Client{Addr: netip.MustParseAddrPort("192.0.2.1:1")}
	for _, c := range []struct {
		name, from, to, status string
		client                 mail.Client
	}{
		{"own domain from anywhere", "a@far.example", "juliet@home.example", "", away},
		{"own domain, unknown", "a@far.example", "nobody@home.example", "5.1.1", away},
		{"postmaster alone", "a@far.example", "postmaster", "", away},
		{"postmaster whom the neighbour refuses", "a@far.example", "Postmaster@home.example", "", away},
		{"relaying refused", "a@far.example", "b@other.example", "5.7.1", away},
		{"own reverse-path is no permission", "romeo@home.example", "b@other.example", "5.7.1", away},
		{"relaying for a trusted client", "romeo@home.example", "b@other.example", "", here},
		{"peer", "romeo@home.example", "b@peer.example", "", here},
		{"peer, unknown", "romeo@home.example", "nobody@peer.example", "5.1.1", here},
		{"peer with a foreign sender", "a@far.example", "b@peer.example", "5.7.1", here},
		{"peer that cannot tell now", "romeo@home.example", "later@peer.example", "", here},
		{"peer with a null sender", "", "b@peer.example", "", here},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := w.entrance.Recipient(t.Context(), c.client, mail.Envelope{Sender: address(t, c.from)}, mail.Recipient{Address: address(t, c.to)})
			got := ""
			if f != nil {
				got = f.Status()
			}
			if got != c.status {
				t.Errorf("%q, want %q (%v)", got, c.status, f)
			}
		})
	}
}

// TestForeignSenderBounces: a foreign reverse-path that reaches the queue for
// a peer never goes out over a stream.
func TestForeignSenderBounces(t *testing.T) {
	w := newWorld(t, nil)
	w.send(w.message(sample, "a@far.example", "b@peer.example"), false)
	w.waitState("b@peer.example", store.Bounced)
	if n := len(w.peer.deliveries()); n != 0 {
		t.Errorf("%d deliveries to the peer, want none", n)
	}
}

// TestLoop: too many Received fields.
func TestLoop(t *testing.T) {
	w := newWorld(t, nil)
	v := w.send(w.message(strings.Repeat("Received: from a by b\r\n", mail.MaxHops+1)+"\r\nx\r\n", "a@far.example", "juliet@home.example"), false)
	if v[0].Failure == nil || v[0].Failure.Kind != mail.Loop {
		t.Errorf("verdict %+v, want a loop", v[0])
	}
}

// TestPostmaster: without a domain it is ours, whatever the case (RFC 5321
// section 4.5.1).
func TestPostmaster(t *testing.T) {
	w := newWorld(t, nil)
	w.send(w.message(sample, "a@far.example", "Postmaster"), false)
	w.waitState("Postmaster@home.example", store.Delivered)
}

// TestNullSenderSpeaker: mail with a null reverse-path goes out in the name of
// the domain of ours that its From names, else of the default one.
func TestNullSenderSpeaker(t *testing.T) {
	for from, want := range map[string]string{
		"juliet@second.example":                        "second.example",
		"x@far.example, Juliet <j@SECOND.example>":     "second.example",
		"x@far.example":                                "home.example",
		"not an address":                               "home.example",
		"\"second.example\" <x@far.example>":           "home.example",
		"=?utf-8?q?juliet=40second.example?= <a@b.cd>": "home.example",
	} {
		t.Run(from, func(t *testing.T) {
			for _, live := range []bool{true, false} { // handed on at once, and from the spool
				t.Run(fmt.Sprint(live), func(t *testing.T) {
					w := newWorld(t, nil)
					w.peer.set(func(n *next) { n.live = live })
					w.send(w.message("From: "+from+"\r\n\r\n", "", "a@peer.example"), false)
					until(t, "delivery", func() bool { return len(w.peer.deliveries()) == 1 })
					if got := w.peer.deliveries()[0].attempt.Local; got != want {
						t.Errorf("in the name of %s, want %s", got, want)
					}
				})
			}
		})
	}
}

// TestUnsure: where the way cannot be told now, mail is taken and waits; it
// never goes by SMTP.
func TestUnsure(t *testing.T) {
	w := newWorld(t, nil)
	w.peer.set(func(n *next) { n.standing = mail.Unsure })
	client := mail.Client{Addr: netip.MustParseAddrPort("127.0.0.1:1")}
	if f := w.entrance.Recipient(t.Context(), client, mail.Envelope{Sender: address(t, "romeo@home.example")}, mail.Recipient{Address: address(t, "a@peer.example")}); f != nil {
		t.Errorf("refused: %v", f)
	}
	w.send(w.message(sample, "romeo@home.example", "a@peer.example"), false)
	w.waitState("a@peer.example", store.Deferred)
	if n := w.legacy.tried() + w.peer.tried(); n != 0 {
		t.Errorf("%d attempts", n)
	}
}

// TestVerdictForEach: an LMTP client gets a verdict for each recipient, also of
// a message that is stored or refused whole.
func TestVerdictForEach(t *testing.T) {
	w := newWorld(t, nil)
	to := []string{"a@home.example", "b@home.example", "c@second.example"}
	if v := w.send(w.message(sample, "a@far.example", to...), true); len(v) != 3 || v[2].Failure != nil {
		t.Errorf("stored: %+v", v)
	}
	loop := strings.Repeat("Received: from a by b\r\n", mail.MaxHops+1)
	if v := w.send(w.message(loop+"\r\n", "a@far.example", to...), true); len(v) != 3 || v[2].Failure == nil {
		t.Errorf("refused: %+v", v)
	}
}
