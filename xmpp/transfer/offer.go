package transfer

import (
	"encoding/base64"
	"slices"
	"strings"
	"time"
	"unicode"

	"mailxmppd/mail"
	"mailxmppd/xmpp/wire"
)

// rcpt is a recipient as a request names it.
type rcpt struct {
	to  string // as written
	bad *mail.Failure
	mail.Recipient
}

// offer is one offered message (xep-draft section 5.2).
type offer struct {
	tid     string
	size    int64
	sum     [32]byte
	hops    int
	env     mail.Envelope // without recipients
	rcpts   []rcpt
	trace   []byte
	inline  bool
	content []byte // when inline, in the memory of lent
	lent    *wire.Element
}

// encodeOffer writes all of o up to its content, which the caller adds with
// addContent or leaves out.
func encodeOffer(e *wire.Encoder, o *offer, now time.Time) {
	e.Start("offer", Namespace)
	e.Attr("tid", o.tid)
	e.AttrInt("size", o.size)
	e.Attr("sha-256", base64.StdEncoding.EncodeToString(o.sum[:]))
	e.Attr("sender", o.env.Sender.String())
	e.AttrInt("hops", int64(o.hops))
	optional(e, "body", string(o.env.Body))
	optionalTrue(e, "smtputf8", o.env.SMTPUTF8)
	optionalTrue(e, "requiretls", o.env.RequireTLS)
	optional(e, "ret", o.env.Return)
	optional(e, "envid", o.env.EnvelopeID)
	if by := o.env.DeliverBy; by != nil {
		e.AttrInt("by", secondsLeft(by.Deadline, now))
		e.Attr("by-mode", string(by.Mode))
		optionalTrue(e, "by-trace", by.Trace)
	}
	if o.env.Priority != nil {
		e.AttrInt("priority", int64(*o.env.Priority))
	}
	for _, r := range o.rcpts {
		e.Start("rcpt", "")
		e.Attr("to", r.Address.String())
		optional(e, "notify", strings.Join(r.Notify.Names(), " "))
		optional(e, "orcpt", r.Original)
		optional(e, "grant", base64.StdEncoding.EncodeToString([]byte(r.Grant)))
		e.End()
	}
	if len(o.trace) > 0 {
		e.Start("trace", "")
		e.Base64(o.trace)
		e.End()
	}
}

func addContent(e *wire.Encoder, content []byte) {
	e.Start("content", "")
	e.Base64(content)
	e.End()
}

func optional(e *wire.Encoder, name, value string) {
	if value != "" {
		e.Attr(name, value)
	}
}

func optionalTrue(e *wire.Encoder, name string, value bool) {
	if value {
		e.Attr(name, "true")
	}
}

// secondsLeft is what DELIVERBY says on the wire (RFC 2852 section 4): whole
// seconds, at most nine digits.
func secondsLeft(deadline, now time.Time) int64 {
	const most = 999999999
	return max(-most, min(most, int64(deadline.Sub(now).Round(time.Second)/time.Second)))
}

// decodeOffer reads an offer. The recipients' own mistakes are kept with them.
func decodeOffer(e *wire.Element, now time.Time) (*offer, *mail.Failure) {
	r := &reader{}
	r.only(e, "tid size sha-256 sender hops body smtputf8 requiretls ret envid by by-mode by-trace priority",
		"rcpt", "trace", "content")
	o := &offer{tid: r.tid(e), size: r.count(e, "size"), hops: int(min(r.count(e, "hops"), mail.MaxHops+1))}
	if sum, err := base64.StdEncoding.Strict().DecodeString(e.Attr("sha-256")); err != nil || len(sum) != len(o.sum) {
		r.fail("offer: sha-256 is not the base64 form of 32 octets")
	} else {
		copy(o.sum[:], sum)
	}
	o.env = mail.Envelope{
		Sender:     r.sender(e),
		Body:       mail.BodyType(r.word(e, "body", "7BIT", "8BITMIME", "BINARYMIME")),
		SMTPUTF8:   r.flag(e, "smtputf8"),
		RequireTLS: r.flag(e, "requiretls"),
		Return:     r.word(e, "ret", "FULL", "HDRS"),
		EnvelopeID: r.printable(e, "envid", 100),
		DeliverBy:  r.deliverBy(e, now),
		Priority:   r.priority(e),
	}
	o.rcpts = r.rcpts(e, "to notify orcpt grant")
	if t := r.one(e, "trace"); t != nil {
		o.trace = r.trace(t)
	}
	if c := r.one(e, "content"); c != nil {
		r.only(c, "")
		content, err := c.Base64()
		if err != nil {
			r.fail("content: not base64")
		}
		o.inline, o.content, o.lent = true, content, c
	}
	return o, r.err
}

// sender reads a reverse-path; unlike a recipient's, its mistake fails the
// request.
func (r *reader) sender(e *wire.Element) mail.Address {
	if !e.HasAttr("sender") {
		r.fail("%s: no sender", e.Name.Local)
	}
	v := e.Attr("sender")
	if v == "" {
		return mail.Address{}
	}
	a, err := mail.ParseAddress(v)
	if err == nil && a.Domain == "" {
		r.fail("%s: sender without a domain", e.Name.Local)
	}
	if err != nil && r.err == nil {
		r.err = mail.Fail(mail.BadAddress, "sender is not a mailbox", err)
	}
	return a
}

// rcpts reads the recipients of a request: at least one, none twice.
func (r *reader) rcpts(e *wire.Element, attrs string) []rcpt {
	var out []rcpt
	seen := map[mail.Address]bool{}
	for _, c := range e.Children {
		if !c.Is(Namespace, "rcpt") {
			continue
		}
		r.only(c, attrs)
		rc := rcpt{to: c.Attr("to")}
		rc.Notify = r.notify(c)
		rc.Original = r.printable(c, "orcpt", 500)
		rc.Grant = string(r.key(c, "grant"))
		a, err := mail.ParseAddress(rc.to)
		switch {
		case err != nil:
			rc.bad = mail.Fail(mail.BadAddress, "", err)
		case seen[a]:
			r.fail("%s: a recipient is named twice", e.Name.Local)
		}
		seen[a] = err == nil
		rc.Address = a
		out = append(out, rc)
	}
	if len(out) == 0 {
		r.fail("%s: no recipient", e.Name.Local)
	}
	return out
}

func (r *reader) notify(e *wire.Element) mail.Notify {
	n, ok := mail.ParseNotify(strings.Fields(e.Attr("notify")))
	if !ok || n == 0 && e.HasAttr("notify") {
		r.fail("rcpt: notify is not a list of NEVER, or of SUCCESS, FAILURE and DELAY")
	}
	return n
}

// printable reads an optional value of printable characters (RFC 3461
// section 4.2 and 4.4): it will stand in an SMTP command and in a DSN.
func (r *reader) printable(e *wire.Element, attr string, most int) string {
	v := e.Attr(attr)
	if len(v) > most || strings.ContainsFunc(v, func(c rune) bool { return !unicode.IsPrint(c) }) || e.HasAttr(attr) && v == "" {
		r.fail("%s: %s is not 1 to %d printable characters", e.Name.Local, attr, most)
	}
	return v
}

func (r *reader) deliverBy(e *wire.Element, now time.Time) *mail.DeliverBy {
	if !e.HasAttr("by") {
		if e.HasAttr("by-mode") || e.HasAttr("by-trace") {
			r.fail("offer: by-mode or by-trace without by")
		}
		return nil
	}
	digits, negative := strings.CutPrefix(e.Attr("by"), "-")
	n, ok := parseCount(digits)
	mode := e.Attr("by-mode")
	// RFC 2852 section 4: at most nine digits; with R only what is above zero.
	if !ok || len(digits) > 9 || mode != "N" && mode != "R" || mode == "R" && (negative || n == 0) {
		r.fail("offer: by is not a number of seconds with by-mode N, or R and more than none")
		return nil
	}
	if negative {
		n = -n
	}
	return &mail.DeliverBy{Deadline: now.Add(time.Duration(n) * time.Second), Mode: mode[0], Trace: r.flag(e, "by-trace")}
}

func (r *reader) priority(e *wire.Element) *int {
	if !e.HasAttr("priority") {
		return nil
	}
	digits, negative := strings.CutPrefix(e.Attr("priority"), "-")
	n, ok := parseCount(digits)
	if !ok || n > 9 {
		r.fail("offer: priority is not between -9 and 9")
		return nil
	}
	p := int(n)
	if negative {
		p = -p
	}
	return &p
}

func (r *reader) trace(e *wire.Element) []byte {
	r.only(e, "")
	if len(e.Text) > base64.StdEncoding.EncodedLen(maxTrace) {
		r.fail("trace: longer than %d octets", maxTrace)
		return nil
	}
	p, err := wire.DecodeBase64(nil, e.Text)
	if err != nil {
		r.fail("trace: not base64")
		return nil
	}
	if err := checkTrace(p); err != nil {
		r.fail("%s", err.Error())
	}
	return slices.Clip(p)
}
