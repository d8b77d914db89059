// Package interop holds the streams and the component against real chat
// servers.
package interop

import (
	"bytes"
	"crypto/x509"
	"errors"
	"os"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"mailxmppd/lab/ejabberd"
	"mailxmppd/lab/harness"
	"mailxmppd/lab/prosody"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The chat servers' domains. Each bot domain is a component's, which makes its
// server dial whoever the component writes to.
const (
	prosodyDomain, prosodyBot   = "prosody.example", "bot.prosody.example"
	ejabberdDomain, ejabberdBot = "ejabberd.example", "bot.ejabberd.example"
	secret                      = "a secret of the lab"
)

// chatServer is a running server, whichever it is.
type chatServer struct {
	name, domain, bot           string
	starttls, direct, component string
	log                         func() string
	stop                        func() error
}

// site is what the servers of one test share.
type site struct {
	ca    *harness.CA
	names *harness.Names
	certs map[string][2]string // certificate and key of a domain
	extra string               // further lines of an ejabberd's configuration
	alone bool                 // an ejabberd trusts no authority and offers dialback
}

func newSite(t *testing.T) *site {
	dir, err := harness.ShortDir()
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	ca, err := harness.NewCA(dir)
	must(t, err)
	names, err := harness.NewNames()
	must(t, err)
	t.Cleanup(func() { names.Close() })
	return &site{ca: ca, names: names, certs: map[string][2]string{}}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// installed fails the test where a server is missing, unless the lab is
// optional.
func installed(t *testing.T, err error) {
	t.Helper()
	if (errors.Is(err, prosody.ErrNotInstalled) || errors.Is(err, ejabberd.ErrNotInstalled)) && os.Getenv("MAILXMPPD_LAB") == "optional" {
		t.Skip(err)
	}
	must(t, err)
}

// both are the extended key usages that a server needs on both sides.
// ejabberd turns a connecting peer away whose certificate lacks clientAuth.
var both = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}

// cert issues a certificate for a domain, one for all who serve it.
func (s *site) cert(t *testing.T, domain string) (cert, key string) {
	t.Helper()
	if _, issued := s.certs[domain]; !issued {
		cert, key, err := s.ca.IssueFor(both, domain)
		must(t, err)
		s.certs[domain] = [2]string{cert, key}
	}
	return s.certs[domain][0], s.certs[domain][1]
}

// prosody starts a Prosody whose components are bot and further domains.
func (s *site) prosody(t *testing.T, change func(*prosody.Spec), components ...string) *chatServer {
	t.Helper()
	spec := prosody.Spec{CA: s.ca.File, DNS: s.names.Addr}
	for i, name := range append([]string{prosodyDomain, prosodyBot}, components...) {
		cert, key := s.cert(t, name)
		h := prosody.Host{Name: name, Cert: cert, Key: key}
		if i > 0 {
			h.Secret = secret
		}
		spec.Hosts = append(spec.Hosts, h)
	}
	if change != nil {
		change(&spec)
	}
	srv, err := prosody.Start(spec)
	installed(t, err)
	c := &chatServer{"prosody", prosodyDomain, prosodyBot, srv.StartTLS, srv.Direct, srv.Component, srv.Log, sync.OnceValue(srv.Stop)}
	s.publish(t, c, srv.IP, append(components, prosodyDomain, prosodyBot)...)
	return c
}

// ejabberd is the same with an ejabberd.
func (s *site) ejabberd(t *testing.T, components ...string) *chatServer {
	t.Helper()
	spec := ejabberd.Spec{Hosts: []string{ejabberdDomain}, CA: s.ca.File, DNS: s.names.Addr, Extra: s.extra}
	if s.alone {
		stranger, err := harness.NewCA(t.TempDir())
		must(t, err)
		spec.DialbackOnly, spec.CA = true, stranger.File
		// And what it shows for the bot proves nothing to us.
		cert, key, err := stranger.IssueFor(both, ejabberdBot)
		must(t, err)
		s.certs[ejabberdBot] = [2]string{cert, key}
	}
	for i, name := range append([]string{ejabberdDomain, ejabberdBot}, components...) {
		cert, key := s.cert(t, name)
		whole := cert + ".whole"
		k, err := os.ReadFile(key)
		must(t, err)
		c, err := os.ReadFile(cert)
		must(t, err)
		must(t, os.WriteFile(whole, append(k, c...), 0o600))
		spec.Certs = append(spec.Certs, whole)
		if i > 0 {
			spec.Components = append(spec.Components, ejabberd.Component{Name: name, Secret: secret})
		}
	}
	srv, err := ejabberd.Start(spec)
	installed(t, err)
	c := &chatServer{"ejabberd", ejabberdDomain, ejabberdBot, srv.StartTLS, srv.Direct, srv.Component, srv.Log, sync.OnceValue(srv.Stop)}
	s.publish(t, c, srv.IP, append(components, ejabberdDomain, ejabberdBot)...)
	return c
}

// host is a name for SRV records, with its address: ejabberd finds it there.
func (s *site) host(t *testing.T, ip string) string {
	t.Helper()
	must(t, s.names.Add(ip+". 60 IN A "+ip))
	return ip + "."
}

// publish makes the server's domains known by SRV.
func (s *site) publish(t *testing.T, c *chatServer, ip string, domains ...string) {
	t.Helper()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the end of the log of %s:\n%s", c.name, c.log())
		}
		c.stop()
	})
	host := s.host(t, ip)
	for _, d := range domains {
		must(t, s.names.Add("_xmpp-server._tcp."+d+". 60 IN SRV 0 0 5269 "+host))
	}
}

// lockedBuffer is a log that may still be written while it is read.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
