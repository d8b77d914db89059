package proof

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"mailxmppd/xmpp/stream"
)

// gateway is a stream manager with its listener, which proves its peers by p.
type gateway struct {
	*stream.Manager
	addr string
}

func startGateway(t *testing.T, ln net.Listener, domain string, own *issued, roots *x509.CertPool, p *Prover) *gateway {
	t.Helper()
	m := stream.NewManager(stream.Config{
		Certificate: func(d string) (*tls.Certificate, error) {
			if d == domain {
				return own.tls(), nil
			}
			return nil, errors.New("not our domain")
		},
		Roots: roots, Prove: p.Prove,
		NegotiateTimeout: 10 * time.Second, CloseTimeout: 100 * time.Millisecond, BackOff: time.Millisecond,
	})
	served := make(chan error, 1)
	go func() { served <- m.Serve(context.Background(), ln) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		m.Shutdown(ctx)
		if err := <-served; err != nil && !errors.Is(err, stream.ErrShutdown) {
			t.Error("serve:", err)
		}
	})
	return &gateway{m, ln.Addr().String()}
}

// TestStreams: what proves a peer over a real stream, with montague accepting
// and with montague connecting. capulet is always proven by PKIX.
func TestStreams(t *testing.T) {
	ca := authority(t, nil)
	capulet := sign(t, template(t, "capulet.example"), newKey(t), ca)
	web := sign(t, template(t, "montague.example"), newKey(t), ca)
	lone := selfSigned(t, "anything")
	proper := sign(t, template(t, "montague.example"), newKey(t), ca)
	backup := selfSigned(t, "anything")
	const host = "xmpp.hoster.example"
	for _, c := range []struct {
		name      string
		cert      *issued
		published *issued // by TLSA
		unsigned  []string
		failing   []string // of the names of TLSA records
		posh      string
		pins      []Pin
		want, why string
		in        string // as who connected; "" for want
	}{
		{name: "PKIX", cert: proper, want: "pkix"},
		{name: "PKIX and DANE", cert: proper, published: proper, want: "dane", in: "pkix"},
		{name: "PKIX, and DANE says otherwise", cert: proper, published: backup, why: "matches none", in: "pkix"},
		{name: "PKIX, and DANE cannot be had", cert: proper, published: proper, failing: []string{"_"}, why: "cannot be had", in: "pkix"},
		{name: "PKIX, and unsigned records say otherwise", cert: proper, published: backup, unsigned: []string{"_"}, want: "pkix"},
		{name: "self-signed", cert: lone, why: "no SRV records"},
		{name: "DANE", cert: lone, published: lone, want: "dane"},
		{name: "DANE, SRV not signed", cert: lone, published: lone, unsigned: []string{"_xmpp"}, why: "not signed"},
		{name: "DANE, TLSA not signed", cert: lone, published: lone, unsigned: []string{"_"}, why: "not signed"},
		{name: "DANE, another key", cert: lone, published: backup, why: "matches none"},
		{name: "POSH", cert: lone, posh: publish("60", lone), want: "posh"},
		{name: "POSH, another certificate", cert: lone, posh: publish("60", backup), why: "none of the 1 published"},
		{name: "pinned", cert: lone, pins: []Pin{PinOf(lone.cert), PinOf(backup.cert)}, want: "pinned"},
		{name: "pinned back-up key", cert: backup, pins: []Pin{PinOf(lone.cert), PinOf(backup.cert)}, want: "pinned"},
		{name: "another key than pinned, PKIX is fine", cert: proper, pins: []Pin{PinOf(lone.cert), PinOf(backup.cert)}, why: "not one of the 2 pinned"},
	} {
		for _, role := range []string{"dialled", "accepted"} {
			t.Run(c.name+", "+role, func(t *testing.T) {
				inner, outer := listen(t), listen(t)
				_, port, _ := net.SplitHostPort(outer.Addr().String())
				z := &zone{unsigned: c.unsigned}
				if c.failing != nil {
					z.failing = []string{"_" + port + "."}
				}
				if role == "accepted" && c.in != "" {
					c.want = c.in
				}
				target := stream.Target{Host: host, Port: portOf(t, port), Addr: outer.Addr().String()}
				if c.published != nil {
					z.records = []string{srv("_xmpps-server", "montague.example", host, target.Port), daneEE(host, target.Port, c.published)}
				}
				cfg := Config{DNS: serveZone(t, z).resolver(t), DANE: true, Roots: ca.pool(), Peers: map[string]Peer{"montague.example": {Pins: c.pins}}}
				if c.posh != "" {
					s := startSite(t, web, serve(map[string]string{"montague.example " + poshPath: c.posh}))
					cfg.POSH, cfg.Dial = true, s.dial
				}
				p := newProver(t, cfg)
				us := startGateway(t, inner, "capulet.example", capulet, ca.pool(), p)
				them := startGateway(t, outer, "montague.example", c.cert, ca.pool(), newProver(t, Config{}))

				if role == "dialled" {
					l, err := us.Link(t.Context(), "capulet.example", "montague.example", []stream.Target{target})
					if c.want == "" {
						if err == nil || !strings.Contains(err.Error(), c.why) {
							t.Fatalf("%v, want %q", err, c.why)
						}
						return
					}
					if err != nil {
						t.Fatal(err)
					}
					if got := l.Binding().Proof; got != c.want {
						t.Errorf("proof %q, want %q", got, c.want)
					}
					return
				}
				_, err := them.Link(t.Context(), "montague.example", "capulet.example",
					[]stream.Target{{Host: "capulet.example", Port: 1, Addr: us.addr}})
				if c.want == "" {
					if err == nil || us.Live("capulet.example", "montague.example") != nil || p.Snapshot().Refused == 0 {
						t.Fatalf("a link came to be (%v), or was refused for another reason: %+v", err, p.Snapshot())
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				l := us.Live("capulet.example", "montague.example")
				for end := time.Now().Add(10 * time.Second); l == nil && time.Now().Before(end); l = us.Live("capulet.example", "montague.example") {
					time.Sleep(2 * time.Millisecond)
				}
				if l == nil || l.Binding().Proof != c.want {
					t.Errorf("link %v, want proof %q", l, c.want)
				}
			})
		}
	}
}
