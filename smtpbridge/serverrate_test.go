package smtpbridge

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// TestSharedByListeners: what one address does at one listener counts at the
// others.
func TestSharedByListeners(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*ServerConfig)
		want   string
	}{
		"connections at a time": {func(c *ServerConfig) { c.Limits.PerAddress = 1 }, "< 421 4.7.0 too many connections from"},
		"in all":                {func(c *ServerConfig) { c.Limits.Connections = 1 }, "< 421 4.3.2 too many connections"},
		"connections by minute": {func(c *ServerConfig) { c.Rates.Addresses = NewAddressRates(1, 0) }, "< 421 4.7.1 too many connections a minute"},
		"nothing in common":     {nil, "< 220"},
	} {
		t.Run(name, func(t *testing.T) {
			shared := ServerConfig{Limits: DefaultLimits(), Crowd: NewCrowd()}
			if c.change != nil {
				c.change(&shared)
			}
			var addrs []string
			for range 2 {
				_, addr := startServer(t, &recorder{}, func(cfg *ServerConfig) {
					if c.change != nil {
						cfg.Limits, cfg.Rates, cfg.Crowd = shared.Limits, shared.Rates, shared.Crowd
					}
				})
				addrs = append(addrs, addr)
			}
			first := dial(t, addrs[0])
			first.play("< 220")
			dial(t, addrs[1]).play(c.want)
			first.play("> QUIT", "< 221")
		})
	}
}

func TestRateTable(t *testing.T) {
	now := time.Now()
	table := newRateTable(3, time.Minute)
	take := func(key string, want bool) {
		t.Helper()
		if got := table.take(key, now); got != want {
			t.Errorf("%s: %v", key, got)
		}
	}
	for range 3 {
		take("a", true)
	}
	take("a", false)
	take("b", true)
	now = now.Add(20 * time.Second) // one comes back
	take("a", true)
	take("a", false)
	now = now.Add(-time.Hour) // a clock that jumps gives nothing, and takes nothing
	take("a", false)
	now = now.Add(2 * time.Hour)
	for range 3 {
		take("a", true)
	}
	take("a", false)
	table.giveBack("a", now)
	take("a", true)
	for range 100 {
		take("", true)
	}
	var none *rateTable
	if !none.take("a", now) {
		t.Error("no limit refuses")
	}
}

func TestRateTableIsBounded(t *testing.T) {
	now := time.Now()
	table := newRateTable(1, time.Hour)
	for i := range rateEntries {
		table.take(fmt.Sprint(i), now)
	}
	table.take("0", now) // used again: not the next to go
	for i := range 10 {
		table.take(fmt.Sprint("new", i), now)
	}
	if len(table.entries) != rateEntries || table.used.Len() != rateEntries {
		t.Errorf("%d entries, %d in order", len(table.entries), table.used.Len())
	}
	if table.take("0", now) || !table.take("1", now) {
		t.Error("the wrong entry was forgotten")
	}
}

func TestRates(t *testing.T) {
	message := []string{"> MAIL FROM:<a@b.example>", "< 250", "> RSET", "< 250"}
	_, addr := startServer(t, &recorder{}, func(c *ServerConfig) {
		c.Rates = ServerRates{ConnectionsPerMinute: 3, MessagesPerMinute: 2, Exempt: []netip.Prefix{netip.MustParsePrefix("127.0.0.9/32")}}
	})
	d := dialFrom(t, "127.0.0.1", addr)
	d.play("< 220", "> EHLO h", "<* 250")
	d.play(message...)
	d.play(message...)
	d.play("> MAIL FROM:<a@b.example>", "< 450 4.7.1 too many messages a minute", "> NOOP", "< 250")
	for range 2 {
		dialFrom(t, "127.0.0.1", addr).play("< 220", "> QUIT", "< 221")
	}
	dialFrom(t, "127.0.0.1", addr).play("< 421 4.7.1 too many connections a minute", "< EOF")
	dialFrom(t, "127.0.0.2", addr).play("< 220", "> EHLO h", "<* 250", "> MAIL FROM:<a@b.example>", "< 250")
	for range 5 {
		d := dialFrom(t, "127.0.0.9", addr)
		d.play("< 220", "> EHLO h", "<* 250")
		d.play(message...)
	}
}

func TestRatePerUser(t *testing.T) {
	dialIn := startSubmission(t, &recorder{}, func(c *ServerConfig) { c.Rates.MessagesPerHour = 1 })
	login := []string{"< 220", "> EHLO h", "<* 250", "> AUTH " + plain("juliet@ours.example", "wherefore"), "< 235"}
	first := dialIn(0)
	first.play(append(login, "> MAIL FROM:<a@b.example>", "< 250")...)
	dialIn(0).play(append(login, "> MAIL FROM:<a@b.example>", "< 450 4.7.1 too many messages an hour")...)
}

func TestAuthGuardKeys(t *testing.T) {
	if userKey("Juliet") != userKey("juliet") || userKey("juliet") == userKey("romeo") || len(userKey(strings.Repeat("x", 10_000))) > 32 {
		t.Error("keys of users")
	}
	g := NewAuthGuard(AuthLimits{PerAddress: 1})
	now := time.Now()
	if !g.address(netip.MustParseAddrPort("[2001:db8::1]:1"), now) || g.address(netip.MustParseAddrPort("[2001:db8::2]:2"), now) {
		t.Error("addresses of one /64 are counted apart")
	}
	if !g.user("juliet", now) || !g.user("juliet", now) {
		t.Error("users are limited without a limit")
	}
}
