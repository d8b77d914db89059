package smtpbridge

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"mailxmppd/mail"
)

// arrival is a message as the Handler got it.
type arrival struct {
	client  mail.Client
	message mail.Message
	content string
	perRcpt bool
}

// recorder is a Handler that takes everything but what its rules refuse.
type recorder struct {
	sender    func(mail.Client, mail.Envelope) *mail.Failure
	recipient func(mail.Envelope, mail.Recipient) *mail.Failure
	accept    func(context.Context, *mail.Message) []mail.Verdict

	mu       sync.Mutex
	arrivals []arrival
}

func (r *recorder) Sender(_ context.Context, c mail.Client, env mail.Envelope) *mail.Failure {
	if r.sender != nil {
		return r.sender(c, env)
	}
	return nil
}

func (r *recorder) Recipient(_ context.Context, _ mail.Client, env mail.Envelope, rcpt mail.Recipient) *mail.Failure {
	if r.recipient != nil {
		return r.recipient(env, rcpt)
	}
	return nil
}

func (r *recorder) Accept(ctx context.Context, c mail.Client, m *mail.Message, perRecipient bool) []mail.Verdict {
	rc, err := m.Content.Open()
	if err != nil {
		return []mail.Verdict{{Failure: mail.AsFailure(err)}}
	}
	content, err := io.ReadAll(rc)
	if err != nil {
		return []mail.Verdict{{Failure: mail.AsFailure(err)}}
	}
	r.mu.Lock()
	r.arrivals = append(r.arrivals, arrival{c, *m, string(content), perRecipient})
	r.mu.Unlock()
	if r.accept != nil {
		return r.accept(ctx, m)
	}
	if perRecipient {
		return make([]mail.Verdict, len(m.Envelope.Recipients))
	}
	return []mail.Verdict{{Text: "queued"}}
}

func (r *recorder) got() []arrival {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]arrival(nil), r.arrivals...)
}

// startServer serves a recorder until the test ends and returns its address.
func startServer(t testing.TB, rec *recorder, change func(*ServerConfig)) (*Server, string) {
	t.Helper()
	cfg := ServerConfig{Kind: KindRelay, Hostname: "mx.ours.example", Limits: DefaultLimits(), Handler: rec, TempDir: t.TempDir()}
	if change != nil {
		change(&cfg)
	}
	srv, err := NewServer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serve(t, srv, ln)
	return srv, ln.Addr().String()
}

// serve runs srv on ln and ends it with the test.
func serve(t testing.TB, srv *Server, ln net.Listener) {
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ln) }()
	t.Cleanup(func() {
		shutdown(t, srv)
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
}

// shutdown ends all sessions, after which nothing can arrive any more.
func shutdown(t testing.TB, srv *Server) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := srv.Shutdown(ctx); err != nil {
		t.Errorf("shutdown: %v", err)
	}
}

// dialogue is a client that does what a script says.
type dialogue struct {
	t    testing.TB
	conn net.Conn
	r    *bufio.Reader
}

func dial(t testing.TB, addr string) *dialogue {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return newDialogue(t, conn)
}

func newDialogue(t testing.TB, conn net.Conn) *dialogue {
	conn.SetDeadline(time.Now().Add(15 * time.Second))
	return &dialogue{t, conn, bufio.NewReader(conn)}
}

// play goes through a script, whose lines are
//
//	> text    send text and CRLF
//	>" text"  send the text of a Go string literal as it is
//	< text    expect a reply line that begins with text
//	<* text   expect a reply, each line of which begins with text
//	< EOF     expect the end of the connection
func (d *dialogue) play(script ...string) {
	d.t.Helper()
	for _, step := range script {
		switch {
		case strings.HasPrefix(step, `>"`):
			raw, err := strconv.Unquote(step[1:])
			if err != nil {
				d.t.Fatalf("script %s: %v", step, err)
			}
			d.send(raw)
		case strings.HasPrefix(step, "> "):
			d.send(step[2:] + "\r\n")
		case step == "< EOF":
			if line, err := d.r.ReadString('\n'); err == nil || timedOut(err) {
				d.t.Fatalf("want the end of the connection, got %q, %v", line, err)
			}
		case strings.HasPrefix(step, "<* "):
			for {
				if line := d.expect(step[3:]); len(line) < 4 || line[3] != '-' {
					break
				}
			}
		case strings.HasPrefix(step, "< "):
			d.expect(step[2:])
		default:
			d.t.Fatalf("script: %q", step)
		}
	}
}

func (d *dialogue) send(s string) {
	d.t.Helper()
	if _, err := io.WriteString(d.conn, s); err != nil {
		d.t.Fatalf("sending %.60q: %v", s, err)
	}
}

func (d *dialogue) expect(prefix string) string {
	d.t.Helper()
	line, err := d.r.ReadString('\n')
	if err != nil || !strings.HasPrefix(line, prefix) || !strings.HasSuffix(line, "\r\n") || len(line) > 512 {
		d.t.Fatalf("want a reply %q, got %q, %v", prefix, line, err)
	}
	return line
}

func timedOut(err error) bool {
	ne, ok := errors.AsType[net.Error](err)
	return ok && ne.Timeout()
}

// serverCertificate makes a certificate for localhost and the pool that
// trusts it.
func serverCertificate(t testing.TB) (*tls.Config, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(parsed)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}, pool
}

func TestNewServerNamesEveryMistake(t *testing.T) {
	limits := DefaultLimits()
	limits.MaxSize, limits.Errors, limits.CommandLine = 0, 0, 100_000
	_, err := NewServer(ServerConfig{Kind: "pop3", Limits: limits})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"MaxSize", "Errors", "CommandLine", `unknown kind "pop3"`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not name %s", err, want)
		}
	}
	good := ServerConfig{Kind: KindLMTP, Hostname: "h", Limits: DefaultLimits(), Handler: &recorder{}}
	for name, change := range map[string]func(*ServerConfig){
		"hostname": func(c *ServerConfig) { c.Hostname = "" },
		"handler":  func(c *ServerConfig) { c.Handler = nil },
		"TLS":      func(c *ServerConfig) { c.ImplicitTLS = true },
	} {
		cfg := good
		change(&cfg)
		if _, err := NewServer(cfg); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("without %s: %v", name, err)
		}
	}
	if srv, err := NewServer(good); err != nil {
		t.Error(err)
	} else {
		shutdown(t, srv)
	}
}
