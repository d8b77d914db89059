package proof

import (
	"context"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestEndlessSite: no more is read than a document may have.
func TestEndlessSite(t *testing.T) {
	ca := authority(t, nil)
	web := sign(t, template(t, "montague.example"), newKey(t), ca)
	ended := make(chan int, 1)
	s := startSite(t, web, func(w http.ResponseWriter, r *http.Request) {
		sent := 0
		for block := make([]byte, 4096); ; sent += len(block) {
			if _, err := w.Write(block); err != nil {
				ended <- sent
				return
			}
		}
	})
	p := newProver(t, Config{POSH: true, Roots: ca.pool(), Dial: s.dial, Timeout: 20 * time.Second})
	proof, err := p.Prove(patience(t), accepted(selfSigned(t, "x")))
	check(t, proof, err, "", "longer than 65536 octets")
	if sent := <-ended; sent > 64<<20 {
		t.Error("sent", sent, "octets")
	}
}

// TestPOSHShared: many streams of one domain cost one fetch, and a site that
// does not answer holds them up for their time only.
func TestPOSHShared(t *testing.T) {
	ca := authority(t, nil)
	web := sign(t, template(t, "montague.example"), newKey(t), ca)
	peer := selfSigned(t, "x")
	begun, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	s := startSite(t, web, func(w http.ResponseWriter, r *http.Request) {
		once.Do(func() { close(begun) })
		<-release
		w.Write([]byte(publish("600", peer)))
	})
	p := newProver(t, Config{POSH: true, Roots: ca.pool(), Dial: s.dial, MaxLookups: 1})

	ctx, cancel := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() {
		_, err := p.Prove(ctx, accepted(peer))
		left <- err
	}()
	<-begun
	cancel()
	check(t, "", <-left, "", "posh: context canceled")

	other := accepted(peer)
	other.Remote = "other.example"
	if _, err := p.Prove(t.Context(), other); err == nil || !strings.Contains(err.Error(), errBusy.Error()) {
		t.Error("beyond MaxLookups:", err)
	}
	if p.Snapshot().Shed != 1 {
		t.Error("not counted")
	}

	const streams = 8
	proofs := make(chan string, streams)
	for range streams {
		go func() {
			proof, _ := p.Prove(patience(t), accepted(peer))
			proofs <- proof
		}()
	}
	close(release)
	for range streams {
		if proof := <-proofs; proof != "posh" {
			t.Errorf("proof %q", proof)
		}
	}
	if s.hits.Load() != 1 {
		t.Error(s.hits.Load(), "requests")
	}
}

// TestSilentSite: a site that never answers costs the time-out, and Close does
// not wait even for that.
func TestSilentSite(t *testing.T) {
	ca := authority(t, nil)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	dial := func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, ln.Addr().String())
	}
	p := newProver(t, Config{POSH: true, Roots: ca.pool(), Dial: dial, Timeout: 50 * time.Millisecond})
	proof, err := p.Prove(patience(t), accepted(selfSigned(t, "x")))
	check(t, proof, err, "", "deadline exceeded")

	p = newProver(t, Config{POSH: true, Roots: ca.pool(), Dial: dial, Timeout: time.Hour})
	got := make(chan error, 1)
	go func() {
		_, err := p.Prove(t.Context(), accepted(selfSigned(t, "x")))
		got <- err
	}()
	for p.Snapshot().Fetches == 0 {
		time.Sleep(time.Millisecond)
	}
	p.Close()
	check(t, "", <-got, "", "context canceled")
	proof, err = p.Prove(t.Context(), accepted(selfSigned(t, "x")))
	check(t, proof, err, "", "context canceled") // remembered
	other := accepted(selfSigned(t, "x"))
	other.Remote = "other.example"
	if _, err := p.Prove(t.Context(), other); err == nil || !strings.Contains(err.Error(), errClosed.Error()) {
		t.Error("after Close:", err)
	}
}

// TestSiteByDNS: without Dial the site is where DNS says.
func TestSiteByDNS(t *testing.T) {
	for _, c := range []struct {
		name, why string
		z         *zone
	}{
		{"no address", "address of montague.example: no such domain", &zone{}},
		{"nobody there", "connection refused", &zone{records: []string{"montague.example. 60 IN A 127.255.255.254"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			z := serveZone(t, c.z)
			p := newProver(t, Config{DNS: z.resolver(t), POSH: true})
			proof, err := p.Prove(patience(t), accepted(selfSigned(t, "x")))
			check(t, proof, err, "", c.why)
		})
	}
}
