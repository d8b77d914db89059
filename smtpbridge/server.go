package smtpbridge

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"mailxmppd/mail"
)

// Kind says what a listener is for.
type Kind string

const (
	KindRelay      Kind = "relay"      // SMTP between MTAs
	KindSubmission Kind = "submission" // RFC 6409: for authenticated users, over TLS
	KindLMTP       Kind = "lmtp"       // RFC 2033: a verdict per recipient
)

// Handler decides about what clients hand over. It is called from many
// sessions at once, honours its context, keeps nothing of its arguments after
// it has returned, and answers; the server never gives up on it.
type Handler interface {
	// Sender judges the reverse-path; env has no recipients yet. nil: go on.
	Sender(ctx context.Context, c mail.Client, env mail.Envelope) *mail.Failure
	// Recipient judges one recipient; env has those accepted so far.
	Recipient(ctx context.Context, c mail.Client, env mail.Envelope, r mail.Recipient) *mail.Failure
	// Accept takes responsibility for the message or refuses it: one verdict
	// for all, or with perRecipient one for each recipient of the envelope, in
	// its order. A verdict without a failure means that the message is durable
	// here or somebody else's. The content is gone after the return; ID and
	// Trace are the handler's to set.
	Accept(ctx context.Context, c mail.Client, m *mail.Message, perRecipient bool) []mail.Verdict
}

// SessionHandler is a Handler that has something to keep for each session.
type SessionHandler interface {
	Handler
	// Session returns what is called for one session in place of the
	// SessionHandler, by one goroutine at a time, and closed at its end where it
	// is an io.Closer. It must not wait.
	Session() Handler
}

// ServerConfig says what a Server is.
type ServerConfig struct {
	Kind        Kind
	Hostname    string         // of the greeting
	TLS         *tls.Config    // nil: STARTTLS is not offered
	ImplicitTLS bool           // TLS from the first octet (RFC 8314)
	Limits      ServerLimits   // see DefaultLimits
	Timeouts    ServerTimeouts // zero fields take the defaults
	TempDir     string         // for content too long for memory; "" for the system's
	Handler     Handler
	Log         *slog.Logger

	Extensions ServerExtensions // see DefaultExtensions
	Rates      ServerRates
	Crowd      *Crowd         // may be shared by listeners; nil for one of its own
	Clients    []netip.Prefix // who may connect at all; nil: everybody
	Proxies    []netip.Prefix // whose connections begin with a PROXY header, versions 1 and 2
	XClient    []netip.Prefix // who may use XCLIENT: they can be anybody
	XForward   []netip.Prefix // who may use XFORWARD

	// Of a submission listener, and of no other.
	Auth     Authenticator // needed
	Tokens   TokenVerifier // nil: OAUTHBEARER is not offered
	Guard    *AuthGuard    // may be shared by listeners; nil for one with DefaultAuthLimits
	RepairLF bool          // make CRLF of a bare LF in content (RFC 6409 section 8), else such content is refused
}

// Server serves SMTP or LMTP on any number of listeners.
type Server struct {
	cfg    ServerConfig
	ctx    context.Context // ends when sessions must
	cancel context.CancelFunc
	large  sync.Pool // of []byte, for sessions that take in content
	rates  *serverRates
	counts serverCounts

	mu        sync.Mutex
	stopping  chan struct{} // closed by Shutdown
	listeners map[net.Listener]struct{}
	sessions  map[*session]struct{}
	wg        sync.WaitGroup // of sessions
}

// NewServer checks a configuration and makes a Server of it.
func NewServer(cfg ServerConfig) (*Server, error) {
	err := cfg.Limits.check()
	switch {
	case cfg.Kind != KindRelay && cfg.Kind != KindSubmission && cfg.Kind != KindLMTP:
		err = errors.Join(err, fmt.Errorf("smtp server: unknown kind %q", cfg.Kind))
	case cfg.Kind == KindSubmission && (cfg.Auth == nil || cfg.TLS == nil):
		err = errors.Join(err, errors.New("smtp server: submission needs an authenticator and a TLS configuration"))
	case cfg.Kind != KindSubmission && (cfg.Auth != nil || cfg.Tokens != nil || cfg.RepairLF):
		err = errors.Join(err, errors.New("smtp server: authentication and repairs belong to submission"))
	case cfg.Hostname == "":
		err = errors.Join(err, errors.New("smtp server: no hostname"))
	case cfg.Handler == nil:
		err = errors.Join(err, errors.New("smtp server: no handler"))
	case cfg.ImplicitTLS && cfg.TLS == nil:
		err = errors.Join(err, errors.New("smtp server: implicit TLS without a TLS configuration"))
	}
	if err != nil {
		return nil, err
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Guard == nil {
		cfg.Guard = NewAuthGuard(DefaultAuthLimits())
	}
	if cfg.Crowd == nil {
		cfg.Crowd = NewCrowd()
	}
	cfg.Timeouts = cfg.Timeouts.withDefaults()
	s := &Server{
		cfg:       cfg,
		large:     sync.Pool{New: func() any { b := make([]byte, inputLarge); return &b }},
		rates:     newServerRates(cfg.Rates),
		stopping:  make(chan struct{}),
		listeners: map[net.Listener]struct{}{},
		sessions:  map[*session]struct{}{},
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s, nil
}

// maxAcceptFailures is how many times in a row a listener may fail, the
// longest pause between two tries being a second, before Serve gives it up.
const maxAcceptFailures = 300

// Serve takes connections from ln, which it closes, until Shutdown (nil) or
// until the listener fails for good.
func (s *Server) Serve(ln net.Listener) error {
	defer ln.Close()
	if !s.addListener(ln) {
		return nil
	}
	defer s.removeListener(ln)
	return acceptFrom(ln, s.stopping, s.cfg.Log, s.admit)
}

// acceptFrom hands connections to admit, which must not wait, until stopping
// is closed (nil) or the listener fails for good.
func acceptFrom(ln net.Listener, stopping <-chan struct{}, log *slog.Logger, admit func(net.Conn)) error {
	for failures := 0; ; {
		conn, err := ln.Accept()
		if err == nil {
			failures = 0
			admit(conn)
			continue
		}
		if isClosed(stopping) {
			return nil
		}
		if failures++; errors.Is(err, net.ErrClosed) || failures > maxAcceptFailures {
			return fmt.Errorf("listener %s: %w", ln.Addr(), err)
		}
		// Most likely out of file descriptors: other sessions will free some.
		log.Warn("accepting a connection failed", "listener", ln.Addr().String(), "err", err)
		select {
		case <-stopping:
			return nil
		case <-time.After(min(time.Second, time.Duration(failures)*10*time.Millisecond)):
		}
	}
}

// Shutdown stops accepting and tells idle sessions 421 (RFC 5321 section 3.8).
// Sessions that are taking in or handing over a message get until ctx ends;
// then they are cut off and ctx's error is returned.
func (s *Server) Shutdown(ctx context.Context) error {
	s.stop()
	done := make(chan struct{})
	go func() {
		s.wg.Wait()
		close(done)
	}()
	select {
	case <-done:
		s.cancel()
		return nil
	case <-ctx.Done():
	}
	s.cancel()
	s.mu.Lock()
	for sess := range s.sessions {
		sess.conn.Close()
	}
	s.mu.Unlock()
	<-done // handlers honour their context
	return ctx.Err()
}

func (s *Server) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.stopping:
		return
	default:
	}
	close(s.stopping)
	for ln := range s.listeners {
		ln.Close()
	}
	for sess := range s.sessions {
		sess.stop()
	}
}

func (s *Server) isStopping() bool { return isClosed(s.stopping) }

func isClosed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

func (s *Server) addListener(ln net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isStopping() {
		return false
	}
	s.listeners[ln] = struct{}{}
	return true
}

func (s *Server) removeListener(ln net.Listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.listeners, ln)
}
