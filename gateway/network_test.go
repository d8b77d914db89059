package gateway

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// TestWatchNetwork: only another set of addresses that lead somewhere is a change.
func TestWatchNetwork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var now []net.Addr
		var failing error
		set := func(err error, cidrs ...string) {
			mu.Lock()
			defer mu.Unlock()
			now, failing = nil, err
			for _, s := range cidrs {
				ip, network, _ := net.ParseCIDR(s)
				now = append(now, &net.IPNet{IP: ip, Mask: network.Mask})
			}
		}
		const table = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n"
		route := table + "eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\n"
		changes := 0
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		set(nil, "127.0.0.1/8", "192.0.2.7/24", "2001:db8::7/64")
		go watchNetwork(ctx, func() ([]net.Addr, error) { mu.Lock(); defer mu.Unlock(); return now, failing },
			func() string { mu.Lock(); defer mu.Unlock(); return routesIn(route, "") }, func() { changes++ })
		for _, c := range []struct {
			what  string
			err   error
			addrs []string
			want  int
		}{
			{"another order", nil, []string{"2001:db8::7/64", "192.0.2.7/24", "127.0.0.1/8"}, 0},
			{"a link without a network", nil, []string{"192.0.2.7/24", "2001:db8::7/64", "fe80::1/64"}, 0},
			{"not told", errors.New("no"), nil, 0},
			{"told again", nil, []string{"192.0.2.7/24", "2001:db8::7/64"}, 0},
			{"another address", nil, []string{"198.51.100.7/24"}, 1},
			{"none", nil, []string{"127.0.0.1/8"}, 1},
			{"back", nil, []string{"198.51.100.7/24"}, 2},
			{"another router", nil, []string{"198.51.100.7/24"}, 3},
			{"a route more", nil, []string{"198.51.100.7/24"}, 3},
			{"no router", nil, []string{"198.51.100.7/24"}, 3},
		} {
			set(c.err, c.addrs...)
			mu.Lock()
			switch c.what {
			case "another router":
				route = strings.Replace(route, "010200C0", "FE0200C0", 1)
			case "a route more":
				route += "eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\n"
			case "no router":
				route = table
			}
			mu.Unlock()
			time.Sleep(networkEvery)
			synctest.Wait()
			if changes != c.want {
				t.Errorf("%s: %d changes in all, want %d", c.what, changes, c.want)
			}
		}
	})
}

// TestNetworkChanged: what waits for a dead destination, and for the domains that
// share it, is tried at once.
func TestNetworkChanged(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.RetryFirst, c.RetryMax = time.Hour, time.Hour })
	w.legacy.set(func(n *next) {
		n.site = "smtp:relay.example:25"
		n.answer = func(mail.Attempt) []mail.Outcome { return []mail.Outcome{refuse(mail.Unreachable)} }
	})
	rcpts := []string{"a@one.example", "b@two.example", "c@one.example", "d@one.example"}
	for _, rcpt := range rcpts {
		w.send(w.message(sample, "romeo@home.example", rcpt), false)
		w.waitState(rcpt, store.Deferred)
	}
	w.legacy.set(func(n *next) { n.answer = nil })
	w.networkChanged()
	for _, rcpt := range rcpts {
		w.waitState(rcpt, store.Delivered)
	}
}

// TestRoutesIn: what the kernel writes, default routes alone.
func TestRoutesIn(t *testing.T) {
	v6 := "00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003     eth0\n" +
		"fe800000000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth0\n" +
		"00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo\n"
	v4 := "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n" +
		"eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\neth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
	if got := routesIn(v4, v6); got != "eth0 010200C0, eth0 fe800000000000000000000000000001" {
		t.Errorf("got %q", got)
	}
	if got := routesIn("x", "\x00"); got != "" {
		t.Errorf("of nothing: %q", got)
	}
}
