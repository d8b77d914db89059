package faults

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"mailxmppd/store/postgres"
	"mailxmppd/store/storetest"
)

// shortLease makes leases run out soon that nobody holds any more: those whose
// claim was answered into a cut connection.
const shortLease = "MAILXMPPD_LEASE=10s"

func startServer(t *testing.T, settings ...string) *storetest.Server {
	t.Helper()
	server, err := storetest.Start("", settings...)
	if errors.Is(err, storetest.ErrNoServer) && os.Getenv("MAILXMPPD_LAB") == "optional" {
		t.Skip(err)
	}
	must(t, err)
	t.Cleanup(func() {
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
	})
	return server
}

// hostOf is host:port of a database URL.
func hostOf(t *testing.T, server string) string {
	t.Helper()
	u, err := url.Parse(server)
	must(t, err)
	return u.Host
}

// blows is how often the short form strikes.
func blows() int {
	if os.Getenv("MAILXMPPD_LONG") == "1" {
		return 20
	}
	return 3
}

func TestPostgresKilled(t *testing.T) {
	t.Parallel()
	server := startServer(t)
	s := newSite(t, "postgres: server killed and restarted", postgresAt(server.URL, "a.example", "killed"), postgresAt(server.URL, "b.example", "killed"), shortLease)
	s.start()
	stop := s.load(20)
	defer stop()
	for range blows() {
		s.flows(20)
		s.blow()
		must(t, server.Crash())
		must(t, server.Recover())
	}
	s.flows(20)
	stop()
	s.judge()
}

func TestConnectionsTerminated(t *testing.T) {
	t.Parallel()
	server := startServer(t)
	s := newSite(t, "postgres: connections terminated", postgresAt(server.URL, "a.example", "ended"), postgresAt(server.URL, "b.example", "ended"), shortLease)
	s.start()
	stop := s.load(20)
	defer stop()
	for range 3 * blows() {
		s.flows(10)
		s.blow()
		must(t, server.Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'mailxmppd %'`))
	}
	s.flows(20)
	stop()
	s.judge()
}

func TestConnectionsCut(t *testing.T) {
	t.Parallel()
	server := startServer(t)
	p := newProxy(t, hostOf(t, server.URL), 0)
	through := strings.Replace(server.URL, p.target, p.addr, 1)
	s := newSite(t, "postgres: connections cut", postgresAt(through, "a.example", "cut"), postgresAt(through, "b.example", "cut"), shortLease)
	s.start()
	stop := s.load(20)
	defer stop()
	for range 3 * blows() {
		s.flows(10)
		s.blow()
		if n := p.cut(); n == 0 {
			t.Error("no connection goes through the proxy")
		}
	}
	s.flows(20)
	stop()
	s.judge()
}

// TestFailOver kills a primary whose commits wait for a standby, and promotes
// that. The gateways have both in the URL of the store, as docs/operations.md
// has it, and follow. Before the commits wait, and after, when no other server is
// left, check warns.
func TestFailOver(t *testing.T) {
	t.Parallel()
	primary := startServer(t)
	standby, err := primary.Standby("")
	must(t, err)
	t.Cleanup(func() {
		if err := standby.Stop(); err != nil {
			t.Error(err)
		}
	})
	both := documentedURL(t, hostOf(t, primary.URL), hostOf(t, standby.URL))
	s := newSite(t, "postgres: fail-over to a standby", postgresAt(both, "a.example", "over"), postgresAt(both, "b.example", "over"), shortLease)
	const warning = "a fail-over of the database would lose the newest mail"
	if said := s.check(); !strings.Contains(said, warning) {
		t.Errorf("without a synchronous standby check says:\n%s", said)
	}
	must(t, primary.Synchronous(t.Context()))
	if said := s.check(); strings.Contains(said, "fail-over") || strings.Contains(said, "standby") {
		t.Errorf("with a synchronous standby check says:\n%s", said)
	}
	s.start()
	stop := s.load(20)
	defer stop()
	s.flows(30)
	s.blow()
	must(t, primary.Crash())
	must(t, standby.Promote(t.Context()))
	s.flows(30)
	if said := s.check(); !strings.Contains(said, warning) {
		t.Errorf("after the fail-over check says:\n%s", said)
	}
	stop()
	s.judge()
}

// documentedURL is the URL of a store with two servers, as the documentation
// has it, for servers of ours.
func documentedURL(t *testing.T, primary, standby string) string {
	t.Helper()
	page, err := os.ReadFile("../../docs/operations.md")
	must(t, err)
	const hosts = "postgres://mailxmppd@db1.capulet.example,db2.capulet.example/mail?"
	_, rest, found := strings.Cut(string(page), hosts)
	settings, _, _ := strings.Cut(rest, "\n")
	if !found || !strings.Contains(settings, "target_session_attrs=") {
		t.Fatalf("no %s... in the documentation", hosts)
	}
	return fmt.Sprintf("postgres://postgres@%s,%s/postgres?%s&sslmode=disable", primary, standby, settings)
}

// check is what mailxmppd check says of a's configuration.
func (s *site) check() string {
	s.Helper()
	out, err := exec.CommandContext(s.Context(), gateway, "check", "--config", s.pair.A.Config).CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) { // which it has where another part is at fault
		s.Fatal(err)
	}
	if !strings.Contains(string(out), "store") {
		s.Errorf("check says nothing of the store:\n%s", out)
	}
	return string(out)
}

// makeSchemas makes the tables of both sides, so that no start waits for that.
func makeSchemas(t *testing.T, server, what string) {
	t.Helper()
	for _, domain := range []string{"a.example", "b.example"} {
		side := postgresAt(server, domain, what)
		st, err := postgres.Open(t.Context(), postgres.Config{URL: side.Store, Schema: side.Schema, Node: "before"})
		must(t, err)
		must(t, st.Close())
	}
}

// TestLatency has the database far away: mail flows more slowly, and nothing
// else is different. The leases are short enough for their renewal to matter.
func TestLatency(t *testing.T) {
	t.Parallel()
	server := startServer(t)
	rate := map[time.Duration]float64{}
	for _, delay := range []time.Duration{0, 100 * time.Millisecond} {
		p := newProxy(t, hostOf(t, server.URL), delay)
		through := strings.Replace(server.URL, p.target, p.addr, 1)
		what := fmt.Sprintf("far%d", delay.Milliseconds())
		makeSchemas(t, server.URL, what)
		s := newSite(t, fmt.Sprintf("postgres: %v away", 2*delay), postgresAt(through, "a.example", what), postgresAt(through, "b.example", what), shortLease)
		s.start()
		stop := s.load(20)
		s.flows(2)
		start := time.Now()
		s.flows(10)
		rate[delay] = 10 / time.Since(start).Seconds()
		stop()
		s.judge()
		for _, g := range []string{s.pair.A.Log(), s.pair.B.Log()} {
			if strings.Contains(g, "lease lost") || strings.Contains(g, "settlement refused") {
				t.Errorf("a lease was lost at %v", delay)
			}
		}
	}
	t.Logf("messages per second: %.0f beside the database, %.0f with 200 ms to it", rate[0], rate[100*time.Millisecond])
}
