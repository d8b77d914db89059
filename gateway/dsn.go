package gateway

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"strings"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// maxReturned bounds what a DSN returns of the message where the sender asked
// for all of it (RET=FULL); above that only the header goes back.
const maxReturned = 1 << 20

// report is one recipient's part of a DSN.
type report struct {
	recipient mail.Recipient
	result    store.Result
	delivery  store.Delivery
}

// dsn makes the report (RFC 3464) that the sender of a lease's message is to
// get about some of its recipients: action is "failed" or "delayed". It is nil
// where none is to be sent: no reports, or a null reverse-path (RFC 5321
// section 6.1). The caller closes its content.
func (g *Gateway) dsn(l store.Lease, content mail.Content, action string, reports []report) (*store.NewMessage, error) {
	if len(reports) == 0 || l.Envelope.Sender.IsNull() {
		return nil, nil
	}
	local := g.reporter(l)
	m := mail.Message{
		ID: mail.NewID(),
		Envelope: mail.Envelope{
			Recipients: []mail.Recipient{{Address: l.Envelope.Sender, Notify: mail.NotifyNever}},
			SMTPUTF8:   l.Envelope.SMTPUTF8 || !l.Envelope.Sender.IsASCII(),
		},
		Origin: mail.Origin{Transport: "local", Local: local, Received: time.Now()},
	}
	buf := mail.NewBuffer(g.TempDir)
	if err := g.writeDSN(buf, m, l, content, action, reports); err != nil {
		buf.Close()
		return nil, fmt.Errorf("dsn for %s: %w", l.ID, err)
	}
	m.Content, m.Facts = buf, buf.Facts()
	if m.Facts.EightBit {
		m.Envelope.Body = mail.Body8BitMIME
	}
	return &store.NewMessage{Message: m, Transfer: mail.TransferID(mail.Address{}, m.Facts), Lifetime: g.Lifetime}, nil
}

// reporter is the domain of ours that speaks in a DSN: the recipients' if it
// is ours, else the sender's, else the first one.
func (g *Gateway) reporter(l store.Lease) string {
	for _, domain := range []string{l.Domain, l.Envelope.Sender.Domain} {
		if _, ours := g.domains[domain]; ours {
			return domain
		}
	}
	return g.fallbackDomain()
}

func (g *Gateway) writeDSN(w io.Writer, m mail.Message, l store.Lease, content mail.Content, action string, reports []report) error {
	boundary := "=_" + string(m.ID)
	b := bufio.NewWriter(w)
	g.writeDSNHeader(b, m, boundary, action)
	g.writeDSNText(b, boundary, l, action, reports)
	g.writeDSNStatus(b, m, boundary, l, action, reports)
	if err := writeReturned(b, m, boundary, l, content); err != nil {
		return err
	}
	fmt.Fprintf(b, "\r\n--%s--\r\n", boundary)
	return b.Flush()
}

func (g *Gateway) writeDSNHeader(b *bufio.Writer, m mail.Message, boundary, action string) {
	subject := map[string]string{"failed": "Undelivered mail returned to sender", "delayed": "Delivery of your mail is delayed"}[action]
	fmt.Fprintf(b, "From: Mail Delivery System <MAILER-DAEMON@%s>\r\n", m.Origin.Local)
	fmt.Fprintf(b, "To: %s\r\n", m.Envelope.Recipients[0].Address)
	fmt.Fprintf(b, "Subject: %s\r\n", subject)
	fmt.Fprintf(b, "Date: %s\r\n", m.Origin.Received.UTC().Format(time.RFC1123Z))
	fmt.Fprintf(b, "Message-ID: <%s@%s>\r\n", m.ID, g.Hostname)
	fmt.Fprintf(b, "Auto-Submitted: auto-replied\r\n")
	fmt.Fprintf(b, "MIME-Version: 1.0\r\n")
	fmt.Fprintf(b, "Content-Type: multipart/report; report-type=%s;\r\n\tboundary=\"%s\"\r\n\r\n", statusType(m), boundary)
}

// statusType is the MIME subtype of the machine-readable part, in the form of
// RFC 6533 where the addresses may be UTF-8.
func statusType(m mail.Message) string {
	if m.Envelope.SMTPUTF8 {
		return "global-delivery-status"
	}
	return "delivery-status"
}

func (g *Gateway) writeDSNText(b *bufio.Writer, boundary string, l store.Lease, action string, reports []report) {
	fmt.Fprintf(b, "--%s\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n", boundary)
	fmt.Fprintf(b, "This is the mail system at %s.\r\n\r\n", g.Hostname)
	if action == "failed" {
		b.WriteString("Your message could not be delivered to the following recipients.\r\nNo further attempt will be made.\r\n\r\n")
	} else {
		fmt.Fprintf(b, "Your message has been waiting for %s and has not yet been delivered to\r\nthe following recipients. Further attempts will be made; you need not\r\nsend it again.\r\n\r\n", l.Age.Round(time.Minute))
	}
	for _, r := range reports {
		text := r.result.Outcome.Failure.Text
		if by := r.result.Outcome.Failure.Remote; by != "" {
			text = by + " said: " + text
		}
		fmt.Fprintf(b, "%s\r\n    %s\r\n", r.recipient.Address.Path(), text)
		if r.delivery.InDoubt {
			b.WriteString("    An earlier attempt ended without an answer: the message may have been\r\n    delivered all the same.\r\n")
		}
	}
	b.WriteString("\r\n")
}

// writeDSNStatus writes the machine-readable part (RFC 3464 section 2).
func (g *Gateway) writeDSNStatus(b *bufio.Writer, m mail.Message, boundary string, l store.Lease, action string, reports []report) {
	fmt.Fprintf(b, "--%s\r\nContent-Type: message/%s\r\n", boundary, statusType(m))
	if m.Envelope.SMTPUTF8 {
		b.WriteString("Content-Transfer-Encoding: 8bit\r\n")
	}
	fmt.Fprintf(b, "\r\nReporting-MTA: dns; %s\r\n", g.Hostname)
	if id := l.Envelope.EnvelopeID; id != "" {
		fmt.Fprintf(b, "Original-Envelope-Id: %s\r\n", oneLine(id))
	}
	if !l.Origin.Received.IsZero() {
		fmt.Fprintf(b, "Arrival-Date: %s\r\n", l.Origin.Received.UTC().Format(time.RFC1123Z))
	}
	for _, r := range reports {
		f := r.result.Outcome.Failure
		b.WriteString("\r\n")
		if r.recipient.Original != "" {
			fmt.Fprintf(b, "Original-Recipient: %s\r\n", oneLine(r.recipient.Original))
		}
		fmt.Fprintf(b, "Final-Recipient: %s; %s\r\n", addressType(r.recipient.Address), r.recipient.Address)
		fmt.Fprintf(b, "Action: %s\r\nStatus: %s\r\n", action, f.Status())
		if f.Remote != "" {
			fmt.Fprintf(b, "Remote-MTA: dns; %s\r\n", oneLine(f.Remote))
		}
		fmt.Fprintf(b, "Diagnostic-Code: %s\r\n", diagnostic(r.result.Outcome))
		if action == "delayed" {
			fmt.Fprintf(b, "Will-Retry-Until: %s\r\n", time.Now().Add(r.delivery.Left).UTC().Format(time.RFC1123Z))
		}
	}
	b.WriteString("\r\n")
}

// diagnostic names the transport's own words for a failure: a stanza error
// where the outcome came over a stream with a proof, else an SMTP reply.
func diagnostic(o mail.Outcome) string {
	f := o.Failure
	if f.Remote != "" && o.Proof != "" {
		return fmt.Sprintf("xmpp; %s (%s)", f.Condition, oneLine(f.Text))
	}
	return fmt.Sprintf("smtp; %d %s %s", f.Code, f.Status(), oneLine(f.Text))
}

func addressType(a mail.Address) string {
	if a.IsASCII() {
		return "rfc822"
	}
	return "utf-8"
}

// oneLine makes a value safe for one line of a DSN field.
func oneLine(s string) string {
	return strings.NewReplacer("\r", " ", "\n", " ").Replace(mail.Sanitise(s))
}

// writeReturned writes the third part: the header of the message, or all of
// it where RET=FULL asks for it, it is not too large and it can be carried in
// lines.
func writeReturned(b *bufio.Writer, m mail.Message, boundary string, l store.Lease, content mail.Content) error {
	full := l.Envelope.Return == "FULL" && l.Facts.Size <= maxReturned && !l.Facts.Null
	rc, err := content.Open()
	if err != nil {
		return err
	}
	defer rc.Close()
	source := io.MultiReader(bytes.NewReader(l.Trace), rc)
	var data []byte
	if full {
		data, err = io.ReadAll(source)
	} else {
		data, err = headerOnly(source)
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(b, "--%s\r\nContent-Type: %s\r\n", boundary, returnedType(m, full))
	writeBody(b, data)
	return nil
}

func returnedType(m mail.Message, full bool) string {
	switch utf8 := m.Envelope.SMTPUTF8; {
	case full && utf8:
		return "message/global" // RFC 6532 section 3.7
	case full:
		return "message/rfc822"
	case utf8:
		return "message/global-headers" // RFC 6533 section 6.3
	}
	return "text/rfc822-headers" // RFC 6522 section 4
}

// writeBody writes the encoding field, the empty line and the octets: as they
// are, or in base64 where there is a NUL, which only a header can still have
// here.
func writeBody(b *bufio.Writer, data []byte) {
	switch {
	case bytes.IndexByte(data, 0) >= 0:
		b.WriteString("Content-Transfer-Encoding: base64\r\n\r\n")
		for len(data) > 0 {
			n := min(57, len(data))
			b.WriteString(base64.StdEncoding.EncodeToString(data[:n]) + "\r\n")
			data = data[n:]
		}
		return
	case bytes.ContainsFunc(data, func(r rune) bool { return r >= 0x80 }):
		b.WriteString("Content-Transfer-Encoding: 8bit\r\n")
	}
	b.WriteString("\r\n")
	b.Write(data)
	if !bytes.HasSuffix(data, []byte("\r\n")) {
		b.WriteString("\r\n")
	}
}

// maxHeaderReturned bounds the header that a DSN returns.
const maxHeaderReturned = 64 << 10

// headerOnly reads up to the empty line, or the first 64 KiB, to a line's end.
func headerOnly(r io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxHeaderReturned))
	if err != nil {
		return nil, err
	}
	if i := bytes.Index(data, []byte("\r\n\r\n")); i >= 0 {
		return data[:i+2], nil
	}
	if i := bytes.LastIndex(data, []byte("\r\n")); i >= 0 {
		return data[:i+2], nil
	}
	return nil, nil
}
