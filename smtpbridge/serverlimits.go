package smtpbridge

import (
	"errors"
	"fmt"
	"time"
)

// ServerLimits bound what clients can make the server hold, read or do.
type ServerLimits struct {
	MaxSize     int64 // octets of a message's content, announced by SIZE
	Recipients  int   // of one message, at least 100 by RFC 5321 section 4.5.3.1.8; also refused ones between two accepted messages
	Connections int   // in all
	PerAddress  int   // connections of one client address, of one /64 for IPv6
	Commands    int   // between two accepted messages of a session
	Errors      int   // refused commands between two accepted messages of a session
	AuthTries   int   // failed or broken off, of a session
	CommandLine int   // octets of a command line with its CRLF
	ContentLine int   // octets of a line of content without its CRLF
	HeaderBytes int   // octets of a message's header
	HeaderField int   // octets of one header field with its continuation lines
	HeaderLines int   // lines of a message's header: some cost more than their length to verify
}

// DefaultLimits returns the limits that hold where the operator set none.
func DefaultLimits() ServerLimits {
	return ServerLimits{
		MaxSize:     50 << 20,
		Recipients:  1000,
		Connections: 1000,
		PerAddress:  100,
		Commands:    10_000,
		Errors:      100,
		AuthTries:   5,
		// RFC 5321 section 4.5.3.1.4 has 512; the parameters of DSN and
		// SMTPUTF8 add about 1,000.
		CommandLine: 2048,
		// Far beyond the 998 of RFC 5322 section 2.1.1, which real mail does not
		// keep to: such mail travels unchanged, and the next hop may refuse it.
		ContentLine: 1 << 20,
		HeaderBytes: 256 << 10,
		HeaderField: 100 << 10,
		HeaderLines: 1000,
	}
}

// authLine is how long a line of an AUTH exchange may be (RFC 4954 section 4),
// and so any line of a client that has not authenticated itself.
const authLine = 12288

// inputSize is what a session's input buffer must hold between messages.
func (s *Server) inputSize() int {
	if s.cfg.Kind == KindSubmission {
		return authLine
	}
	return inputSmall
}

// lineLimit is how long a command line may be now.
func (s *session) lineLimit() int {
	if s.srv.cfg.Kind == KindSubmission && s.client.User == "" {
		return authLine
	}
	return s.srv.cfg.Limits.CommandLine
}

// endless is how much of a message too large is read for its end. Twice the
// limit, so that a client gets to read why its message is refused.
func (l ServerLimits) endless() int64 { return max(l.MaxSize, 2*l.MaxSize+inputLarge) }

// check returns every mistake.
func (l ServerLimits) check() error {
	var errs []error
	atLeast := func(name string, value, least int64) {
		if value < least {
			errs = append(errs, fmt.Errorf("smtp server: limit %s is %d, must be at least %d", name, value, least))
		}
	}
	atLeast("MaxSize", l.MaxSize, 1)
	atLeast("Recipients", int64(l.Recipients), 1)
	atLeast("Connections", int64(l.Connections), 1)
	atLeast("PerAddress", int64(l.PerAddress), 1)
	atLeast("Commands", int64(l.Commands), 1)
	atLeast("Errors", int64(l.Errors), 1)
	atLeast("AuthTries", int64(l.AuthTries), 1)
	atLeast("CommandLine", int64(l.CommandLine), 512)
	atLeast("ContentLine", int64(l.ContentLine), 998)
	atLeast("HeaderBytes", int64(l.HeaderBytes), 998)
	atLeast("HeaderField", int64(l.HeaderField), 998)
	atLeast("HeaderLines", int64(l.HeaderLines), 1)
	if l.CommandLine > inputSmall { // which a line must fit
		errs = append(errs, fmt.Errorf("smtp server: limit CommandLine is %d, must be at most %d", l.CommandLine, inputSmall))
	}
	return errors.Join(errs...)
}

// ServerTimeouts bound the server's waits (RFC 5321 section 4.5.3.2). Zero
// fields take the default.
type ServerTimeouts struct {
	Command   time.Duration // for a whole command, for the TLS handshake, and for a client to take a reply; 5 min
	DataStart time.Duration // for the first octet of the content; 2 min
	DataBlock time.Duration // for each further piece of the content; 3 min
	DataTotal time.Duration // for the content in all; 1 h
	Proxy     time.Duration // for the PROXY header; 10 s
	Auth      time.Duration // for an exchange of AUTH in all; 2 min
	Check     time.Duration // for Handler.Sender and Handler.Recipient; 1 min
	Accept    time.Duration // for Handler.Accept; 10 min, as long as clients wait (section 4.5.3.2.6)
}

func (t ServerTimeouts) withDefaults() ServerTimeouts {
	set := func(d *time.Duration, value time.Duration) {
		if *d <= 0 {
			*d = value
		}
	}
	set(&t.Command, 5*time.Minute)
	set(&t.DataStart, 2*time.Minute)
	set(&t.DataBlock, 3*time.Minute)
	set(&t.DataTotal, time.Hour)
	set(&t.Proxy, 10*time.Second)
	set(&t.Auth, 2*time.Minute)
	set(&t.Check, time.Minute)
	set(&t.Accept, 10*time.Minute)
	return t
}
