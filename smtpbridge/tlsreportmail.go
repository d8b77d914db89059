package smtpbridge

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"net/url"
	"time"

	"mailxmppd/mail"
)

// mailReport writes a report as a message to one "mailto:" URI (RFC 8460 section
// 5.3).
func mailReport(who Reporter, r Report, domain, target string, now time.Time) (*mail.Message, error) {
	from, err := mail.ParseAddress(who.Contact)
	if err != nil {
		return nil, fmt.Errorf("tls reports are sent from: %w", err)
	}
	to, err := reportAddress(target)
	if err != nil {
		return nil, err
	}
	id := mail.NewID()
	boundary := "report-" + string(id)
	var b bytes.Buffer
	fmt.Fprintf(&b, "From: <%s>\r\nTo: <%s>\r\n", from, to)
	fmt.Fprintf(&b, "Date: %s\r\nMessage-ID: <%s@%s>\r\n", now.UTC().Format(time.RFC1123Z), id, who.Domain)
	fmt.Fprintf(&b, "Subject: Report Domain: %s\r\n\tSubmitter: %s\r\n\tReport-ID: <%s>\r\n", domain, who.Domain, r.ID)
	fmt.Fprintf(&b, "TLS-Report-Domain: %s\r\nTLS-Report-Submitter: %s\r\n", domain, who.Domain)
	// It tells of broken TLS, and must arrive despite it (RFC 8460 section 3, RFC
	// 8689 section 5).
	b.WriteString("TLS-Required: No\r\nAuto-Submitted: auto-generated\r\nMIME-Version: 1.0\r\n")
	fmt.Fprintf(&b, "Content-Type: multipart/report; report-type=\"tlsrpt\";\r\n\tboundary=\"%s\"\r\n\r\n", boundary)
	fmt.Fprintf(&b, "--%s\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\n", boundary)
	fmt.Fprintf(&b, "This is a report on TLS with the mail hosts of\r\n%s,\r\nfrom %s (RFC 8460).\r\n\r\n", domain, who.Domain)
	fmt.Fprintf(&b, "--%s\r\nContent-Type: %s\r\nContent-Transfer-Encoding: base64\r\n", boundary, reportType)
	fmt.Fprintf(&b, "Content-Disposition: attachment;\r\n\tfilename=\"%s\"\r\n\r\n", r.Filename)
	for text := base64.StdEncoding.EncodeToString(r.Gzip); text != ""; {
		n := min(76, len(text))
		b.WriteString(text[:n] + "\r\n")
		text = text[n:]
	}
	fmt.Fprintf(&b, "--%s--\r\n", boundary)

	content := mail.NewBuffer("")
	if _, err := content.Write(b.Bytes()); err != nil {
		content.Close()
		return nil, err
	}
	return &mail.Message{
		Envelope: mail.Envelope{Sender: from, Recipients: []mail.Recipient{{Address: to, Notify: mail.NotifyNever}}},
		Content:  content, Facts: content.Facts(), Origin: mail.Origin{Transport: "local", Remote: "local", Received: now},
	}, nil
}

// reportAddress is the address of a "mailto:" URI.
func reportAddress(target string) (mail.Address, error) {
	u, err := url.Parse(target)
	if err != nil {
		return mail.Address{}, err
	}
	text, err := url.PathUnescape(u.Opaque)
	if err != nil {
		return mail.Address{}, err
	}
	return mail.ParseAddress(text)
}
