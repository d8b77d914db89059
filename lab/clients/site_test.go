// Package clients holds the mail clients and senders that others wrote against
// a serving gateway: what they hand over by submission and relay must come out
// at the mailbox server as it went in. That a gateway is no open relay is shown
// at the same place.
package clients

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"mailxmppd/lab/harness"
)

func TestMain(m *testing.M) {
	dir, err := harness.ShortDir()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Setenv(buildDir, dir)
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		os.RemoveAll(dir)
		os.Exit(code)
	}))
}

// buildDir names the folder where the one executable of all tests is.
const buildDir = "MAILXMPPD_CLIENTS_BUILD"

// executable builds the gateway, for the first who asks.
var executable = sync.OnceValues(func() (string, error) { return harness.Build(os.Getenv(buildDir)) })

const (
	ours, second = "ours.example", "second.example"
	password     = "wherefore art thou"
)

// site is a serving gateway with one listener of each kind, a mailbox server
// behind it, and a next hop for all other domains.
type site struct {
	dir                         string
	ca                          *harness.CA
	gateway                     *harness.Gateway
	relay, relayTLS             string // one that trusts everybody here, without TLS; one that trusts nobody, with STARTTLS
	submission, submissionTLS   string // by STARTTLS, and TLS from the first octet
	mailboxes, elsewhere        *harness.Sink
	mu                          sync.Mutex
	mailboxRcpts, elsewhereRcpt []string
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newSite(t *testing.T) *site {
	t.Helper()
	return newSiteUnder(t, func(string) (wrap, env []string) { return nil, nil })
}

// newSiteUnder runs the gateway under a command and with an environment, made
// for the site's folder.
func newSiteUnder(t *testing.T, conditions func(dir string) (wrap, env []string)) *site {
	t.Helper()
	s := &site{}
	var err error
	s.dir, err = harness.ShortDir()
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(s.dir) })
	must(t, os.Chmod(s.dir, 0o755))
	s.ca, err = harness.NewCA(s.dir)
	must(t, err)
	exe, err := executable()
	must(t, err)
	names, err := harness.NewNames()
	must(t, err)
	t.Cleanup(func() { names.Close() })
	s.mailboxes = s.sink(t, &s.mailboxRcpts)
	s.elsewhere = s.sink(t, &s.elsewhereRcpt)
	addrs, err := harness.FreeAddrs(5)
	must(t, err)
	s.relay, s.relayTLS, s.submission, s.submissionTLS = addrs[0], addrs[1], addrs[2], addrs[3]
	cert, key, err := s.ca.Issue(ours, "127.0.0.1", "localhost")
	must(t, err)
	cert2, key2, err := s.ca.Issue(second)
	must(t, err)
	s.gateway, err = harness.NewGateway(harness.Spec{
		Exe: exe, Dir: filepath.Join(s.dir, "gw"), CA: s.ca, Domain: ours, Cert: cert, Key: key, DNS: names.Addr,
		Store: "sqlite://" + filepath.Join(s.dir, "gw", "mail.db"), Deliver: "lmtp://" + s.mailboxes.Addr,
		SMTP: s.relay, XMPP: addrs[4], Route: "smtp://" + s.elsewhere.Addr,
		Extra: fmt.Sprintf(`
[[domain]]
name = %q
certificate = %q
key = %q
deliver = %q
verify = "table"
recipients = ["somebody"]
[[listener]]
kind = "relay"
address = %q
[[listener]]
kind = "submission"
address = %q
[[listener]]
kind = "submission"
address = %q
tls = "implicit"
[limits]
messages_per_hour = 10000
messages_per_minute = 10000
connections_per_minute = 10000
`, second, cert2, key2, "lmtp://"+s.mailboxes.Addr, s.relayTLS, s.submission, s.submissionTLS),
	})
	must(t, err)
	file := filepath.Join(s.dir, "password")
	must(t, os.WriteFile(file, []byte(password), 0o600))
	out, err := exec.Command(exe, "user", "add", "juliet@"+ours, "--password-file", file, "--config", s.gateway.Config).CombinedOutput()
	if err != nil {
		t.Fatalf("user add: %v\n%s", err, out)
	}
	wrap, env := conditions(s.dir)
	s.gateway.Wrap = wrap
	must(t, s.gateway.Start(t.Context(), env...))
	t.Cleanup(func() {
		if err := s.gateway.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// sink takes everything and notes for whom.
func (s *site) sink(t *testing.T, rcpts *[]string) *harness.Sink {
	t.Helper()
	sink, err := harness.NewSink("127.0.0.1:0", func(content []byte) string { return string(content) })
	must(t, err)
	t.Cleanup(sink.Close)
	sink.Refuse(func(rcpt string) bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		*rcpts = append(*rcpts, rcpt)
		return false
	})
	return sink
}

// rcpts are the recipients that a sink was given.
func (s *site) rcpts(of *[]string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), *of...)
}

// arrived waits for the message with a mark in the mailboxes.
func (s *site) arrived(t *testing.T, mark string) string {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		for _, m := range s.mailboxes.Got() {
			if strings.Contains(m, "Subject: "+mark+"\r\n") {
				return m
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("%q has not arrived\n%s", mark, s.gateway.Log())
		}
	}
}

// errMissing is for a program that is not on this machine.
var errMissing = errors.New("not installed; scripts/deps installs it")

// program finds one, and skips the test without it where the lab is optional.
func program(t *testing.T, name string) string {
	t.Helper()
	for _, p := range []string{name, "/usr/sbin/" + name} {
		if path, err := exec.LookPath(p); err == nil {
			return path
		}
	}
	if os.Getenv("MAILXMPPD_LAB") == "optional" {
		t.Skipf("%s is %v", name, errMissing)
	}
	t.Fatalf("%s is %v", name, errMissing)
	return ""
}

// run runs a program with an environment of its own and the given input.
func (s *site) run(t *testing.T, input string, name string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Env = []string{"HOME=" + s.dir, "PATH=" + os.Getenv("PATH"), "LC_ALL=C.UTF-8", "TERM=dumb"}
	cmd.Dir = s.dir
	cmd.Stdin = strings.NewReader(input)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v\n%.4000s\n%s", name, args, err, out, s.gateway.Log())
	}
}
