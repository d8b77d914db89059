package proof

import (
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"time"
)

// TestPOSHKept: how long documents and failures are remembered, and that a new
// certificate is found before a long-lived document expires.
func TestPOSHKept(t *testing.T) {
	ca := authority(t, nil)
	web := sign(t, template(t, "montague.example"), newKey(t), ca)
	peer, next := selfSigned(t, "x"), selfSigned(t, "y")
	long := template(t, "x")
	long.NotAfter = time.Now().Add(100 * 24 * time.Hour)
	peer = sign(t, long, peer.key, nil)
	next = sign(t, long, next.key, nil)
	var body atomic.Value
	body.Store("")
	s := startSite(t, web, func(w http.ResponseWriter, r *http.Request) { w.Write([]byte(body.Load().(string))) })
	p := newProver(t, Config{POSH: true, Roots: ca.pool(), Dial: s.dial})
	start := time.Now()
	var after time.Duration
	p.now = func() time.Time { return start.Add(after) }
	for _, step := range []struct {
		name      string
		after     time.Duration
		body      string
		cert      *issued
		want, why string
		hits      int32
	}{
		{"nothing there", 0, "", peer, "", "not a JSON object", 1},
		{"failure remembered", time.Minute, publish("600", peer), peer, "", "not a JSON object", 1},
		{"failure forgotten", 3 * time.Minute, publish("600", peer), peer, "posh", "", 2},
		{"document remembered", 12 * time.Minute, publish("600", next), peer, "posh", "", 2},
		{"document expired", 14 * time.Minute, publish("1e12", peer), peer, "posh", "", 3},
		{"other certificate, document young", 15 * time.Minute, publish("1e12", next), next, "", "none of the 1 published", 3},
		{"other certificate, document older", 20 * time.Minute, publish("1e12", next), next, "posh", "", 4},
		{"a day is the longest", 24*time.Hour + 19*time.Minute, "", next, "posh", "", 4},
		{"a day is over", 24*time.Hour + 21*time.Minute, "", next, "", "not a JSON object", 5},
	} {
		after = step.after
		body.Store(step.body)
		proof, err := p.Prove(patience(t), accepted(step.cert))
		check(t, proof, err, step.want, step.why)
		if got := s.hits.Load(); got != step.hits {
			t.Errorf("%s: %d requests, want %d", step.name, got, step.hits)
		}
	}
}

// TestPOSHElsewhereKept: of two documents the one that expires first decides.
func TestPOSHElsewhereKept(t *testing.T) {
	ca := authority(t, nil)
	web := sign(t, template(t, "montague.example", "hoster.example"), newKey(t), ca)
	peer := selfSigned(t, "x")
	for _, lives := range [][2]string{{"60", "6000"}, {"6000", "60"}} {
		s := startSite(t, web, serve(map[string]string{
			"montague.example " + poshPath: `{"url":"https://hoster.example/posh.json","expires":` + lives[0] + `}`,
			"hoster.example /posh.json":    publish(lives[1], peer),
		}))
		p := newProver(t, Config{POSH: true, Roots: ca.pool(), Dial: s.dial})
		start := time.Now()
		for _, step := range []struct {
			after time.Duration
			hits  int32
		}{{0, 2}, {59 * time.Second, 2}, {61 * time.Second, 4}} {
			p.now = func() time.Time { return start.Add(step.after) }
			proof, err := p.Prove(patience(t), accepted(peer))
			check(t, proof, err, "posh", "")
			if got := s.hits.Load(); got != step.hits {
				t.Errorf("expires %s: %d requests after %s, want %d", lives, got, step.after, step.hits)
			}
		}
	}
}

func TestKeptIsBounded(t *testing.T) {
	k, now := newKeptDocuments(10), time.Now()
	for i := range 1000 {
		k.put(fmt.Sprint(i), fetched{until: now.Add(time.Hour)}, now)
	}
	if len(k.of) != 10 {
		t.Error(len(k.of), "kept")
	}
}
