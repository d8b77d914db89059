package smtpbridge

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"mailxmppd/dns"
)

func deliverOne(t *testing.T, c *Client, s *hopScript) string {
	t.Helper()
	return verdictsOf(c.Deliver(t.Context(), s.hop(), attemptOf(t, sample, "a@dest.example")))[0]
}

// TestReuse: attempts follow one another on one connection, whatever became of
// the one before, and what is left open is reset.
func TestReuse(t *testing.T) {
	for _, c := range []struct {
		name  string
		steps map[string]string // of the first attempt
		first string
		reset bool
		lives bool // the connection
	}{
		{"delivered", nil, "delivered", false, true},
		{"content refused", map[string]string{"dot1": "554 5.7.1 no"}, "554 5.7.1", false, true},
		{"recipient refused", map[string]string{"rcpt1": "550 5.1.1 no"}, "550 5.1.1", true, true},
		{"sender refused", map[string]string{"mail1": "550 5.7.1 no"}, "550 5.7.1", false, true},
		{"DATA refused", map[string]string{"data1": "451 4.3.0 no"}, "451 4.3.0", true, true},
		{"421 after the content", map[string]string{"dot1": "421 4.3.0 no" + thenHangUp}, "451 4.3.0", false, false},
		{"RSET refused", map[string]string{"rcpt1": "550 5.1.1 no", "rset": "500 what"}, "550 5.1.1", true, false},
		{"words unasked", map[string]string{"dot1": "250 ok\r\n250 and more"}, "delivered", false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := startScript(t, scriptOffers, func(session int, step string, n int) string {
				if session > 1 {
					return ""
				}
				return script(c.steps)(session, step, n)
			})
			client := newTestClient(t, nil)
			if v := deliverOne(t, client, s); v != c.first {
				t.Fatalf("first attempt: %q, want %q", v, c.first)
			}
			if v := deliverOne(t, client, s); v != "delivered" {
				t.Errorf("second attempt: %q", v)
			}
			_, commands, sessions := s.got()
			if (sessions == 1) != c.lives {
				t.Errorf("%d sessions", sessions)
			}
			if slices.Contains(commands, "RSET") != c.reset {
				t.Errorf("commands %q", commands)
			}
		})
	}
}

// TestStaleConnection: a connection that died while idle costs nothing, once.
func TestStaleConnection(t *testing.T) {
	for name, answer := range map[string]string{
		"closed":       hangUp,
		"421":          "421 4.4.2 idle too long" + thenHangUp,
		"nonsense":     "what",
		"out of place": "354 go",
	} {
		t.Run(name, func(t *testing.T) {
			s := startScript(t, scriptOffers, func(session int, step string, n int) string {
				if session == 1 && step == "mail" && n == 2 {
					return answer
				}
				return ""
			})
			client := newTestClient(t, nil)
			for i := range 2 {
				if v := deliverOne(t, client, s); v != "delivered" {
					t.Errorf("attempt %d: %q", i+1, v)
				}
			}
			if messages, _, sessions := s.got(); len(messages) != 2 || sessions != 2 {
				t.Errorf("%d messages in %d sessions", len(messages), sessions)
			}
		})
	}
	t.Run("not twice", func(t *testing.T) {
		s := startScript(t, scriptOffers, func(session int, step string, n int) string {
			if step == "mail" && (n == 2 || session > 1) {
				return hangUp
			}
			return ""
		})
		client := newTestClient(t, nil)
		deliverOne(t, client, s)
		if v := deliverOne(t, client, s); v != "451 4.4.2" {
			t.Errorf("%q", v)
		}
		if _, _, sessions := s.got(); sessions != 2 {
			t.Errorf("%d sessions", sessions)
		}
	})
	t.Run("not after a word was answered", func(t *testing.T) {
		s := startScript(t, scriptOffers, func(session int, step string, n int) string {
			if session == 1 && step == "rcpt" && n == 2 {
				return hangUp
			}
			return ""
		})
		client := newTestClient(t, nil)
		deliverOne(t, client, s)
		if v := deliverOne(t, client, s); v != "451 4.4.2" {
			t.Errorf("%q", v)
		}
	})
}

func TestIdleConnectionsEnd(t *testing.T) {
	t.Run("in time", func(t *testing.T) {
		s := startScript(t, scriptOffers, script(nil))
		client := newTestClient(t, func(cfg *ClientConfig) { cfg.IdleFor = 10 * time.Millisecond })
		deliverOne(t, client, s)
		eventually(t, "QUIT after the idle time", func() bool {
			_, commands, _ := s.got()
			return commands[len(commands)-1] == "QUIT"
		})
		client.pool.mu.Lock()
		defer client.pool.mu.Unlock()
		if len(client.pool.sites) != 0 {
			t.Error("the site is remembered")
		}
	})
	t.Run("at Close", func(t *testing.T) {
		s := startScript(t, scriptOffers, script(nil))
		client := newTestClient(t, nil)
		deliverOne(t, client, s)
		if _, commands := s.gotInTheEnd(t, client); commands[len(commands)-1] != "QUIT" {
			t.Errorf("commands %q", commands)
		}
		if v := deliverOne(t, client, s); v != "451 4.4.1" {
			t.Errorf("after Close: %q", v)
		}
	})
	t.Run("beyond MaxIdle", func(t *testing.T) {
		s := startScript(t, scriptOffers, script(nil))
		client := newTestClient(t, func(cfg *ClientConfig) { cfg.MaxIdle = 1 })
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() { deliverOne(t, client, s) })
		}
		wg.Wait()
		client.pool.mu.Lock()
		defer client.pool.mu.Unlock()
		for _, site := range client.pool.sites {
			if len(site.idle) > 1 {
				t.Errorf("%d idle connections", len(site.idle))
			}
		}
	})
}

// TestMaxPerHop: no more connections at a time than allowed, and everybody's
// turn comes.
func TestMaxPerHop(t *testing.T) {
	s := startScript(t, scriptOffers, script(nil))
	client := newTestClient(t, func(cfg *ClientConfig) { cfg.MaxPerHop = 2 })
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if v := deliverOne(t, client, s); v != "delivered" {
				t.Errorf("%q", v)
			}
		})
	}
	wg.Wait()
	if messages, _, sessions := s.got(); len(messages) != 20 || sessions > 2 {
		t.Errorf("%d messages in %d sessions", len(messages), sessions)
	}
}

func TestWaitForConnectionIsBounded(t *testing.T) {
	p := newConnPool(1, 1, time.Minute)
	s, err := p.enter(t.Context(), "k", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.enter(t.Context(), "k", time.Millisecond); !errors.Is(err, errHopBusy) {
		t.Errorf("time is up: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.enter(ctx, "k", time.Hour); !errors.Is(err, context.Canceled) {
		t.Errorf("context is over: %v", err)
	}
	p.leave(s)
	if len(p.sites) != 0 {
		t.Errorf("sites left: %v", p.sites)
	}
}

// TestHopsDoNotShare: connections that differ in what was proven or asked are
// kept apart.
func TestHopsDoNotShare(t *testing.T) {
	base := Hop{Protocol: ProtocolSMTP, TLS: TLSNone}
	at := place{network: "tcp", addr: "127.0.0.1:25", host: "a.example"}
	with := func(policy tlsPolicy) place {
		p := at
		p.policy = policy
		return p
	}
	keys := map[string]string{"base": poolKey(base, at)}
	for name, key := range map[string]string{
		"protocol": poolKey(Hop{Protocol: ProtocolLMTP, TLS: TLSNone}, at),
		"tls":      poolKey(Hop{Protocol: ProtocolSMTP, TLS: TLSVerified}, at),
		"name":     poolKey(Hop{Protocol: ProtocolSMTP, TLS: TLSNone, ServerName: "b.example"}, at),
		"user":     poolKey(Hop{Protocol: ProtocolSMTP, User: "u"}, at),
		"addr":     poolKey(base, place{network: "tcp", addr: "127.0.0.2:25", host: "a.example"}),
		"host":     poolKey(base, place{network: "tcp", addr: "127.0.0.1:25", host: "b.example"}),
		"implicit": poolKey(Hop{Protocol: ProtocolSMTP, TLS: TLSNone, Implicit: true}, at),
		"policy":   poolKey(base, with(tlsPolicy{kind: policyEncrypt})),
		"records":  poolKey(base, with(tlsPolicy{kind: policyDANE, tlsa: []dns.TLSA{record(3, 1, 1, nil)}})),
		"others":   poolKey(base, with(tlsPolicy{kind: policyDANE, tlsa: []dns.TLSA{record(2, 1, 1, nil)}})),
		"sts":      poolKey(base, with(tlsPolicy{kind: policySTS, sts: &stsPolicy{ID: "1"}})),
		"sts id":   poolKey(base, with(tlsPolicy{kind: policySTS, sts: &stsPolicy{ID: "2"}})),
		"trusted":  poolKey(base, place{network: "tcp", addr: "127.0.0.1:25", host: "a.example", trusted: true}),
	} {
		for other, k := range keys {
			if k == key {
				t.Errorf("%s and %s share connections", name, other)
			}
		}
		keys[name] = key
	}
}
