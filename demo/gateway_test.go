package demo

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"mailxmppd/config"
)

// pretend is a gateway process of the tests. The first line of its
// configuration says how it ends, the others are the addresses it listens on.
func pretend(config string) int {
	text, err := os.ReadFile(config)
	if err != nil {
		return 4
	}
	lines := strings.Fields(string(text))
	if lines[0] == "broken" {
		fmt.Fprintln(os.Stderr, "first line")
		fmt.Fprintln(os.Stderr, "mailxmppd: key cannot be read")
		return 1
	}
	if lines[0] == "demo" {
		return pretendDemo(config, lines[1:])
	}
	for _, addr := range lines[1:] {
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			return 5
		}
		go greetAll(ln)
	}
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	switch lines[0] {
	case "orderly":
		<-term
		return 0
	case "unclean":
		<-term
		return 3
	}
	<-time.After(200 * time.Millisecond) // "crashing": by itself, after it was up
	return 7
}

// pretendDemo is a process that starts a gateway as the demo does, says its
// process id, and waits to be killed.
func pretendDemo(config string, addrs []string) int {
	g := &gateway{domain: capulet, exe: os.Args[0], smtp: addrs[0], xmpps: addrs[1], config: config + ".child", log: config + ".log"}
	if err := g.start(context.Background(), make(chan error, 1)); err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println(g.pid())
	select {}
}

func greetAll(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		fmt.Fprintf(c, "220 pretended\r\n")
		c.Close()
	}
}

func pretended(t *testing.T, how string) *gateway {
	t.Helper()
	addrs, err := freeAddresses(2)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	g := &gateway{domain: capulet, exe: os.Args[0], smtp: addrs[0], xmpps: addrs[1],
		config: filepath.Join(dir, "c"), log: filepath.Join(dir, "log")}
	if err := os.WriteFile(g.config, []byte(strings.Join(append([]string{how}, addrs...), "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	return g
}

func TestGatewayStartsStopsAndStartsAgain(t *testing.T) {
	g, crashed := pretended(t, "orderly"), make(chan error, 1)
	var pids []int
	for range 2 {
		if err := g.start(t.Context(), crashed); err != nil {
			t.Fatal(err)
		}
		pids = append(pids, g.pid())
		if err := g.stop(); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(g.pid(), 0); !errors.Is(err, syscall.ESRCH) {
			t.Fatalf("process %d is still there: %v", g.pid(), err)
		}
	}
	if pids[0] == pids[1] {
		t.Errorf("both starts are process %d", pids[0])
	}
	if len(crashed) != 0 {
		t.Errorf("an orderly end counts as a crash: %v", <-crashed)
	}
}

func TestGatewayThatDoesNotStartSaysWhy(t *testing.T) {
	g := pretended(t, "broken")
	err := g.start(t.Context(), make(chan error, 1))
	if err == nil || !strings.Contains(err.Error(), "exit status 1: mailxmppd: key cannot be read") {
		t.Fatalf("got %v", err)
	}
}

func TestGatewayThatEndsByItselfIsACrash(t *testing.T) {
	g, crashed := pretended(t, "crashing"), make(chan error, 1)
	if err := g.start(t.Context(), crashed); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-crashed:
		if !strings.Contains(err.Error(), "exit status 7") {
			t.Errorf("got %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("nobody noticed")
	}
	if err := g.stop(); err != nil {
		t.Errorf("stopping what has ended: %v", err)
	}
}

func TestGatewayWithAnUncleanEndIsAnError(t *testing.T) {
	g := pretended(t, "unclean")
	if err := g.start(t.Context(), make(chan error, 1)); err != nil {
		t.Fatal(err)
	}
	if err := g.stop(); err == nil || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("got %v", err)
	}
}

func TestGatewayStartEndsWithItsContext(t *testing.T) {
	g := pretended(t, "orderly")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := g.start(ctx, make(chan error, 1)); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if err := g.stop(); err != nil && !strings.Contains(err.Error(), "signal: terminated") {
		t.Error(err) // it may have been stopped before it could take the signal
	}
}

// The configuration that the demo writes is one that the program takes.
func TestWrittenConfigLoads(t *testing.T) {
	n := newTestNetwork(t)
	g := n.gateways[0]
	for _, store := range []string{"", "postgres://u:p%20w@127.0.0.1:5432/db?x=\"y\""} {
		n.options.Store = store
		if err := n.configure(g, n.boxes[0]); err != nil {
			t.Fatal(err)
		}
		c, err := config.Load(g.config)
		if err != nil {
			t.Fatalf("%v", err)
		}
		if c.Domains[0].Name != capulet || c.Listeners[0].Address != g.smtp || c.XMPP.Listen[0] != g.xmpps ||
			c.Store.URL != g.store || c.SMTP.MXPort != int(portOf(n.boxes[2].addr)) || c.Admin.Socket != g.admin ||
			c.TLS.Roots != n.ca.certFile || c.DNS.Servers[0] != n.dns.addr || c.Queue.RetryFirst.String() == "" {
			t.Errorf("loaded %+v", c)
		}
		if store != "" && (c.Store.URL != store || !strings.HasPrefix(c.Store.Schema, "demo_capulet_example_")) {
			t.Errorf("store %+v", c.Store)
		}
	}
}

// newTestNetwork is a network in a directory of the test, without gateways
// running.
func newTestNetwork(t *testing.T) *network {
	t.Helper()
	n := &network{timeline: newTimeline(t.Output(), false), dir: t.TempDir(), crashed: make(chan error, 2)}
	n.ledger = newLedger(n.timeline, n.problem, func([]byte) error { return nil })
	var err error
	if n.ca, err = newAuthority(n.dir); err != nil {
		t.Fatal(err)
	}
	if n.dns, err = startNameServer(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, b := range n.boxes {
			b.close()
		}
		n.dns.close()
	})
	if err := n.startMailboxes(); err != nil {
		t.Fatal(err)
	}
	if err := n.fillDNS(); err != nil {
		t.Fatal(err)
	}
	return n
}
