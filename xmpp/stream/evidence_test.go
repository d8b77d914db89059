package stream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"sync"
	"testing"
	"time"
)

// prover is a Config.Prove that keeps what it was asked.
type prover struct {
	mu     sync.Mutex
	asked  []Evidence
	answer func(Evidence) (string, error)
}

func (p *prover) prove(ctx context.Context, e Evidence) (string, error) {
	if _, ok := ctx.Deadline(); !ok {
		return "", errors.New("without a deadline")
	}
	p.mu.Lock()
	p.asked = append(p.asked, e)
	p.mu.Unlock()
	return p.answer(e)
}

func (p *prover) seen() []Evidence {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]Evidence(nil), p.asked...)
}

// TestProve: in both roles and over both ways to TLS, what Prove says decides.
func TestProve(t *testing.T) {
	ca := newAuthority(t)
	for _, tt := range []struct {
		name   string
		cert   *tls.Certificate // of the peer
		answer func(Evidence) (string, error)
		proof  string // "" where no link may come to be
		pkix   bool   // the chain and the names are right
	}{
		{"pkix goes on", ca.issue("montague.example"), func(e Evidence) (string, error) { return "pkix", e.PKIX }, "pkix", true},
		{"another proof", selfSigned(t, "montague.example"), func(Evidence) (string, error) { return "dane", nil }, "dane", false},
		{"an expired certificate, proven by DANE", ca.issue("montague.example", expired), func(Evidence) (string, error) { return "dane", nil }, "dane", false},
		{"a certificate for another name, pinned", ca.issue("x.example"), func(Evidence) (string, error) { return "pinned", nil }, "pinned", false},
		{"refused although the chain is right", ca.issue("montague.example"), func(Evidence) (string, error) { return "", errors.New("wrong key") }, "", true},
		{"no proof and no error", selfSigned(t, "montague.example"), func(Evidence) (string, error) { return "", nil }, "", false},
		{"nothing proves it", selfSigned(t, "montague.example"), func(e Evidence) (string, error) { return "pkix", e.PKIX }, "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Run("dialled", func(t *testing.T) {
				p := &prover{answer: tt.answer}
				capulet := startNode(t, ca, map[string]*tls.Certificate{"capulet.example": ca.issue("capulet.example")},
					func(c *Config) { c.Prove = p.prove })
				montague := startNode(t, ca, map[string]*tls.Certificate{"montague.example": tt.cert})
				targets := montague.clearTarget()
				targets[0].Port = 5269
				l, err := capulet.Link(t.Context(), "capulet.example", "montague.example", targets)
				e := p.seen()
				if len(e) != 1 || e[0].Dialled == nil || *e[0].Dialled != targets[0] {
					t.Fatalf("asked %d times: %+v", len(e), e)
				}
				checkEvidence(t, e[0], tt.pkix)
				if tt.proof == "" {
					n, ok := errors.AsType[*NegotiationError](err)
					if !ok || n.Stage != StageTLS || !n.Permanent || n.Peer {
						t.Fatalf("%+v", err)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				if got := l.Binding().Proof; got != tt.proof {
					t.Error("proof", got)
				}
				mustEcho(t, l)
			})
			t.Run("accepted", func(t *testing.T) {
				p := &prover{answer: tt.answer}
				capulet := startNode(t, ca, map[string]*tls.Certificate{"capulet.example": ca.issue("capulet.example")},
					func(c *Config) { c.Prove = p.prove })
				r := dialRaw(t, capulet, "capulet.example", tt.cert)
				features := r.open("montague.example", "capulet.example")
				e := p.seen()
				if len(e) != 1 || e[0].Dialled != nil {
					t.Fatalf("asked %d times: %+v", len(e), e)
				}
				checkEvidence(t, e[0], tt.pkix)
				if offersExternal(features) != (tt.proof != "") {
					t.Fatal("EXTERNAL is offered:", tt.proof == "")
				}
				if s := capulet.Snapshot(); (s.Unproven == 1) != (tt.proof == "") {
					t.Errorf("%+v", s)
				}
				if tt.proof == "" {
					return
				}
				r.send(rawBidi + rawAuth)
				r.next()
				r.parser.Reset(r.conn)
				r.open("montague.example", "capulet.example")
				if got := liveAt(t, capulet, "capulet.example", "montague.example").Binding().Proof; got != tt.proof {
					t.Error("proof", got)
				}
			})
		})
	}
}

func checkEvidence(t *testing.T, e Evidence, pkix bool) {
	t.Helper()
	if e.Local != "capulet.example" || e.Remote != "montague.example" || len(e.State.PeerCertificates) == 0 || (e.PKIX == nil) != pkix {
		t.Errorf("%s %s %d %v", e.Local, e.Remote, len(e.State.PeerCertificates), e.PKIX)
	}
}

// TestProveIsNotAskedWithoutACertificate: a peer that shows none costs no
// look-ups.
func TestProveIsNotAskedWithoutACertificate(t *testing.T) {
	ca := newAuthority(t)
	p := &prover{answer: func(Evidence) (string, error) { return "dane", nil }}
	capulet := startNode(t, ca, map[string]*tls.Certificate{"capulet.example": ca.issue("capulet.example")},
		func(c *Config) { c.Prove = p.prove })
	r := dialRaw(t, capulet, "capulet.example", nil)
	if offersExternal(r.open("montague.example", "capulet.example")) || len(p.seen()) > 0 {
		t.Error("asked about, or proven by, nothing")
	}
}

// TestSlowProofs: one that hangs ends with the negotiation, and holds up
// nobody else.
func TestSlowProofs(t *testing.T) {
	ca := newAuthority(t)
	hung := make(chan struct{}, 1)
	capulet := startNode(t, ca, map[string]*tls.Certificate{"capulet.example": ca.issue("capulet.example")}, func(c *Config) {
		c.NegotiateTimeout = time.Second
		c.Prove = func(ctx context.Context, e Evidence) (string, error) {
			if e.Remote == "tybalt.example" {
				hung <- struct{}{}
				<-ctx.Done()
				return "", ctx.Err()
			}
			return "pkix", e.PKIX
		}
	})
	slow := dialRaw(t, capulet, "capulet.example", ca.issue("tybalt.example"))
	slow.send(rawHeader("tybalt.example", "capulet.example"))
	<-hung
	dialRaw(t, capulet, "capulet.example", ca.issue("mallory.example")).ready("mallory.example", "capulet.example").mustPing()
	slow.conn.NetConn().Close() // which does not end the look-up
	eventually(t, "given up", func() bool { return capulet.Snapshot().NegotiationFailures == 1 })
}

// TestNewCertificates: a certificate that changes serves new streams, while
// the old ones go on.
func TestNewCertificates(t *testing.T) {
	ca := newAuthority(t)
	var mu sync.Mutex
	current := ca.issue("capulet.example")
	certificate := func(string) (*tls.Certificate, error) {
		mu.Lock()
		defer mu.Unlock()
		return current, nil
	}
	p := &prover{answer: func(e Evidence) (string, error) { return "pkix", e.PKIX }}
	capulet := startNode(t, ca, nil, func(c *Config) { c.Certificate = certificate })
	certs := map[string]*tls.Certificate{"montague.example": ca.issue("montague.example"), "verona.example": ca.issue("verona.example")}
	others := startNode(t, ca, certs, func(c *Config) { c.Prove = p.prove })

	old := mustLink(t, capulet, "capulet.example", "montague.example", others)
	mu.Lock()
	current = ca.issue("capulet.example")
	mu.Unlock()
	mustLink(t, capulet, "capulet.example", "verona.example", others) // we dial
	mustEcho(t, old)
	shown := p.seen()
	if len(shown) != 2 || shown[0].State.PeerCertificates[0].Equal(shown[1].State.PeerCertificates[0]) ||
		string(shown[1].State.PeerCertificates[0].Raw) != string(current.Certificate[0]) {
		t.Error("a new stream does not use the new certificate")
	}
	for _, mode := range modes { // and we accept
		got := mode.dial(t, capulet, "capulet.example", nil).conn.ConnectionState().PeerCertificates[0]
		if string(got.Raw) != string(current.Certificate[0]) {
			t.Error(mode.name, "shows the old certificate")
		}
	}
}

// TestOwnCertificateEnds: a link does not outlive our own certificate either,
// in both roles; one that has already passed is for the peer to judge.
func TestOwnCertificateEnds(t *testing.T) {
	ca := newAuthority(t)
	soon := time.Now().Add(time.Hour).Truncate(time.Second)
	short := ca.issue("capulet.example", func(c *x509.Certificate) { c.NotAfter = soon })
	capulet := startNode(t, ca, map[string]*tls.Certificate{"capulet.example": short})
	montague := startNode(t, ca, map[string]*tls.Certificate{"montague.example": ca.issue("montague.example")})
	for _, l := range []*Link{
		mustLink(t, capulet, "capulet.example", "montague.example", montague),
		liveAt(t, montague, "montague.example", "capulet.example"),
	} {
		if !l.expires.Equal(soon) {
			t.Errorf("inbound %v: until %v, want %v", l.Inbound(), l.expires, soon)
		}
	}

	n := (&Manager{cfg: Config{Certificate: func(string) (*tls.Certificate, error) { return ca.issue("a.example", expired), nil }}}).negotiate(pair{})
	latest := time.Now().Add(time.Minute)
	n.expires = latest
	if _, err := n.certificate("a.example"); err != nil || !n.expires.Equal(latest) {
		t.Error("expired already:", n.expires, err)
	}
}
