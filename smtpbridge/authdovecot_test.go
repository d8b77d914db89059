package smtpbridge

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"mailxmppd/mail"
)

// fakeDovecot answers each connection with what a script says: its lines are
// sent one by one, each after a line of the client's has come, the first after
// the two of its handshake. It returns the socket, and what clients sent.
func fakeDovecot(t *testing.T, hello string, answers ...string) (socket string, sent func() string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "auth")
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	log := &lockedBuffer{}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				conn.SetDeadline(time.Now().Add(10 * time.Second))
				r := bufio.NewReader(conn)
				for i := range len(answers) + 2 {
					line, err := r.ReadString('\n')
					if err != nil {
						return
					}
					fmt.Fprint(log, line)
					switch {
					case i == 1:
						fmt.Fprint(conn, hello)
					case i > 1:
						fmt.Fprint(conn, answers[i-2])
					}
				}
				r.ReadString('\n') // until the client closes
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		wg.Wait()
	})
	return socket, log.String
}

const dovecotHelloLines = "VERSION\t1\t2\nMECH\tPLAIN\tplaintext\nMECH\tSCRAM-SHA-256\tmutual-auth\nMECH\tXOAUTH2\nSPID\t1\nCUID\t1\nCOOKIE\tabc\nDONE\n"

func TestDovecotProtocol(t *testing.T) {
	tests := []struct {
		name, hello string
		answers     []string
		user        string
		wrong       bool // else any error, if there is no user
	}{
		{"accepted", dovecotHelloLines, []string{"OK\t1\tuser=juliet@ours.example\tother=x\n"}, "juliet@ours.example", false},
		{"may not log in", dovecotHelloLines, []string{"OK\t1\tuser=juliet@ours.example\tnologin\treason=x\n"}, "", true},
		{"is another host's to check", dovecotHelloLines, []string{"OK\t1\tuser=juliet@ours.example\tproxy=y\thost=192.0.2.1\n"}, "", true},
		{"escaped name", dovecotHelloLines, []string{"OK\t1\tuser=a\x01tb\n"}, "a\tb", false},
		{"refused", dovecotHelloLines, []string{"FAIL\t1\tuser=juliet\treason=x\n"}, "", true},
		{"cannot tell", dovecotHelloLines, []string{"FAIL\t1\tuser=juliet\ttemp\n"}, "", false},
		{"cannot tell, by code", dovecotHelloLines, []string{"FAIL\t1\tcode=temp_fail\n"}, "", false},
		{"news and other exchanges between", dovecotHelloLines, []string{"MECH\tX\nOK\t2\tuser=other\nOK\nOK\t1\tuser=juliet\n"}, "juliet", false},
		{"asks more", dovecotHelloLines, []string{"CONT\t1\tYQ==\n"}, "", false},
		{"odd challenge", dovecotHelloLines, []string{"CONT\t1\t!\n"}, "", false},
		{"another version", strings.Replace(dovecotHelloLines, "\t1\t2", "\t2\t0", 1), nil, "", false},
		{"no version", "DONE\n", nil, "", false},
		{"endless handshake", strings.Repeat("SPID\t1\n", 1000), nil, "", false},
		{"endless line", strings.Repeat("x", 10_000), nil, "", false},
		{"endless news", dovecotHelloLines, []string{strings.Repeat("SPID\t1\n", 1000)}, "", false},
		{"silence", dovecotHelloLines, []string{""}, "", false},
		{"silence in the handshake", "VERSION\t1\t2\n", nil, "", false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			socket, sent := fakeDovecot(t, test.hello, test.answers...)
			auth := &DovecotAuth{Socket: socket, Timeout: 300 * time.Millisecond}
			name, err := auth.Password(context.Background(), mail.Client{}, "juliet", "x")
			f, isFailure := errors.AsType[*mail.Failure](err)
			if name != test.user || (err == nil) != (test.user != "") || (isFailure && f.Kind == mail.NotAuthorized) != test.wrong {
				t.Errorf("%q, %v", name, err)
			}
			if test.answers != nil && !strings.HasPrefix(sent(), "VERSION\t1\t2\nCPID\t") || test.answers != nil && !strings.HasSuffix(sent(), "\nAUTH\t1\tPLAIN\tservice=smtp\tsecured\tresp=AGp1bGlldAB4\n") {
				t.Errorf("sent %q", sent())
			}
		})
	}
}

func TestDovecotMechanisms(t *testing.T) {
	socket, _ := fakeDovecot(t, dovecotHelloLines)
	auth := &DovecotAuth{Socket: socket}
	if got := fmt.Sprint(auth.Mechanisms(context.Background(), ChannelBindings{"tls-exporter": nil})); got != "[SCRAM-SHA-256 PLAIN LOGIN]" {
		t.Errorf("offers %s", got)
	}
	away := &DovecotAuth{Socket: filepath.Join(t.TempDir(), "nobody")}
	if got := fmt.Sprint(away.Mechanisms(context.Background(), nil)); got != "[PLAIN LOGIN]" {
		t.Errorf("offers %s while Dovecot is away", got)
	}
	if _, err := away.Password(context.Background(), mail.Client{}, "a", "b"); err == nil {
		t.Error("accepted by nobody")
	}
}

func FuzzDovecotAnswer(f *testing.F) {
	for _, seed := range []string{"OK\t1\tuser=a", "CONT\t1\tYQ==", "CONT\t1", "FAIL\t1\ttemp", "FAIL", "OK\t1\tuser=\x01t\x010"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, line string) {
		d := &dovecotConn{r: bufio.NewReaderSize(strings.NewReader(line+"\n"), maxDovecotLine)}
		words, err := d.line()
		if err != nil {
			return
		}
		a, ok := parseDovecotAnswer(words)
		if !ok {
			return
		}
		step, err := a.step()
		if step.Done != (a.verb == "OK") || a.verb == "FAIL" && err == nil {
			t.Fatalf("%q: %+v, %v", line, step, err)
		}
	})
}

// startDovecot starts a real one with a user file, and returns its socket. Its
// directory has a short name: socket names are limited. It does not slow down
// after failures, as it would for a client of its own.
func startDovecot(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("dovecot")
	if err != nil {
		if os.Getenv("MAILXMPPD_LAB") == "optional" {
			t.Log("dovecot is not installed (Debian package dovecot-core): nothing is tested")
			return ""
		}
		t.Fatal("dovecot is not installed (Debian package dovecot-core)")
	}
	dir, err := os.MkdirTemp("/tmp", "dc")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	self, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	config := strings.NewReplacer("DIR", dir, "USER", self.Username).Replace(`
base_dir = DIR/run
state_dir = DIR/state
log_path = DIR/log
ssl = no
protocols =
default_login_user = USER
default_internal_user = USER
default_internal_group =
auth_mechanisms = plain login scram-sha-256
auth_failure_delay = 0
first_valid_uid = 0
passdb {
  driver = passwd-file
  args = scheme=PLAIN username_format=%u DIR/users
}
userdb {
  driver = static
  args = uid=0 gid=0 home=DIR
}
service anvil {
  chroot =
  unix_listener anvil-auth-penalty {
    mode = 0
  }
}
service stats {
  chroot =
}
service auth {
  user = USER
  unix_listener DIR/auth {
    mode = 0600
    user = USER
  }
}
`)
	for name, text := range map[string]string{"conf": config, "users": "juliet@ours.example:{PLAIN}wherefore\n" +
		"banned@ours.example:{PLAIN}mantua::::::nologin=y\nmoved@ours.example:::::::nopassword=y proxy=y host=192.0.2.1\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(path, "-F", "-c", filepath.Join(dir, "conf"))
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(os.Interrupt)
		cmd.Wait()
	})
	socket := filepath.Join(dir, "auth")
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		conn, err := dialDovecot(ctx, socket)
		cancel()
		if err == nil {
			conn.Close()
			return socket
		}
		if time.Now().After(deadline) {
			log, _ := os.ReadFile(filepath.Join(dir, "log"))
			t.Fatalf("dovecot does not start: %v\n%s", err, log)
		}
	}
}

// TestRealDovecot has a real Dovecot decide, over each mechanism.
func TestRealDovecot(t *testing.T) {
	t.Parallel()
	socket := startDovecot(t)
	if socket == "" {
		return
	}
	const juliet = "juliet@ours.example"
	dialIn := startSubmission(t, &recorder{}, func(c *ServerConfig) { c.Auth = &DovecotAuth{Socket: socket} })
	d := dialIn(0)
	if !d.extensions()["AUTH SCRAM-SHA-256 PLAIN LOGIN"] {
		t.Error("mechanisms are not offered")
	}
	d.play("> AUTH "+plain(juliet, "wrong"), "< 535 5.7.8", "> AUTH "+plain("nobody@ours.example", "x"), "< 535",
		"> AUTH LOGIN", "< 334", "> "+b64(juliet), "< 334", "> "+b64("wrong"), "< 535", "> AUTH "+plain(juliet, "wherefore"), "< 235")
	dialIn(0).play("< 220", "> EHLO h", "<* 250", "> AUTH "+plain("banned@ours.example", "mantua"), "< 535", "> AUTH "+plain("moved@ours.example", "anything"), "< 535")
	dialIn(0).play("< 220", "> EHLO h", "<* 250", "> AUTH LOGIN", "< 334", "> "+b64(juliet), "< 334", "> "+b64("wherefore"), "< 235")
	for _, test := range []struct{ user, password, want string }{
		{juliet, "wherefore", "235"}, {juliet, "wrong", "535"}, {"nobody@ours.example", "x", "535"},
	} {
		c := &scramClient{header: "n,,", name: test.user, password: test.password}
		if got := c.play(dialIn(0), mechScram); got != test.want {
			t.Errorf("SCRAM of %s: %s, want %s", test.user, got, test.want)
		}
	}
}
