package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/rpc"
	"os"
	"path/filepath"
	"runtime/pprof"
	"strings"
	"sync"
	"time"
)

// legSide names the subcommand under which this program runs as one of the
// two processes of the leg. Nobody else needs it.
const legSide = "leg-side"

// What carries the messages.
const (
	overStreams = "mailxmppd leg"
	overFrames  = "length-prefixed frames"
	overFloor   = "frames in base64, hashed" // see floor
)

// codingOf is what frames of a kind do to content.
func codingOf(kind string) coding {
	if kind == overFloor {
		return &floor{}
	}
	return nil
}

// LegSetup is what a side needs to know before it starts.
type LegSetup struct {
	Kind  string // overStreams, overFrames or overFloor
	Dir   string // with ca.pem, and certificate and key of every domain
	Pairs int    // pairs of domains, one stream each
	Addr  string // of the receiving side, for the sending one
}

// LegLoad is what the sending side is to send.
type LegLoad struct{ Messages, InFlight int }

// Side is one process of the leg. Its methods are called over the process's
// standard input and output, one at a time.
type Side struct {
	connect func() (sender, error) // of the sending side
	sender  sender
	close   func()
	live    func() int // streams, of either side
	profile *os.File
	watch   *watch
}

// sender is what the sending side drives.
type sender interface {
	load(size int) error // makes the content ready that send sends
	send(LegLoad) error
	close()
	tls() string
}

// runLegSide serves the parent until it closes our standard input.
func runLegSide() error {
	s := &Side{close: func() {}, live: func() int { return 0 }}
	server := rpc.NewServer()
	if err := server.RegisterName("Side", s); err != nil {
		return err
	}
	server.ServeConn(stdio{})
	s.close()
	return nil
}

// stdio joins standard input and output into a connection.
type stdio struct{}

func (stdio) Read(p []byte) (int, error)  { return os.Stdin.Read(p) }
func (stdio) Write(p []byte) (int, error) { return os.Stdout.Write(p) }
func (stdio) Close() error                { return errors.Join(os.Stdin.Close(), os.Stdout.Close()) }

// Listen makes this the receiving side and tells its address.
func (s *Side) Listen(p LegSetup, addr *string) error {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	*addr = ln.Addr().String()
	if p.Kind != overStreams {
		cert, err := loadCertificate(p.Dir, receiving(0))
		if err != nil {
			return err
		}
		go serveFrames(ln, cert, codingOf(p.Kind))
		s.close = func() { ln.Close() }
		return nil
	}
	m, err := newReceivingManager(p)
	if err != nil {
		return err
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		m.Serve(context.Background(), ln)
	}()
	s.live = func() int { return m.Snapshot().Live }
	s.close = func() {
		shutDown(m)
		<-served
	}
	return nil
}

// Prepare makes this the sending side, without a connection yet.
func (s *Side) Prepare(p LegSetup, _ *struct{}) error {
	if p.Kind != overStreams {
		roots, err := loadRoots(p.Dir)
		s.connect = func() (sender, error) { return dialFrames(p.Addr, receiving(0), roots, codingOf(p.Kind)) }
		return err
	}
	m, err := newManager(p, sending, nil)
	if err != nil {
		return err
	}
	s.live = func() int { return m.Snapshot().Live }
	s.close = func() { shutDown(m) }
	s.connect = func() (sender, error) { return openStreams(m, p) }
	return nil
}

// Connect opens all connections and tells the TLS parameters.
func (s *Side) Connect(_ struct{}, tlsUsed *string) error {
	if s.connect == nil {
		return errors.New("not the sending side")
	}
	var err error
	if s.sender, err = s.connect(); err != nil {
		return err
	}
	s.close = s.sender.close
	*tlsUsed = s.sender.tls()
	return nil
}

// Load makes content of a size ready for Send.
func (s *Side) Load(size int, _ *struct{}) error {
	if s.sender == nil {
		return errors.New("not the sending side")
	}
	return s.sender.load(size)
}

// Send sends a load and tells how long it took until all was accepted.
func (s *Side) Send(p LegLoad, took *time.Duration) error {
	if s.sender == nil {
		return errors.New("not the sending side")
	}
	start := time.Now()
	err := s.sender.send(p)
	*took = time.Since(start)
	return err
}

// Live tells how many streams are up.
func (s *Side) Live(_ struct{}, n *int) error {
	*n = s.live()
	return nil
}

// Profile writes a CPU profile to a file until it is called with "".
func (s *Side) Profile(file string, _ *struct{}) error {
	if file == "" {
		pprof.StopCPUProfile()
		return s.profile.Close()
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	s.profile = f
	return pprof.StartCPUProfile(f)
}

// sending and receiving name the domains of the n-th pair.
func sending(n int) string   { return fmt.Sprintf("capulet%d.example", n) }
func receiving(n int) string { return fmt.Sprintf("montague%d.example", n) }

func loadRoots(dir string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, errors.New("ca.pem has no certificate")
	}
	return pool, nil
}

func loadCertificate(dir, domain string) (*tls.Certificate, error) {
	c, err := tls.LoadX509KeyPair(filepath.Join(dir, domain+".pem"), filepath.Join(dir, domain+".key"))
	return &c, err
}

// loadCertificates returns a look-up by domain, as the stream manager wants it.
func loadCertificates(dir string, pairs int, name func(int) string) (func(string) (*tls.Certificate, error), error) {
	certs := make(map[string]*tls.Certificate, pairs)
	for i := range pairs {
		c, err := loadCertificate(dir, name(i))
		if err != nil {
			return nil, err
		}
		certs[name(i)] = c
	}
	return func(domain string) (*tls.Certificate, error) {
		if c := certs[domain]; c != nil {
			return c, nil
		}
		return nil, errors.New("not one of our domains")
	}, nil
}

func tlsName(s tls.ConnectionState) string {
	return strings.ReplaceAll(tls.VersionName(s.Version), " ", "") + " " + tls.CipherSuiteName(s.CipherSuite)
}

// each calls f for 0 to n-1, so many at once, and returns the first error.
func each(n, atOnce int, f func(int) error) error {
	var wg sync.WaitGroup
	var mu sync.Mutex
	var first error
	next := 0
	for range min(n, atOnce) {
		wg.Go(func() {
			for {
				mu.Lock()
				i, stop := next, first != nil || next >= n
				next++
				mu.Unlock()
				if stop {
					return
				}
				if err := f(i); err != nil {
					mu.Lock()
					if first == nil {
						first = err
					}
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	return first
}
