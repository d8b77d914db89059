package demo

import (
	"crypto/tls"
	"errors"
	"io"
	"strings"
	"testing"
)

// The scenario must be able to fail: here a server that is no gateway stands
// where capulet's should, and each step must say what is wrong with it.
func standIn(t *testing.T, n *network, users ...string) {
	t.Helper()
	cert, err := n.ca.leaf(capulet)
	if err != nil {
		t.Fatal(err)
	}
	box, err := startMailbox(mailboxSpec{
		domain: montague, users: users, path: t.TempDir(), log: io.Discard,
		tls:     &tls.Config{Certificates: []tls.Certificate{cert.pair}},
		arrived: n.ledger.arrived,
	})
	if err != nil {
		t.Fatal(err)
	}
	n.boxes = append(n.boxes, box)
	n.gateways[0].smtp = box.addr
}

func TestSendingSeesAWrongReplyAndAWrongTransport(t *testing.T) {
	n := newTestNetwork(t)
	standIn(t, n, romeo)
	g := leg{pathAB, n.gateways[0], juliet, romeo + "@" + montague, "xmpp", "accepted by " + montague}
	if err := n.sendAll(t.Context(), g, []letter{{source: "x", content: []byte("c\r\n")}}); err != nil {
		t.Fatal(err)
	}
	got := strings.Join(n.problems, "\n")
	for _, want := range []string{`the reply does not say "accepted by montague.example"`, "arrived over smtp, not xmpp"} {
		if !strings.Contains(got, want) {
			t.Errorf("problems %q lack %q", got, want)
		}
	}
	if err := n.summary(nil); err == nil || !strings.Contains(err.Error(), "and 1 more") {
		t.Errorf("verdict %v", err)
	}
}

func TestSendingSeesARefusal(t *testing.T) {
	n := newTestNetwork(t)
	standIn(t, n)
	g := leg{pathAB, n.gateways[0], juliet, romeo + "@" + montague, "xmpp", "accepted by"}
	if err := n.sendAll(t.Context(), g, []letter{{source: "x", content: []byte("c\r\n")}}); err != nil {
		t.Fatal(err)
	}
	if len(n.problems) != 1 || !strings.Contains(n.problems[0], "RCPT answered with 550 5.1.1") {
		t.Errorf("problems %q", n.problems)
	}
	if s := n.ledger.tally(); s.OK || s.Sent != 0 {
		t.Errorf("tally %+v", s)
	}
}

func TestUnknownRecipientStep(t *testing.T) {
	for _, tt := range []struct {
		users    []string
		refusals int
		problem  string
	}{
		{nil, 1, ""},
		{[]string{"nobody"}, 0, "taken, though there is no such mailbox"},
	} {
		n := newTestNetwork(t)
		standIn(t, n, tt.users...)
		if err := n.unknownRecipient(t.Context()); err != nil {
			t.Fatal(err)
		}
		got := strings.Join(n.problems, "\n")
		if n.refusals != tt.refusals || !strings.Contains(got, tt.problem) || tt.problem == "" && got != "" {
			t.Errorf("users %v: refusals %d, problems %q", tt.users, n.refusals, got)
		}
	}
}

func TestForgeryStep(t *testing.T) {
	for _, tt := range []struct {
		answer   string
		refusals int
		problem  string
	}{
		{"<iq type='error' id='forged'><error type='auth'><forbidden xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>", 1, ""},
		{"<iq type='error' id='forged'><error type='cancel'><service-unavailable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>", 0, "an iq of type error, not an error with forbidden"},
		{"<iq type='result' id='forged'><accepted/></iq>", 0, "an iq of type result"},
		{"</stream:stream>", 0, "the attempt itself failed"},
	} {
		n := newTestNetwork(t)
		cert, err := n.ca.leaf(montague)
		if err != nil {
			t.Fatal(err)
		}
		ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert.pair}})
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() { defer close(done); negotiated(tt.answer).serve(t, ln) }()
		n.gateways[1].xmpps = ln.Addr().String()
		if err := n.forgery(t.Context()); err != nil {
			t.Fatal(err)
		}
		ln.Close()
		<-done
		got := strings.Join(n.problems, "\n")
		if n.refusals != tt.refusals || !strings.Contains(got, tt.problem) || tt.problem == "" && got != "" {
			t.Errorf("%s: refusals %d, problems %q", tt.answer, n.refusals, got)
		}
	}
}

func TestSummaryNeedsEveryRefusal(t *testing.T) {
	n := newTestNetwork(t)
	n.refusals = mustBeRefused
	if err := n.summary(nil); err != nil {
		t.Errorf("nothing is wrong: %v", err)
	}
	n.refusals--
	if err := n.summary(nil); err == nil {
		t.Error("a refusal is missing and nobody minds")
	}
	n.refusals++
	n.crashed <- errors.New("gone")
	if err := n.summary(nil); err == nil || !strings.Contains(err.Error(), "gone") {
		t.Errorf("a crash at the end: %v", err)
	}
}
