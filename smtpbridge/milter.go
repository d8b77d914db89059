package smtpbridge

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/emersion/go-milter"
)

var (
	errBadField   = errors.New("judge wants something inserted that is no header field")
	errNobodyLeft = errors.New("judge leaves nobody and refuses nothing")
)

// MilterConfig says what a Milter is.
type MilterConfig struct {
	Judge       Judge
	Limits      ServerLimits   // of content and recipients; see DefaultLimits
	Trusted     []netip.Prefix // who may ask by TCP
	Connections int            // at a time
	Timeouts    MilterTimeouts // zero fields take the defaults
	TempDir     string         // for content too long for memory; "" for the system's
	Log         *slog.Logger
}

// MilterTimeouts bound the waits of a Milter. Zero fields take the default.
type MilterTimeouts struct {
	Step      time.Duration // for the neighbour's next step, which waits for its client's; 10 min
	Write     time.Duration // for an answer to be taken; 30 s
	Recipient time.Duration // for Judge.Recipient; 20 s: Postfix gives up after 30 (milter_command_timeout)
	Content   time.Duration // for Judge.Content; 4 min: Postfix gives up after 5 (milter_content_timeout)
}

func (t MilterTimeouts) withDefaults() MilterTimeouts {
	for _, d := range []struct {
		set      *time.Duration
		standard time.Duration
	}{{&t.Step, 10 * time.Minute}, {&t.Write, 30 * time.Second}, {&t.Recipient, 20 * time.Second}, {&t.Content, 4 * time.Minute}} {
		if *d.set <= 0 {
			*d.set = d.standard
		}
	}
	return t
}

// Milter judges mail that a mail server beside us takes in, at each step of
// the SMTP session: it may refuse a recipient or the message, insert header
// fields, and take out those that pose as such, and recipients who must not get
// it. It changes nothing else.
//
// go-milter reads the commands and writes the answers. It bounds neither time
// nor connections, logs what comes from outside by itself, panics and recovers,
// skips a header field with a NUL in it, forgets the session after each answer
// but "continue", and gathers the header fields of all messages of a session.
// So each connection has a server of its own with one session for all its
// messages (milterSession), and reads through milterFrames, which lets only
// whole, well-formed commands pass.
type Milter struct {
	*neighbourServer
	cfg    MilterConfig
	counts struct{ messages, refusedRecipients, refused, brokenOff atomic.Uint64 }
}

// MilterCounts is what a Milter counted since its start, for metrics.
type MilterCounts struct {
	Connections       uint64
	TurnedAway        uint64 // of them, at once
	BrokenOff         uint64 // for what is not the milter protocol
	Messages          uint64 // judged to their end
	Refused           uint64 // of them, and before their end
	RefusedRecipients uint64
}

// NewMilter checks a configuration and makes a Milter of it.
func NewMilter(cfg MilterConfig) (*Milter, error) {
	err := cfg.Limits.check()
	switch {
	case cfg.Judge == nil:
		err = errors.Join(err, errors.New("milter: no judge"))
	case cfg.Connections < 1:
		err = errors.Join(err, errors.New("milter: no connections allowed"))
	}
	if err != nil {
		return nil, err
	}
	cfg.Timeouts = cfg.Timeouts.withDefaults()
	m := &Milter{cfg: cfg}
	m.neighbourServer = newNeighbourServer(cfg.Trusted, cfg.Connections, cfg.Log, m.session)
	return m, nil
}

// Counts returns the counts so far.
func (m *Milter) Counts() MilterCounts {
	c := &m.counts
	return MilterCounts{
		Connections: m.connections.Load(), TurnedAway: m.turnedAway.Load(), BrokenOff: c.brokenOff.Load(),
		Messages: c.messages.Load(), Refused: c.refused.Load(), RefusedRecipients: c.refusedRecipients.Load(),
	}
}

// What the milter wants of the MTA: to insert fields and take some out, and
// recipients; header
// values with the space before them, or content would not be what its signatures are over; and
// to be left alone with what it does not judge.
const (
	milterActions  = milter.OptAddHeader | milter.OptChangeHeader | milter.OptRemoveRcpt // an inserted field needs either of the first
	milterProtocol = milter.OptHeaderLeadingSpace | milter.OptNoUnknown | milter.OptNoData
)

// session serves one connection to its end.
func (m *Milter) session(ctx context.Context, c *neighbourConn) {
	s := &milterSession{m: m, ctx: ctx}
	defer s.reset()
	frames := &milterFrames{neighbourConn: c, m: m, busy: s.inMessage, ended: make(chan struct{})}
	server := milter.Server{
		NewMilter: func() milter.Milter { return s }, // asked anew after each answer but "continue"
		Actions:   milterActions, Protocol: milterProtocol,
	}
	server.Serve(&oneConn{conn: frames}) // returns at once, with the end of the listener
	<-frames.ended
}

// oneConn is a listener for one connection.
type oneConn struct{ conn net.Conn }

// Accept returns the connection, then io.EOF.
func (l *oneConn) Accept() (net.Conn, error) {
	if l.conn == nil {
		return nil, io.EOF
	}
	conn := l.conn
	l.conn = nil
	return conn, nil
}

// Close leaves the connection alone.
func (l *oneConn) Close() error { return nil }

// Addr is of no interest to anybody.
func (l *oneConn) Addr() net.Addr { return &net.TCPAddr{} }
