package smtpbridge

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"mailxmppd/mail"
)

// session is one client's connection. All but stop runs on one goroutine.
type session struct {
	srv     *Server
	conn    net.Conn // as accepted
	stream  net.Conn // conn, or TLS over it
	in      *sessionInput
	out     *sessionOutput
	client  mail.Client
	key     string       // by which the connection is counted; "" for not at all
	trust   sessionTrust // in what the client tells about others
	told    xclientHello // what a neighbour said that its client said
	handler Handler
	tls     tlsConnection // what AUTH binds to

	greeted   bool           // EHLO, HELO or LHLO was given since the start or STARTTLS
	env       *mail.Envelope // of the transaction in hand; nil outside one
	intake    *intake        // the chunks of it that are there; nil before BDAT
	commands  int            // since the last accepted message
	errors    int            // refused commands since then, but for RCPT
	unknown   int            // refused recipients since then
	discarded int64          // octets of refused chunks since then
	authTries int            // failed and broken off, of the whole session
	wary      bool           // what follows may be content
	reads     readPhase
	deadline  time.Time // for the input that is waited for

	mu       sync.Mutex
	stopping bool
	idle     bool // waiting for a command or for a TLS handshake
}

// readPhase says how the deadline of a read comes about.
type readPhase int

const (
	readCommand readPhase = iota // one deadline for the whole command
	readContent                  // renewed by each read, within deadline
)

var errStopping = errors.New("service is shutting down")

func newSession(srv *Server, conn net.Conn) *session {
	s := &session{srv: srv, conn: conn}
	s.client = mail.Client{
		Addr:  addrPort(conn.RemoteAddr()),
		Local: addrPort(conn.LocalAddr()),
		LMTP:  srv.cfg.Kind == KindLMTP,
	}
	s.use(conn)
	s.handler = srv.cfg.Handler
	if perSession, ok := s.handler.(SessionHandler); ok {
		s.handler = perSession.Session()
	}
	return s
}

// use makes a connection the session's, with nothing read or written so far.
func (s *session) use(stream net.Conn) {
	s.stream = stream
	s.in = newSessionInput(stream, make([]byte, s.srv.inputSize()), s.beforeRead)
	s.out = &sessionOutput{conn: stream, timeout: s.srv.cfg.Timeouts.Command}
}

// reset ends the transaction in hand (RFC 5321 section 4.1.1.5).
func (s *session) reset() {
	s.intake.close()
	s.env, s.intake, s.client.Forwarded = nil, nil, nil
}

// stop makes the session say 421 as soon as it waits for a command.
func (s *session) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopping = true
	if s.idle {
		s.conn.SetReadDeadline(time.Unix(1, 0))
	}
}

// beforeRead is called before each read that may wait: replies are held back
// while commands are there, and must be out before the client can be expected
// to go on (RFC 2920 section 3.2).
func (s *session) beforeRead() error {
	if err := s.out.flush(); err != nil {
		return err
	}
	deadline := s.deadline
	if s.reads == readContent {
		if next := time.Now().Add(s.srv.cfg.Timeouts.DataBlock); next.Before(deadline) {
			deadline = next
		}
	}
	// In this order, or the deadline would undo what stop did.
	err := s.stream.SetReadDeadline(deadline)
	if s.reads == readCommand && !s.rest() {
		return errStopping
	}
	return err
}

// rest begins a wait that stop ends, unless the service stops already.
func (s *session) rest() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.idle = !s.stopping
	return s.idle
}

// awake ends the wait for a command or handshake and reports whether the
// service stops.
func (s *session) awake() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.idle = false
	return s.stopping
}

// run serves the client until it or we end the session.
func (s *session) run(ctx context.Context) {
	defer s.close()
	if !s.meetProxy() {
		return
	}
	s.trust = s.srv.cfg.trustIn(s.client.Addr.Addr())
	if s.srv.cfg.ImplicitTLS && !s.handshake(ctx) {
		return
	}
	s.greet()
	for s.serveCommand(ctx) {
	}
	s.out.flush()
}

func (s *session) greet() bool {
	return s.reply(serverReply{220, "", s.srv.cfg.Hostname + " " + s.protocol() + " mailxmppd"})
}

func (s *session) protocol() string {
	if s.client.LMTP {
		return "LMTP"
	}
	return "ESMTP"
}

// serveCommand reads a command and carries it out; false ends the session.
func (s *session) serveCommand(ctx context.Context) bool {
	s.reads, s.deadline = readCommand, time.Now().Add(s.srv.cfg.Timeouts.Command)
	line, err := s.in.line(s.lineLimit())
	if stopping := s.awake(); stopping {
		return s.end(serverReply{421, "4.3.2", "service is shutting down"})
	}
	if err != nil {
		return s.badInput(err)
	}
	cmd, ok := parseCommand(line)
	if !ok && s.wary {
		return s.violation(serverReply{421, "4.7.0", "content without a 354"})
	}
	if !ok {
		return s.refuse(serverReply{500, "5.5.2", "malformed command"})
	}
	if cmd.looksForeign() {
		return s.violation(serverReply{421, "4.7.0", "this is not SMTP"})
	}
	if s.commands++; s.commands > s.srv.cfg.Limits.Commands {
		return s.violation(serverReply{421, "4.7.0", "too many commands"})
	}
	return s.dispatch(ctx, cmd)
}

// dispatch is the table of verbs (RFC 5321 section 4.5.1). An extension's verb
// is one more case.
func (s *session) dispatch(ctx context.Context, cmd command) bool {
	wary := s.wary
	s.wary = false
	if s.needsTLS(cmd.verb) { // RFC 3207 section 4
		return s.refuse(serverReply{530, "5.7.0", "use STARTTLS first"})
	}
	switch cmd.verb {
	case "HELO", "EHLO", "LHLO":
		return s.hello(cmd)
	case "STARTTLS":
		return s.startTLS(ctx, cmd)
	case "MAIL":
		return s.mail(ctx, cmd)
	case "RCPT":
		return s.rcpt(ctx, cmd)
	case "DATA":
		return s.data(ctx, cmd)
	case "BDAT":
		return s.bdat(ctx, cmd)
	case "RSET":
		s.reset()
		return s.reply(serverReply{250, "2.0.0", "reset"})
	case "NOOP":
		return s.reply(serverReply{250, "2.0.0", "ok"})
	case "VRFY": // section 3.5.3: saying who exists is for RCPT
		return s.reply(serverReply{252, "2.0.0", "cannot verify, but will take RCPT"})
	case "HELP":
		return s.reply(serverReply{214, "2.0.0", "see RFC 5321"})
	case "QUIT":
		return s.end(serverReply{221, "2.0.0", "bye"})
	case "EXPN", "SEND", "SOML", "SAML", "TURN", "ETRN":
		return s.refuse(serverReply{502, "5.5.1", "command is not implemented"})
	case "AUTH":
		return s.auth(ctx, cmd)
	}
	switch {
	case wary:
		return s.violation(serverReply{421, "4.7.0", "content without a 354"})
	case cmd.verb == "XCLIENT" && s.trust.xclient:
		return s.xclient(cmd)
	case cmd.verb == "XFORWARD" && s.trust.xforward:
		return s.xforward(cmd)
	}
	return s.refuse(serverReply{500, "5.5.1", "unknown command"})
}

// reply puts a reply into the output; it is sent before the next wait.
func (s *session) reply(r serverReply) bool {
	return s.out.write(r) == nil
}

// refuse is reply for a refused command, of which a client has so many.
func (s *session) refuse(r serverReply) bool {
	s.srv.counts.commandsRefused.Add(1)
	s.srv.cfg.Log.Debug("smtp command refused", "remote", s.remote(), "status", r.status, "text", r.text)
	if s.errors++; s.errors > s.srv.cfg.Limits.Errors {
		return s.violation(serverReply{421, "4.7.0", "too many errors"})
	}
	return s.reply(r)
}

// end is reply for the last reply of a session.
func (s *session) end(r serverReply) bool {
	s.reply(r)
	return false
}

// violation ends the session of a client that cannot be trusted to go on, and
// lets it read why.
func (s *session) violation(r serverReply) bool {
	s.srv.counts.brokenOff.Add(1)
	s.srv.cfg.Log.Info("smtp session broken off", "remote", s.remote(), "status", r.status, "text", r.text)
	s.reply(r)
	return s.breakOff()
}

// badInput ends the session after an error of the input. After a bare CR or
// LF, or a line without end, nothing tells where the next command begins.
func (s *session) badInput(err error) bool {
	switch {
	case errors.Is(err, errBareLineEnd):
		return s.violation(serverReply{500, "5.5.2", "bare CR or LF in a command"})
	case errors.Is(err, errLineTooLong):
		return s.violation(serverReply{500, "5.5.2", "command line is too long"})
	case errors.Is(err, os.ErrDeadlineExceeded):
		s.srv.counts.timedOut.Add(1)
		return s.end(serverReply{421, "4.4.2", "waited too long for a command"})
	case !errors.Is(err, io.EOF):
		s.srv.cfg.Log.Debug("smtp connection lost", "remote", s.remote(), "err", err)
	}
	return false
}

// breakOff ends a session whose client is still sending. Closing with octets
// unread would take back the replies: they are read away, for a bounded time
// and amount.
func (s *session) breakOff() bool {
	if s.out.flush() != nil {
		return false
	}
	if half, ok := s.stream.(interface{ CloseWrite() error }); ok {
		half.CloseWrite()
	}
	s.stream.SetReadDeadline(time.Now().Add(time.Second))
	io.CopyN(io.Discard, s.stream, 1<<20)
	return false
}

func (s *session) close() {
	s.reset()
	if h, ok := s.handler.(io.Closer); ok {
		h.Close()
	}
	if s.stream != s.conn {
		s.stream.SetWriteDeadline(time.Now().Add(time.Second))
		s.stream.Close() // with TLS's own good-bye
	}
	s.conn.Close()
}

// remote is the client's address for logs and the trace.
func (s *session) remote() string { return remoteText(s.client.Addr) }

func remoteText(addr netip.AddrPort) string {
	if addr.IsValid() {
		return addr.String()
	}
	return "local"
}
