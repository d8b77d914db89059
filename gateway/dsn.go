package gateway

import (
	"bufio"
	"fmt"
	"io"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// report is one recipient's part of a DSN.
type report struct {
	recipient mail.Recipient
	result    store.Result
	delivery  store.Delivery
}

// notice is what a DSN (RFC 3464) is made of.
type notice struct {
	action  string // of RFC 3464 section 2.3.3: "failed", "delayed", "relayed", "expanded" or "delivered"
	lease   store.Lease
	content mail.Content // nil: nothing of the message goes back
	way     way          // that was tried
	reports []report
}

// withDSNs adds to a settlement the DSNs that follow from its results. A report
// of failure that cannot be made keeps its recipients out of the settlement:
// their lease runs out and they come again. The others are settled all the
// same, since over SMTP they would get a twin. closeDSNs frees them.
func (g *Gateway) withDSNs(s store.Settlement, content mail.Content, by way) store.Settlement {
	failed := notice{action: "failed", lease: s.Lease, content: content, way: by}
	delayed := notice{action: "delayed", lease: s.Lease, content: content, way: by}
	delivered := notice{action: "delivered", lease: s.Lease, content: content, way: by}
	relayed := notice{action: "relayed", lease: s.Lease, content: content, way: by}
	for i, d := range s.Lease.Deliveries {
		r := report{s.Lease.Envelope.Recipients[d.N], s.Results[i], d}
		switch state := r.result.State; {
		case (state == store.Bounced || state == store.ExpiredSt) && r.recipient.WantsFailure():
			failed.reports = append(failed.reports, r)
		case r.result.Delayed:
			delayed.reports = append(delayed.reports, r)
		case state == store.Delivered:
			success := successAction(r)
			if success == "delivered" {
				delivered.reports = append(delivered.reports, r)
			} else if success == "relayed" {
				relayed.reports = append(relayed.reports, r)
			}
		}
	}
	if m, err := g.dsn(failed); err != nil {
		g.Log.Error("dsn not made, its recipients are tried again", "id", s.Lease.ID, "err", err)
		s = without(s, failed.reports)
	} else if m != nil {
		s.DSNs = append(s.DSNs, *m)
	}
	if m, err := g.dsn(delayed); err != nil {
		g.Log.Error("dsn not made", "id", s.Lease.ID, "err", err)
		for i := range s.Results {
			s.Results[i].Delayed = false // the next delay tells
		}
	} else if m != nil {
		s.DSNs = append(s.DSNs, *m)
	}
	for _, n := range []notice{delivered, relayed} {
		if m, err := g.dsn(n); err != nil {
			g.Log.Error("dsn not made, its sender does not hear of the success", "id", s.Lease.ID, "err", err)
		} else if m != nil {
			s.DSNs = append(s.DSNs, *m)
		}
	}
	return s
}

// successAction says what a delivered recipient's sender is to hear from us:
// nothing where success was not asked for or the next hop took the asking over
// (RFC 3461 section 5.2).
func successAction(r report) string {
	o := r.result.Outcome
	switch {
	case r.recipient.WantsSuccess() && o.Final:
		return "delivered"
	case r.recipient.WantsSuccess() && o.Relayed, o.Undated && r.recipient.Notify != mail.NotifyNever:
		return "relayed"
	}
	return ""
}

// without is the settlement of those deliveries that are not reported on.
func without(s store.Settlement, reports []report) store.Settlement {
	out := map[int]bool{}
	for _, r := range reports {
		out[r.delivery.N] = true
	}
	rest := store.Settlement{Lease: s.Lease}
	rest.Lease.Deliveries = nil
	for i, d := range s.Lease.Deliveries {
		if !out[d.N] {
			rest.Lease.Deliveries = append(rest.Lease.Deliveries, d)
			rest.Results = append(rest.Results, s.Results[i])
		}
	}
	return rest
}

func closeDSNs(s store.Settlement) { closeMessages(s.DSNs) }

// closeMessages frees the contents of what was made here.
func closeMessages(all []store.NewMessage) {
	for _, m := range all {
		if c, ok := m.Content.(io.Closer); ok {
			c.Close()
		}
	}
}

// dsn makes the message. It is nil where none is to be sent: no reports, or a
// null reverse-path (RFC 5321 section 6.1).
func (g *Gateway) dsn(n notice) (*store.NewMessage, error) {
	if len(n.reports) == 0 || n.lease.Envelope.Sender.IsNull() {
		return nil, nil
	}
	m, err := g.writeDSN(n)
	if err != nil && n.content != nil {
		// The third part is optional (RFC 6522 section 3), the news is not.
		g.Log.Warn("message not returned with its dsn", "id", n.lease.ID, "err", err)
		n.content = nil
		m, err = g.writeDSN(n)
	}
	if err != nil {
		return nil, fmt.Errorf("dsn for %s: %w", n.lease.ID, err)
	}
	return m, nil
}

func (g *Gateway) writeDSN(n notice) (*store.NewMessage, error) {
	env := n.lease.Envelope
	m := mail.Message{
		ID: mail.NewID(),
		Envelope: mail.Envelope{
			Recipients: []mail.Recipient{{Address: env.Sender, Notify: mail.NotifyNever}},
			SMTPUTF8:   env.SMTPUTF8 || !env.Sender.IsASCII(),
			RequireTLS: env.RequireTLS, // RFC 8689 section 5: it tells of the message
		},
		Origin: mail.Origin{Transport: "local", Local: g.reporter(n.lease), Received: time.Now()},
	}
	boundary := "=_" + string(m.ID)
	buf := mail.NewBuffer(g.TempDir)
	b := bufio.NewWriter(buf)
	g.writeDSNHeader(b, m, boundary, n.action)
	g.writeDSNText(b, boundary, n)
	g.writeDSNStatus(b, m, boundary, n)
	err := writeReturned(b, m, boundary, n)
	fmt.Fprintf(b, "\r\n--%s--\r\n", boundary)
	if err == nil {
		err = b.Flush()
	}
	if err != nil {
		buf.Close()
		return nil, err
	}
	m.Content, m.Facts = buf, buf.Facts()
	m.Trace = g.signedNotice(buf)
	if m.Facts.EightBit {
		m.Envelope.Body = mail.Body8BitMIME
	}
	return &store.NewMessage{Message: m, Transfer: mail.TransferID(mail.Address{}, m.Facts), Lifetime: g.Lifetime, First: g.sched.firstTurns(&m, nil)}, nil
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

func (g *Gateway) writeDSNHeader(b *bufio.Writer, m mail.Message, boundary, action string) {
	subject := map[string]string{
		"failed": "Undelivered mail returned to sender", "delayed": "Delivery of your mail is delayed",
		"delivered": "Your mail was delivered", "relayed": "Your mail was passed on",
		"expanded": "Your mail was handed to several mailboxes",
	}[action]
	fmt.Fprintf(b, "From: Mail Delivery System <MAILER-DAEMON@%s>\r\n", m.Origin.Local)
	fmt.Fprintf(b, "To: %s\r\n", m.Envelope.Recipients[0].Address)
	fmt.Fprintf(b, "Subject: %s\r\n", subject)
	fmt.Fprintf(b, "Date: %s\r\n", m.Origin.Received.UTC().Format(time.RFC1123Z))
	fmt.Fprintf(b, "Message-ID: <%s@%s>\r\n", m.ID, g.Hostname)
	fmt.Fprintf(b, "Auto-Submitted: auto-replied\r\n")
	fmt.Fprintf(b, "MIME-Version: 1.0\r\n")
	// What a part declares, the whole must too (RFC 2045 section 6.4).
	fmt.Fprintf(b, "Content-Transfer-Encoding: 8bit\r\n")
	fmt.Fprintf(b, "Content-Type: multipart/report; report-type=%s;\r\n\tboundary=\"%s\"\r\n\r\n", statusType(m), boundary)
}

func (g *Gateway) writeDSNText(b *bufio.Writer, boundary string, n notice) {
	fmt.Fprintf(b, "--%s\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n", boundary)
	fmt.Fprintf(b, "This is the mail system at %s.\r\n\r\n", g.Hostname)
	switch n.action {
	case "failed":
		b.WriteString("Your message could not be delivered to the following recipients.\r\nNo further attempt will be made.\r\n\r\n")
	case "delayed":
		fmt.Fprintf(b, "Your message has been waiting for %s and has not yet been delivered to\r\nthe following recipients. Further attempts will be made; you need not\r\nsend it again.\r\n\r\n", n.lease.Age.Round(time.Minute))
	case "delivered":
		b.WriteString("Your message was delivered to the following recipients.\r\n\r\n")
	case "expanded":
		b.WriteString("Your message was handed on to the mailboxes that the following addresses\r\nstand for. You will hear of those only that it cannot be delivered to.\r\n\r\n")
	case "relayed":
		b.WriteString("Your message was passed on for the following recipients to a mail system\r\nthat will not report their delivery.\r\n\r\n")
	}
	for _, r := range n.reports {
		o := r.result.Outcome
		text, by := o.Text, o.Remote
		if o.Failure != nil {
			text, by = o.Failure.Text, o.Failure.Remote
		}
		if text = oneLine(text); by != "" {
			text = oneLine(by) + " said: " + text
		}
		fmt.Fprintf(b, "%s\r\n    %s\r\n", r.recipient.Address.Path(), text)
		if r.delivery.InDoubt {
			b.WriteString("    An earlier attempt ended without an answer: the message may have been\r\n    delivered all the same.\r\n")
		}
	}
	b.WriteString("\r\n")
}
