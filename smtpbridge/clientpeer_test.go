package smtpbridge

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"

	"mailxmppd/mail"
)

// peerBackend is go-smtp's server as the independent next hop. Recipients
// whose local part begins with "no" are refused at RCPT, with "full" after
// LMTP's content.
type peerBackend struct {
	mu       sync.Mutex
	messages []peerMessage
	logins   int
}

type peerMessage struct {
	from    string
	mail    smtp.MailOptions
	to      []string
	rcpt    []smtp.RcptOptions
	content string
}

func (b *peerBackend) NewSession(*smtp.Conn) (smtp.Session, error) {
	return &peerSession{backend: b}, nil
}

func (b *peerBackend) got() []peerMessage {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.messages)
}

type peerSession struct {
	backend *peerBackend
	m       peerMessage
}

func (s *peerSession) Reset()        { s.m = peerMessage{} }
func (s *peerSession) Logout() error { return nil }

func (s *peerSession) Mail(from string, opts *smtp.MailOptions) error {
	s.m = peerMessage{from: from, mail: *opts}
	return nil
}

func (s *peerSession) Rcpt(to string, opts *smtp.RcptOptions) error {
	if strings.HasPrefix(to, "no") {
		return &smtp.SMTPError{Code: 550, EnhancedCode: smtp.EnhancedCode{5, 1, 1}, Message: "no such user"}
	}
	s.m.to, s.m.rcpt = append(s.m.to, to), append(s.m.rcpt, *opts)
	return nil
}

func (s *peerSession) Data(r io.Reader) error {
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	s.m.content = string(b)
	s.backend.mu.Lock()
	defer s.backend.mu.Unlock()
	s.backend.messages = append(s.backend.messages, s.m)
	return nil
}

func (s *peerSession) LMTPData(r io.Reader, status smtp.StatusCollector) error {
	if err := s.Data(r); err != nil {
		return err
	}
	for _, to := range s.m.to {
		var err error
		if strings.HasPrefix(to, "full") {
			err = &smtp.SMTPError{Code: 552, EnhancedCode: smtp.EnhancedCode{5, 2, 2}, Message: "mailbox full"}
		}
		status.SetStatus(to, err)
	}
	return nil
}

func (s *peerSession) AuthMechanisms() []string { return []string{sasl.Plain} }

func (s *peerSession) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, user, password string) error {
		if user != "gw" || password != "s3cret" {
			return errors.New("wrong")
		}
		s.backend.mu.Lock()
		defer s.backend.mu.Unlock()
		s.backend.logins++
		return nil
	}), nil
}

func startPeer(t testing.TB, network, addr string, change func(*smtp.Server)) (*peerBackend, string) {
	t.Helper()
	ln, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	b := &peerBackend{}
	srv := smtp.NewServer(b)
	srv.Domain, srv.EnableSMTPUTF8, srv.EnableDSN, srv.MaxLineLength = "peer.example", true, true, 1<<20
	srv.ErrorLog = log.New(io.Discard, "", 0)
	change(srv)
	done := make(chan struct{})
	go func() {
		defer close(done)
		srv.Serve(ln)
	}()
	t.Cleanup(func() {
		srv.Close()
		<-done
	})
	return b, ln.Addr().String()
}

// peerCertificate is for peer.example and 127.0.0.1, signed by itself.
func peerCertificate(t testing.TB) (*tls.Config, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "peer.example"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"peer.example"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}, roots
}

func TestHopPeerTakesMail(t *testing.T) {
	b, addr := startPeer(t, "tcp", "127.0.0.1:0", func(*smtp.Server) {})
	a := attemptOf(t, "Subject: \xc3\xa9\r\n\r\n.dot\r\n\xff\r\n.\r\n", `"odd name"@dest.example`, "no@dest.example", "j\u00fcrgen@dest.example")
	a.Trace = []byte("Received: from here\r\n\tby there\r\n")
	a.Envelope.SMTPUTF8, a.Envelope.Return, a.Envelope.EnvelopeID = true, "FULL", "e+1"
	a.Envelope.Recipients[0].Notify = mail.NotifyDelay | mail.NotifySuccess
	a.Envelope.Recipients[0].Original = "rfc822;orig+inal@dest.example"
	c := newTestClient(t, nil)
	got := c.Deliver(t.Context(), Hop{Protocol: ProtocolSMTP, Addrs: []string{addr}}, a)
	if v := verdictsOf(got); !slices.Equal(v, []string{"delivered", "550 5.1.1", "delivered"}) {
		t.Fatalf("%q", v)
	}
	m := b.got()[0]
	content, _ := io.ReadAll(func() io.Reader { r, _ := a.Content.Open(); return r }())
	if m.content != string(a.Trace)+string(content) {
		t.Errorf("content %q", m.content)
	}
	if m.from != "romeo@montague.example" || !m.mail.UTF8 || m.mail.Body != smtp.Body8BitMIME || m.mail.Return != smtp.DSNReturnFull || m.mail.EnvelopeID != "e+1" || m.mail.Size != int64(len(m.content)) {
		t.Errorf("MAIL %q %+v", m.from, m.mail)
	}
	if len(m.rcpt) != 2 || !slices.Equal(m.rcpt[0].Notify, []smtp.DSNNotify{smtp.DSNNotifySuccess, smtp.DSNNotifyDelayed}) || m.rcpt[0].OriginalRecipient != "orig+inal@dest.example" {
		t.Errorf("RCPT %q %+v", m.to, m.rcpt)
	}
	null := attemptOf(t, "", "a@dest.example")
	null.Envelope.Sender = mail.Address{}
	if v := verdictsOf(c.Deliver(t.Context(), Hop{Protocol: ProtocolSMTP, Addrs: []string{addr}}, null)); v[0] != "delivered" {
		t.Errorf("null reverse-path: %q", v)
	}
	if m := b.got()[1]; m.from != "" || m.content != "" {
		t.Errorf("null reverse-path: %+v", m)
	}
}

func TestHopPeerLMTP(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			addr := "127.0.0.1:0"
			if network == "unix" {
				addr = filepath.Join(t.TempDir(), "lmtp")
			}
			b, at := startPeer(t, network, addr, func(s *smtp.Server) { s.LMTP = true })
			hop := Hop{Protocol: ProtocolLMTP, Addrs: []string{at}}
			if network == "unix" {
				hop.Addrs = []string{"unix:" + at}
			}
			c := newTestClient(t, nil)
			for range 2 {
				got := c.Deliver(t.Context(), hop, attemptOf(t, sample, "a@dest.example", "no@dest.example", "full@dest.example", "b@dest.example"))
				if v := verdictsOf(got); !slices.Equal(v, []string{"delivered", "550 5.1.1", "552 5.2.2", "delivered"}) {
					t.Errorf("%q", v)
				}
			}
			failures, err := c.Verify(t.Context(), hop, mail.Address{}, false, attemptOf(t, "", "a@dest.example", "no@dest.example").Envelope.Recipients)
			if err != nil || verdictOf(failures[0]) != "delivered" || verdictOf(failures[1]) != "550 5.1.1" {
				t.Errorf("Verify: %v, %v", failures, err)
			}
			if n := len(b.got()); n != 2 {
				t.Errorf("%d messages", n)
			}
		})
	}
}

func TestHopPeerTLS(t *testing.T) {
	server, roots := peerCertificate(t)
	trust := func(cfg *ClientConfig) { cfg.Roots = roots }
	for _, c := range []struct {
		name     string
		offered  bool
		mode     TLSMode
		server   string
		user     string
		password string
		client   func(*ClientConfig)
		want     string
		tls      bool
		proof    string
	}{
		{"opportunistic", true, TLSOpportunistic, "", "", "", nil, "delivered", true, ""},
		{"opportunistic, not offered", false, TLSOpportunistic, "", "", "", nil, "delivered", false, ""},
		{"none, offered", true, TLSNone, "", "", "", nil, "delivered", false, ""},
		{"verified by address", true, TLSVerified, "", "", "", trust, "delivered", true, "pkix"},
		{"verified by name", true, TLSVerified, "peer.example", "", "", trust, "delivered", true, "pkix"},
		{"wrong name", true, TLSVerified, "other.example", "", "", trust, "451 4.7.5", false, ""},
		{"unknown authority", true, TLSVerified, "", "", "", nil, "451 4.7.5", false, ""},
		{"verified, not offered", false, TLSVerified, "", "", "", trust, "451 4.7.4", false, ""},
		{"login", true, TLSVerified, "", "gw", "s3cret", trust, "delivered", true, "pkix"},
		{"login is verified always", true, TLSNone, "", "gw", "s3cret", trust, "delivered", true, "pkix"},
		{"login, wrong name", true, TLSOpportunistic, "other.example", "gw", "s3cret", trust, "451 4.7.5", false, ""},
		{"wrong password", true, TLSVerified, "", "gw", "wrong", trust, "451 4.7.8", false, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, addr := startPeer(t, "tcp", "127.0.0.1:0", func(s *smtp.Server) {
				if c.offered {
					s.TLSConfig = server
				}
			})
			hop := Hop{Protocol: ProtocolSMTP, Addrs: []string{addr}, TLS: c.mode, ServerName: c.server, User: c.user, Password: c.password}
			got := newTestClient(t, c.client).Deliver(t.Context(), hop, attemptOf(t, sample, "a@dest.example"))[0]
			if v := verdictOf(got.Failure); v != c.want {
				t.Fatalf("%q, want %q: %v", v, c.want, got.Failure)
			}
			if (got.TLS != "") != c.tls || c.tls && !strings.HasPrefix(got.TLS, "TLS1.3 TLS_") || got.Proof != c.proof {
				t.Errorf("TLS %q, proof %q", got.TLS, got.Proof)
			}
			wantMessages, wantLogins := 0, 0
			if c.want == "delivered" {
				wantMessages = 1
				if c.user != "" {
					wantLogins = 1
				}
			}
			if len(b.got()) != wantMessages || b.logins != wantLogins {
				t.Errorf("%d messages, %d logins", len(b.got()), b.logins)
			}
		})
	}
}

// TestBrokenTLS: what an attacker or a broken server can do around STARTTLS.
func TestBrokenTLS(t *testing.T) {
	for _, c := range []struct {
		name, answer        string
		opportunistic       string
		verified            string
		opportunisticInSess int // which session took the mail
	}{
		{"refused", "454 4.7.0 not now", "delivered", "451 4.7.4", 1},
		{"words after the go-ahead", "220 go\r\n250 injected", "delivered", "451 4.7.5", 2},
		{"no handshake", "220 go" + thenHangUp, "delivered", "451 4.7.5", 2},
		{"421", "421 4.3.2 bye" + thenHangUp, "451 4.7.4", "451 4.7.4", 0},
	} {
		for mode, want := range map[TLSMode]string{TLSOpportunistic: c.opportunistic, TLSVerified: c.verified} {
			t.Run(c.name+"/"+string(mode), func(t *testing.T) {
				s := startScript(t, append(slices.Clone(scriptOffers), "STARTTLS", "AUTH PLAIN"), script(map[string]string{"starttls": c.answer}))
				hop := s.hop()
				hop.TLS = mode
				client := newTestClient(t, nil)
				got := client.Deliver(t.Context(), hop, attemptOf(t, sample, "a@dest.example"))
				if v := verdictsOf(got); v[0] != want {
					t.Errorf("%q, want %q", v, want)
				}
				_, _, sessions := s.got()
				if mode == TLSOpportunistic && want == "delivered" && sessions != c.opportunisticInSess {
					t.Errorf("%d sessions", sessions)
				}
				messages, _ := s.gotInTheEnd(t, client)
				if (len(messages) > 0) != (want == "delivered") {
					t.Errorf("%d messages", len(messages))
				}
			})
		}
	}
	t.Run("words after the go-ahead, then a good handshake", func(t *testing.T) {
		server, roots := peerCertificate(t)
		s := startScript(t, append(slices.Clone(scriptOffers), "STARTTLS"), script(map[string]string{"starttls": "220 go\r\n250 injected"}))
		s.mu.Lock()
		s.tls = server
		s.mu.Unlock()
		hop := s.hop()
		hop.TLS = TLSVerified
		client := newTestClient(t, func(cfg *ClientConfig) { cfg.Roots = roots })
		got := client.Deliver(t.Context(), hop, attemptOf(t, sample, "a@dest.example"))
		messages, commands := s.gotInTheEnd(t, client)
		if v := verdictsOf(got); v[0] != "451 4.7.5" || len(messages) != 0 {
			t.Errorf("%q after %q", v, commands)
		}
	})
	t.Run("offers before the handshake are forgotten", func(t *testing.T) {
		server, roots := peerCertificate(t)
		s := startScript(t, []string{"PIPELINING", "STARTTLS"}, script(map[string]string{
			"ehlo1": "250-mx.example\r\n250-STARTTLS\r\n250 SIZE 1", "ehlo2": "250 mx.example",
		}))
		s.mu.Lock()
		s.tls = server
		s.mu.Unlock()
		hop := s.hop()
		hop.TLS = TLSVerified
		client := newTestClient(t, func(cfg *ClientConfig) { cfg.Roots = roots })
		got := client.Deliver(t.Context(), hop, attemptOf(t, sample, "a@dest.example"))
		messages, commands := s.gotInTheEnd(t, client)
		if v := verdictsOf(got); v[0] != "delivered" || len(messages) != 1 || strings.Contains(strings.Join(commands, " "), "SIZE=") {
			t.Errorf("%q after %q", v, commands)
		}
	})
	t.Run("no password in plain text", func(t *testing.T) {
		s := startScript(t, append(slices.Clone(scriptOffers), "AUTH PLAIN"), script(nil))
		hop := s.hop()
		hop.User, hop.Password = "gw", "s3cret"
		client := newTestClient(t, nil)
		got := client.Deliver(t.Context(), hop, attemptOf(t, sample, "a@dest.example"))
		messages, commands := s.gotInTheEnd(t, client)
		if v := verdictsOf(got); v[0] != "451 4.7.4" || len(messages) != 0 || len(commands) != 1 {
			t.Errorf("%q after %q", v, commands)
		}
	})
}

// TestHopPeerConcurrency: many attempts at a time, each message once and whole.
func TestHopPeerConcurrency(t *testing.T) {
	b, addr := startPeer(t, "tcp", "127.0.0.1:0", func(*smtp.Server) {})
	c := newTestClient(t, func(cfg *ClientConfig) { cfg.MaxPerHop = 4 })
	hop := Hop{Protocol: ProtocolSMTP, Addrs: []string{addr}}
	var wg sync.WaitGroup
	for i := range 100 {
		content := strings.Repeat("line "+string(rune('A'+i%26))+"\r\n", i*10)
		a := attemptOf(t, content, "a@dest.example")
		wg.Go(func() {
			if v := verdictsOf(c.Deliver(t.Context(), hop, a)); v[0] != "delivered" {
				t.Errorf("%q", v)
			}
		})
	}
	wg.Wait()
	var sizes []int
	for _, m := range b.got() {
		sizes = append(sizes, len(m.content))
	}
	slices.Sort(sizes)
	for i := range 100 {
		if len(sizes) != 100 || sizes[i] != i*80 {
			t.Fatalf("sizes %v", sizes)
		}
	}
}

// BenchmarkDeliver hands 10 KB messages to go-smtp's LMTP server on one
// connection.
func BenchmarkDeliver(b *testing.B) {
	_, addr := startPeer(b, "tcp", "127.0.0.1:0", func(s *smtp.Server) { s.LMTP = true })
	c := newTestClient(b, nil)
	a := attemptOf(b, strings.Repeat("a line of ordinary length, as most are\r\n", 256), "a@dest.example")
	hop := Hop{Protocol: ProtocolLMTP, Addrs: []string{addr}}
	b.ReportAllocs()
	for b.Loop() {
		if got := c.Deliver(b.Context(), hop, a); got[0].Failure != nil {
			b.Fatal(got[0].Failure)
		}
	}
}
