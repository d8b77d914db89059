package gateway

import (
	"bufio"
	"fmt"
	"strings"
	"time"

	"mailxmppd/mail"
)

// statusType is the MIME subtype of the machine-readable part, in the form of
// RFC 6533 where the addresses may be UTF-8.
func statusType(m mail.Message) string {
	if m.Envelope.SMTPUTF8 {
		return "global-delivery-status"
	}
	return "delivery-status"
}

// writeDSNStatus writes the machine-readable part (RFC 3464 section 2).
func (g *Gateway) writeDSNStatus(b *bufio.Writer, m mail.Message, boundary string, n notice) {
	utf8 := m.Envelope.SMTPUTF8
	fmt.Fprintf(b, "--%s\r\nContent-Type: message/%s\r\n", boundary, statusType(m))
	if utf8 {
		b.WriteString("Content-Transfer-Encoding: 8bit\r\n")
	}
	fmt.Fprintf(b, "\r\nReporting-MTA: dns; %s\r\n", g.Hostname)
	if id := n.lease.Envelope.EnvelopeID; id != "" {
		fmt.Fprintf(b, "Original-Envelope-Id: %s\r\n", fieldText(id, utf8))
	}
	if !n.lease.Origin.Received.IsZero() {
		fmt.Fprintf(b, "Arrival-Date: %s\r\n", n.lease.Origin.Received.UTC().Format(time.RFC1123Z))
	}
	for _, r := range n.reports {
		f := r.result.Outcome.Failure
		b.WriteString("\r\n")
		if r.recipient.Original != "" {
			fmt.Fprintf(b, "Original-Recipient: %s\r\n", addressText(r.recipient.Original, utf8))
		}
		fmt.Fprintf(b, "Final-Recipient: %s; %s\r\n", addressType(r.recipient.Address), addressText(r.recipient.Address.String(), utf8))
		status, remote := "2.0.0", r.result.Outcome.Remote
		if f != nil {
			status, remote = f.Status(), f.Remote
		}
		fmt.Fprintf(b, "Action: %s\r\nStatus: %s\r\n", n.action, status)
		if remote != "" {
			fmt.Fprintf(b, "Remote-MTA: dns; %s\r\n", fieldText(remote, utf8))
		}
		if f != nil {
			fmt.Fprintf(b, "Diagnostic-Code: %s\r\n", fieldText(diagnostic(f, n.way), utf8))
		}
		if n.action == "delayed" {
			fmt.Fprintf(b, "Will-Retry-Until: %s\r\n", time.Now().Add(r.delivery.Left).UTC().Format(time.RFC1123Z))
		}
	}
	b.WriteString("\r\n")
}

// diagnostic gives the transport's own words for a failure: an SMTP reply or a
// stanza error, or ours where no next hop said anything. The type "xmpp" is for
// xep-draft's registrar; others that are not registered begin with "X-" (RFC
// 3464 section 2.1.2).
func diagnostic(f *mail.Failure, by way) string {
	switch {
	case f.Remote == "":
		return fmt.Sprintf("X-mailxmppd; %s (%s)", f.Kind, f.Text)
	case by == toPeer:
		return fmt.Sprintf("xmpp; %s (%s)", f.Condition, f.Text)
	}
	return fmt.Sprintf("smtp; %d %s %s", f.Code, f.Status(), f.Text)
}

func addressType(a mail.Address) string {
	if a.IsASCII() {
		return "rfc822"
	}
	return "utf-8"
}

// oneLine makes a value safe for one line.
func oneLine(s string) string { return mail.Sanitise(s) }

// fieldText makes a value safe for a field of the machine-readable part, which
// is ASCII but in its global form.
func fieldText(s string, utf8 bool) string {
	return asciiField(s, utf8, func(rune) string { return "?" })
}

// addressText is fieldText for addresses, of which nothing may get lost: RFC
// 6533 section 3 has a form for other characters.
func addressText(s string, utf8 bool) string {
	return asciiField(s, utf8, func(r rune) string { return fmt.Sprintf(`\x{%X}`, r) })
}

func asciiField(s string, utf8 bool, written func(rune) string) string {
	s = oneLine(s)
	if utf8 {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if r < 0x80 {
			b.WriteRune(r)
		} else {
			b.WriteString(written(r))
		}
	}
	return b.String()
}
