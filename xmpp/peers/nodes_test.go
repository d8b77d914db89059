package peers

import (
	"bytes"
	"context"
	"crypto/tls"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"mailxmppd/mail"
	"mailxmppd/xmpp/stream"
)

// TestSeveralDomains: one gateway with several domains, each with its own
// certificate and its own streams, found by SRV records.
func TestSeveralDomains(t *testing.T) {
	t.Parallel()
	ca, z := newAuthority(t), startZone(t)
	verona := startNodeWith(t, ca, nodeConfig{domains: []string{"montague.example", "escalus.example"}, dns: z.resolver(t)})
	mantua := startNodeWith(t, ca, nodeConfig{domains: []string{"capulet.example", "paris.example"}, dns: z.resolver(t)})
	z.serve(mailService, "montague.example", verona.addr)
	z.serve(serverService, "escalus.example", verona.addr)
	z.serve(mailService, "capulet.example", mantua.addr)
	z.serve(startTLSService, "paris.example", mantua.clear)
	ctx := context.Background()

	sent := map[string][]byte{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	send := func(n, to *node, local, domain string, size int) {
		wg.Go(func() {
			if s, f := n.dir.Standing(ctx, local, domain); s != mail.Peer {
				t.Errorf("%s to %s: standing %v, %v", local, domain, s, f)
				return
			}
			a := attempt(local, domain, size, "friar")
			if out := n.sender.Deliver(ctx, a); !out[0].Delivered() {
				t.Errorf("%s to %s: %v", local, domain, out[0].Failure)
			}
			mu.Lock()
			defer mu.Unlock()
			sent[string(contentOf(a))] = contentOf(a)
		})
	}
	for i, local := range mantua.domains {
		for j, domain := range verona.domains {
			send(mantua, verona, local, domain, 1000+300000*i+j)
			send(verona, mantua, domain, local, 2000+300000*j+i)
		}
	}
	wg.Wait()
	for _, got := range slices.Concat(verona.content(t, 4), mantua.content(t, 4)) {
		if sent[string(got)] == nil {
			t.Error("content changed")
		}
	}
	for _, local := range mantua.domains {
		for _, domain := range verona.domains {
			l := mantua.mgr.Live(local, domain)
			if l == nil || l.Binding().Local != local || l.Binding().Remote != domain || l.Binding().Proof != "pkix" {
				t.Fatalf("%s to %s: stream %v", local, domain, l)
			}
		}
	}
	verona.mu.Lock()
	defer verona.mu.Unlock()
	for local, shown := range verona.shown {
		if shown != local {
			t.Errorf("certificate of %s shown for %s", shown, local)
		}
	}
	if len(verona.shown) != 2 {
		t.Errorf("certificates shown: %v", verona.shown)
	}
}

// TestBehindNAT: a sender that nobody can connect to gets its answers and is
// asked, on the stream that it has opened.
func TestBehindNAT(t *testing.T) {
	t.Parallel()
	ca, z := newAuthority(t), startZone(t)
	montague := startNodeWith(t, ca, nodeConfig{domains: []string{"montague.example"}, dns: z.resolver(t)})
	z.serve(mailService, "montague.example", montague.addr)
	home := startNodeWith(t, ca, nodeConfig{domains: []string{"home.example"}, dns: z.resolver(t), unreachable: true})
	ctx := context.Background()

	// Before it comes, its mail goes by SMTP: there is no record of it.
	if s, _ := montague.dir.Standing(ctx, "montague.example", "home.example"); s != mail.Legacy {
		t.Fatal("known before it came")
	}
	there := attempt("home.example", "montague.example", 300000, "romeo")
	if out := home.sender.Deliver(ctx, there); !out[0].Delivered() {
		t.Fatalf("there: %v", out[0].Failure)
	}
	if got := montague.content(t, 1); !bytes.Equal(got[0], contentOf(there)) {
		t.Error("content changed")
	}
	eventually(t, func() bool {
		s, f := montague.dir.Standing(ctx, "montague.example", "home.example")
		return f == nil && s == mail.Peer
	})
	back := attempt("montague.example", "home.example", 300000, "juliet", "nobody")
	out := montague.sender.Deliver(ctx, back)
	if !out[0].Delivered() || out[1].Failure == nil || out[1].Failure.Kind != mail.NoSuchMailbox {
		t.Fatalf("back: %+v", out)
	}
	failures, err := montague.sender.Check(ctx, "montague.example", "home.example", mail.Address{}, false, back.Envelope.Recipients)
	if err != nil || failures[0] != nil || failures[1] == nil {
		t.Errorf("asked: %v, %v", failures, err)
	}
	if got := home.content(t, 1); !bytes.Equal(got[0], contentOf(back)) {
		t.Error("content changed on the way back")
	}
	for l := montague.mgr.Live("montague.example", "home.example"); l != nil; l = montague.mgr.Live("montague.example", "home.example") {
		if !l.Inbound() {
			t.Error("a stream to it was opened")
		}
		l.Close("")
		<-l.Done()
	}
	// It was seen, so that its mail waits for it to come again.
	if s, _ := montague.dir.Standing(ctx, "montague.example", "home.example"); s != mail.Peer {
		t.Error("forgotten when it went")
	}
	if out := montague.sender.Deliver(ctx, attempt("montague.example", "home.example", 100, "juliet")); out[0].Delivered() || out[0].Failure.Class != mail.Temporary {
		t.Errorf("while it is away: %+v", out[0])
	}
	if _, err := home.dir.Bulk(ctx, "home.example", "montague.example"); err != nil {
		t.Error("it cannot come again:", err)
	}
	if out := montague.sender.Deliver(ctx, attempt("montague.example", "home.example", 100, "juliet")); !out[0].Delivered() {
		t.Errorf("when it is back: %v", out[0].Failure)
	}
}

// TestMailBesideAChatServer: the chat server of a domain has a stream with us,
// oldest and proven; mail goes to the service that _xmpps-mail names.
func TestMailBesideAChatServer(t *testing.T) {
	t.Parallel()
	ca, z := newAuthority(t), startZone(t)
	capulet := startNodeWith(t, ca, nodeConfig{domains: []string{"capulet.example"}, dns: z.resolver(t)})
	montague := startNodeWith(t, ca, nodeConfig{domains: []string{"montague.example"}, dns: z.resolver(t)})
	chat := stream.NewManager(stream.Config{Certificate: newCertificates(t, ca).of, Roots: rootsOf(ca), CloseTimeout: time.Second})
	defer chat.Shutdown(context.Background())
	ctx := context.Background()
	if _, err := chat.Link(ctx, "montague.example", "capulet.example", []stream.Target{{Addr: capulet.addr}}); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { return capulet.mgr.Live("capulet.example", "montague.example") != nil })
	if s, f := capulet.dir.Standing(ctx, "capulet.example", "montague.example"); s != mail.Legacy {
		t.Fatalf("with a chat server alone: %v, %v", s, f)
	}
	z.serve(mailService, "montague.example", montague.addr)
	var sent [][]byte
	for _, size := range []int{1000, 300000, 2000} {
		if s, f := capulet.dir.Standing(ctx, "capulet.example", "montague.example"); s != mail.Peer {
			t.Fatalf("standing %v, %v", s, f)
		}
		a := attempt("capulet.example", "montague.example", size, "romeo")
		if out := capulet.sender.Deliver(ctx, a); !out[0].Delivered() {
			t.Fatalf("%d octets: %v", size, out[0].Failure)
		}
		sent = append(sent, contentOf(a))
	}
	for i, got := range montague.content(t, len(sent)) {
		if !bytes.Equal(got, sent[i]) {
			t.Errorf("message %d changed", i)
		}
	}
	if l := capulet.mgr.Live("capulet.example", "montague.example"); l == nil || !l.Inbound() {
		t.Error("the chat server's stream is gone")
	}
}

// TestExpectedBesideAChatServer: who waits for a domain's mail service goes on
// dialling it while its chat server has a stream to us, and hears of it.
func TestExpectedBesideAChatServer(t *testing.T) {
	t.Parallel()
	ca, z := newAuthority(t), startZone(t)
	capulet := startNodeWith(t, ca, nodeConfig{domains: []string{"capulet.example"}, dns: z.resolver(t)})
	montague := startNodeWith(t, ca, nodeConfig{domains: []string{"montague.example"}, dns: z.resolver(t)})
	reached := make(chan string, 1)
	capulet.dir.cfg.Reached = func(local, domain string) { reached <- local + " " + domain }
	chat := stream.NewManager(stream.Config{Certificate: newCertificates(t, ca).of, Roots: rootsOf(ca), CloseTimeout: time.Second})
	defer chat.Shutdown(context.Background())
	if _, err := chat.Link(t.Context(), "montague.example", "capulet.example", []stream.Target{{Addr: capulet.addr}}); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { return capulet.mgr.Live("capulet.example", "montague.example") != nil })
	if _, _, err := capulet.dir.Link(t.Context(), "capulet.example", "montague.example"); err == nil {
		t.Fatal("it has no mail service yet")
	}
	capulet.dir.Expect("capulet.example", "montague.example")
	z.serve(mailService, "montague.example", montague.addr)
	select {
	case got := <-reached:
		if got != "capulet.example montague.example" {
			t.Error(got)
		}
	case <-time.After(30 * time.Second):
		t.Error("nobody heard of it")
	}
}

// TestDeadTargetsFirst: records are tried by priority, each target within a
// time of its own, so that dead ones do not hide the one that works.
func TestDeadTargetsFirst(t *testing.T) {
	t.Parallel()
	ca, z := newAuthority(t), startZone(t)
	s := startServers(t, ca)
	port := func(address string) string { return address[strings.LastIndex(address, ":")+1:] }
	z.set("_xmpps-server._tcp.montague.example. SRV",
		"0 0 "+port(s.silent)+" host.montague.example.", "2 0 "+port(s.taking)+" host.montague.example.")
	z.set("_xmpp-server._tcp.montague.example. SRV", "1 0 "+port(s.nobody)+" host.montague.example.")
	z.set("host.montague.example. A", "127.0.0.1")
	m := stream.NewManager(stream.Config{Certificate: newCertificates(t, ca).of, Roots: rootsOf(ca), NegotiateTimeout: time.Second})
	defer m.Shutdown(context.Background())
	d := NewDirectory(Config{DNS: z.resolver(t), Streams: Over(m), Store: newMemoryStore(), Timeout: 15 * time.Second})
	defer d.Close()
	r, f := d.Rule(context.Background(), "capulet.example", "montague.example")
	if f != nil || r.Standing != mail.Peer {
		t.Fatalf("%+v, %v", r, f)
	}
	if l := m.Live("capulet.example", "montague.example"); l == nil || l.Binding().Addr != s.taking {
		t.Errorf("stream to %v", l)
	}
}

func (n *node) certificate(domain string) (*tls.Certificate, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	c := n.certs[domain]
	if c == nil {
		return nil, errNotOurs
	}
	n.shown[domain] = c.Leaf.DNSNames[0]
	return c, nil
}
