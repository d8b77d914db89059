package smtpbridge

import (
	"strconv"
	"strings"
	"time"

	"mailxmppd/mail"
)

// ServerExtensions says which extensions are offered that promise something
// about what happens to a message after the server took it. The zero value
// offers none of them.
type ServerExtensions struct {
	RequireTLS bool          // RFC 8689, offered over TLS only: the Handler keeps envelope.RequireTLS or refuses
	Priority   bool          // RFC 6710: the Handler carries envelope.Priority
	DeliverBy  bool          // RFC 2852: the Handler keeps envelope.DeliverBy
	BinaryMIME bool          // RFC 3030: the Handler carries content with any octets unchanged or refuses
	MinDeliver time.Duration // the shortest time to deliver or return that is taken; 0 for no such limit
}

// DefaultExtensions returns what the gateway keeps without further settings:
// all but REQUIRETLS.
func DefaultExtensions() ServerExtensions {
	return ServerExtensions{Priority: true, DeliverBy: true, BinaryMIME: true}
}

// offers is what a session offers at this moment.
type offers struct {
	ServerExtensions
	maxSize int64
	auth    bool // the AUTH parameter of MAIL is understood
}

func (s *session) offered() offers {
	o := offers{s.srv.cfg.Extensions, s.srv.cfg.Limits.MaxSize, s.srv.cfg.Kind == KindSubmission}
	o.RequireTLS = o.RequireTLS && s.client.TLS != "" // RFC 8689 section 2
	return o
}

// keywords are the lines of the reply to EHLO.
func (o offers) keywords() []string {
	var list []string
	if o.BinaryMIME {
		list = append(list, "BINARYMIME")
	}
	if o.DeliverBy {
		word := "DELIVERBY"
		if o.MinDeliver > 0 {
			word += " " + strconv.FormatInt(int64(o.MinDeliver/time.Second), 10)
		}
		list = append(list, word)
	}
	if o.Priority {
		list = append(list, "MT-PRIORITY")
	}
	if o.RequireTLS {
		list = append(list, "REQUIRETLS")
	}
	return list
}

// param puts a parameter of MAIL into the envelope, if its extension is
// offered.
func (o offers) param(env *mail.Envelope, p param) (refusal *serverReply) {
	switch {
	case p.name == "REQUIRETLS" && o.RequireTLS:
		env.RequireTLS = true
		if p.set {
			return badParam(p)
		}
	case p.name == "MT-PRIORITY" && o.Priority:
		env.Priority, refusal = priorityParam(p)
	case p.name == "BY" && o.DeliverBy:
		env.DeliverBy, refusal = deliverByParam(p, o.MinDeliver)
	case p.name == "AUTH" && o.auth:
		// RFC 4954 section 5: who first submitted the message, which we do not
		// believe and hence may ignore.
		if _, ok := decodeXtext(p.value); !p.set || !ok {
			return badParam(p)
		}
	default:
		return unknownParam(p)
	}
	return refusal
}

// priorityParam: RFC 6710 section 5, from -9 to 9 without plus sign or leading
// zeroes.
func priorityParam(p param) (*int, *serverReply) {
	digits, negative := strings.CutPrefix(p.value, "-")
	if len(digits) != 1 || digits[0] < '0' || digits[0] > '9' || negative && digits == "0" {
		return nil, badParam(p)
	}
	n := int(digits[0] - '0')
	if negative {
		n = -n
	}
	return &n, nil
}

// deliverByParam: RFC 2852 section 4, seconds from now with up to nine digits,
// ";", N or R, and perhaps T. To return what is late already makes no sense;
// to be told of it does.
func deliverByParam(p param, shortest time.Duration) (*mail.DeliverBy, *serverReply) {
	by, mode, ok := strings.Cut(p.value, ";")
	mode = strings.ToUpper(mode)
	d := &mail.DeliverBy{Trace: len(mode) == 2 && mode[1] == 'T'}
	digits := strings.TrimLeft(by, "+-")
	switch {
	case !ok || len(digits) == 0 || len(digits) > 9 || len(by)-len(digits) > 1 || strings.Trim(digits, "0123456789") != "":
		return nil, badParam(p)
	case len(mode) == 0 || len(mode) > 2 || len(mode) == 2 && !d.Trace || mode[0] != 'N' && mode[0] != 'R':
		return nil, badParam(p)
	}
	seconds, err := strconv.ParseInt(by, 10, 64)
	if err != nil || mode[0] == 'R' && seconds <= 0 {
		return nil, badParam(p)
	}
	in := time.Duration(seconds) * time.Second
	if mode[0] == 'R' && in < shortest {
		return nil, &serverReply{555, "5.5.4", "cannot deliver in so short a time"}
	}
	d.Mode, d.Deadline = mode[0], time.Now().Add(in)
	return d, nil
}
