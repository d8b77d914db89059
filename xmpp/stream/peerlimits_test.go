package stream

import (
	"crypto/tls"
	"testing"
	"time"
)

// TestLimitsOfThePeer: announced in its features, or in its bidi element.
func TestLimitsOfThePeer(t *testing.T) {
	ca := newAuthority(t)
	capulet := startNode(t, ca, map[string]*tls.Certificate{"capulet.example": ca.issue("capulet.example")})
	limits := func(n string) string {
		return "<limits xmlns='urn:xmpp:stream-limits:0'><max-bytes>" + n + "</max-bytes></limits>"
	}
	for announced, want := range map[string]int{"": 512 << 10, limits("12345"): 12345, limits("9999"): 512 << 10, limits("x"): 512 << 10} {
		r := dialRaw(t, capulet, "capulet.example", ca.issue("verona.example"))
		r.open("verona.example", "capulet.example")
		r.send("<bidi xmlns='urn:xmpp:bidi'>" + announced + "</bidi>" + rawAuth)
		r.next()
		r.parser.Reset(r.conn)
		features := r.open("verona.example", "capulet.example")
		if got := features.Child(nsLimits, "limits").Child(nsLimits, "max-bytes"); string(got.Text) != "524288" {
			t.Errorf("our limit is announced as %q", got.Text)
		}
		l := liveAt(t, capulet, "capulet.example", "verona.example")
		if l.MaxStanza() != want {
			t.Errorf("%q taken as %d", announced, l.MaxStanza())
		}
		r.send("</stream:stream>")
		r.streamError()
		eventually(t, "gone", func() bool { return capulet.Live("capulet.example", "verona.example") == nil })
	}
}

// TestIdleSeconds: what the peer announces is honoured by saying something in
// time; what makes no sense is not.
func TestIdleSeconds(t *testing.T) {
	ca := newAuthority(t)
	capulet := startNode(t, ca, map[string]*tls.Certificate{"capulet.example": ca.issue("capulet.example")})
	for announced, want := range map[string]time.Duration{
		"": 0, "60": 30 * time.Second, " 600\n": 5 * time.Minute, "10": 5 * time.Second, "9": 0, "0": 0, "-60": 0, "x": 0,
		"99999999999999999999": 0, "2000000000": 0,
	} {
		r := dialRaw(t, capulet, "capulet.example", ca.issue("verona.example"))
		features := r.open("verona.example", "capulet.example")
		if got := features.Child(nsLimits, "limits").Child(nsLimits, "idle-seconds"); string(got.Text) != "600" {
			t.Errorf("ours is announced as %q", got.Text)
		}
		r.send("<bidi xmlns='urn:xmpp:bidi'><limits xmlns='urn:xmpp:stream-limits:0'><idle-seconds>" + announced + "</idle-seconds></limits></bidi>" + rawAuth)
		r.next()
		r.parser.Reset(r.conn)
		r.open("verona.example", "capulet.example")
		l := liveAt(t, capulet, "capulet.example", "verona.example")
		if l.keepAlive != want {
			t.Errorf("%q: something is sent every %v", announced, l.keepAlive)
		}
		eventually(t, "looked after", func() bool {
			l.mu.Lock()
			defer l.mu.Unlock()
			return l.life != nil
		})
		l.lastWrite.Add(-int64(5 * time.Minute)) // as if it were so long ago
		l.tick(time.Hour)
		said := make([]byte, 1)
		if want == 0 {
			l.out.nonza(1000, []byte("x"))
		}
		if _, err := r.conn.Read(said); err != nil || (said[0] == ' ') != (want > 0) {
			t.Errorf("%q: then %q %v", announced, said, err)
		}
		r.conn.NetConn().Close()
		eventually(t, "gone", func() bool { return capulet.Live("capulet.example", "verona.example") == nil })
	}
}
