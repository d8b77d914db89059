package mail

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Class says what a failure means for a delivery.
type Class int

const (
	Temporary Class = iota // try again later; what an unknown error is
	Permanent              // no use trying again
	InDoubt                // the next hop may have taken the message
)

// Kind names a row of the failure table.
type Kind string

// The rows of the failure table.
const (
	NoSuchMailbox      Kind = "no-such-mailbox"
	BadAddress         Kind = "bad-address"
	NotPermitted       Kind = "not-permitted"
	NotAuthorized      Kind = "not-authorized"
	SubscriptionNeeded Kind = "subscription-required"
	TooLarge           Kind = "too-large"
	NotAcceptable      Kind = "not-acceptable"
	NoConversion       Kind = "no-conversion"
	TLSRequired        Kind = "tls-required"
	Loop               Kind = "loop"
	NoSuchDomain       Kind = "no-such-domain"
	Expired            Kind = "expired"
	Rejected           Kind = "rejected"
	ResourceShort      Kind = "resource-constraint"
	Unreachable        Kind = "unreachable"
	Unavailable        Kind = "unavailable"
	NotOffered         Kind = "not-offered"
	Conflict           Kind = "conflict"
	Malformed          Kind = "malformed-request"
	Internal           Kind = "internal"
	Refused            Kind = "refused-for-now"
	Doubtful           Kind = "in-doubt"
)

// Row is one line of the failure table: what one kind of failure is called by
// SMTP (RFC 5321 section 4.2, RFC 3463) and by XMPP (RFC 6120 section 8.3.3).
type Row struct {
	Kind      Kind
	Class     Class
	Code      int    // SMTP reply code
	Subject   int    // enhanced status: its class digit follows from Class
	Detail    int    //
	Condition string // XMPP stanza error condition
	Type      string // XMPP stanza error type
	Meaning   string // for the draft and for a reply without a text of its own
}

// Failures is the failure table (xep-draft section 8). Where a stanza error
// arrives, the first row with its condition applies.
func Failures() []Row {
	return []Row{
		{NoSuchMailbox, Permanent, 550, 1, 1, "item-not-found", "cancel", "no such mailbox here"},
		{BadAddress, Permanent, 553, 1, 3, "jid-malformed", "modify", "address is not valid"},
		{NotPermitted, Permanent, 550, 7, 1, "forbidden", "auth", "not permitted"},
		{NotAuthorized, Permanent, 550, 7, 1, "not-authorized", "auth", "sender is not authorised"},
		{SubscriptionNeeded, Permanent, 550, 7, 1, "subscription-required", "auth", "recipient has not permitted this sender"},
		{TooLarge, Permanent, 552, 3, 4, "policy-violation", "modify", "message is too large"},
		{NotAcceptable, Permanent, 550, 6, 7, "not-acceptable", "modify", "next hop cannot take non-ASCII addresses"},
		{NoConversion, Permanent, 554, 6, 3, "not-acceptable", "modify", "next hop cannot take this content unchanged"},
		{TLSRequired, Permanent, 550, 7, 30, "policy-violation", "modify", "required TLS cannot be had for the next hop"},
		{Loop, Permanent, 554, 4, 6, "policy-violation", "cancel", "too many hops: the message is looping"},
		{NoSuchDomain, Permanent, 550, 1, 2, "remote-server-not-found", "cancel", "domain does not exist or takes no mail"},
		{Rejected, Permanent, 554, 0, 0, "not-allowed", "cancel", "refused by the next hop"},
		{Expired, Permanent, 554, 4, 7, "gone", "cancel", "could not be delivered in time"},
		{ResourceShort, Temporary, 452, 3, 1, "resource-constraint", "wait", "out of resources, try again later"},
		{Unreachable, Temporary, 451, 4, 1, "remote-server-timeout", "wait", "next hop does not answer"},
		{Conflict, Temporary, 451, 5, 0, "conflict", "cancel", "transfer id is in use for other content"},
		{Malformed, Temporary, 451, 5, 2, "bad-request", "modify", "request does not follow the protocol"},
		{Unavailable, Temporary, 451, 3, 2, "service-unavailable", "cancel", "no mail transport here now"},
		{NotOffered, Temporary, 451, 3, 2, "feature-not-implemented", "cancel", "no mail transport here"},
		{Internal, Temporary, 451, 3, 0, "internal-server-error", "wait", "temporary local problem"},
		{Refused, Temporary, 451, 0, 0, "recipient-unavailable", "wait", "refused for now by the next hop"},
		{Doubtful, InDoubt, 451, 4, 2, "undefined-condition", "wait", "connection lost before the answer: the message may have been taken"},
	}
}

// Failure is the one error that crosses parts. Make it with Fail, FromReply
// or FromStanza, so that its parts agree.
type Failure struct {
	Row
	Text       string        // safe to show to a peer: one line, printable
	Cause      error         // private: for the log only
	RetryAfter time.Duration // 0 when not told
	Remote     string        // who refused, when it was not us: a host or domain
}

// Fail makes a failure of a kind. Text "" stands for the row's own meaning.
func Fail(kind Kind, text string, cause error) *Failure {
	row := rowOf(kind)
	if text == "" {
		text = row.Meaning
	}
	return &Failure{Row: row, Text: Sanitise(text), Cause: cause}
}

// Failf is Fail without a cause and with a formatted text.
func Failf(kind Kind, format string, args ...any) *Failure {
	return Fail(kind, fmt.Sprintf(format, args...), nil)
}

func rowOf(kind Kind) Row {
	for _, r := range Failures() {
		if r.Kind == kind {
			return r
		}
	}
	return rowOf(Internal)
}

// AsFailure finds the Failure in err's chain; any other error is Internal,
// hence temporary, with a text that reveals nothing. nil stays nil.
func AsFailure(err error) *Failure {
	if err == nil {
		return nil
	}
	if f, ok := errors.AsType[*Failure](err); ok {
		return f
	}
	return Fail(Internal, "", err)
}

// Error gives the whole story for a log.
func (f *Failure) Error() string {
	s := string(f.Kind) + ": " + f.Status() + " " + f.Text
	if f.Remote != "" {
		s = f.Remote + ": " + s
	}
	if f.Cause != nil {
		s += ": " + f.Cause.Error()
	}
	return s
}

// Unwrap returns the private cause.
func (f *Failure) Unwrap() error { return f.Cause }

// Status is the enhanced status code (RFC 3463), e.g. "5.1.1".
func (f *Failure) Status() string {
	digit := 4
	if f.Class == Permanent {
		digit = 5
	}
	return fmt.Sprintf("%d.%d.%d", digit, f.Subject, f.Detail)
}

// WithStatus replaces subject and detail by those of an enhanced status code
// whose class agrees with the failure's; any other is ignored.
func (f *Failure) WithStatus(status string) *Failure {
	class, rest, _ := strings.Cut(status, ".")
	subject, detail, ok := strings.Cut(rest, ".")
	if !ok || class != f.Status()[:1] {
		return f
	}
	s, err1 := parseStatusPart(subject)
	d, err2 := parseStatusPart(detail)
	if err1 == nil && err2 == nil {
		f.Subject, f.Detail = s, d
	}
	return f
}

func parseStatusPart(s string) (int, error) {
	if len(s) == 0 || len(s) > 3 || strings.Trim(s, "0123456789") != "" {
		return 0, errors.New("not a status part")
	}
	return strconv.Atoi(s)
}

// FromReply makes the Failure for a negative SMTP reply of a next hop
// (RFC 5321 section 4.2.1): 5xx is permanent, anything else temporary. status
// may be "". remote names the next hop.
func FromReply(remote string, code int, status, text string) *Failure {
	f := Fail(Refused, text, nil)
	if code >= 500 && code <= 599 {
		f = Fail(kindOfStatus(status), text, nil)
	}
	if code >= 400 && code <= 599 {
		f.Code = code
	}
	f.Remote = remote
	return f.WithStatus(status)
}

// kindOfStatus finds the row for a next hop's permanent refusal, so that the
// XMPP side gets the fitting condition.
func kindOfStatus(status string) Kind {
	switch status {
	case "5.1.1", "5.1.6", "5.1.10", "5.2.1":
		return NoSuchMailbox
	case "5.1.3":
		return BadAddress
	case "5.7.1":
		return NotPermitted
	case "5.3.4", "5.2.3":
		return TooLarge
	case "5.6.7":
		return NotAcceptable
	}
	return Rejected
}

// FromStanza makes the Failure for a stanza error of a peer: the row of its
// condition, tooLarge telling apart the rows of policy-violation, and the
// enhanced status where its class agrees. Unknown conditions are temporary.
func FromStanza(remote, condition, status, text string, tooLarge bool, retryAfter time.Duration) *Failure {
	kind := Internal
	for _, r := range Failures() {
		if r.Condition == condition && r.Class != InDoubt {
			kind = r.Kind
			break
		}
	}
	if kind == TooLarge && !tooLarge {
		kind = NotPermitted
	}
	for _, r := range Failures() { // a row told apart by its status alone
		if r.Condition == condition && r.Class == Permanent && status == fmt.Sprintf("5.%d.%d", r.Subject, r.Detail) && (r.Kind != TooLarge || tooLarge) {
			kind = r.Kind
		}
	}
	f := Fail(kind, text, nil)
	f.Remote, f.RetryAfter = remote, max(0, min(retryAfter, 24*time.Hour))
	return f.WithStatus(status)
}

// maxText bounds what of a remote's text we keep, in octets.
const maxText = 400

// Sanitise makes a text from anywhere fit for one line of a reply, a stanza
// or a log: valid UTF-8, no control or line-separating characters, runs of
// them and of white space one space, at most 400 octets.
func Sanitise(s string) string {
	var b strings.Builder
	space := false
	for _, r := range s {
		if b.Len() >= maxText {
			break
		}
		if r == utf8.RuneError || unicode.IsSpace(r) || !unicode.IsPrint(r) {
			space = b.Len() > 0
			continue
		}
		if space {
			b.WriteByte(' ')
			space = false
		}
		b.WriteRune(r)
	}
	return b.String()
}
