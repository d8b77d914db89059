package gateway

import (
	"context"
	"errors"
	"time"

	"mailxmppd/mail"
)

// Notify puts a message of our own to a mailbox of ours into the queue. It has
// a null reverse-path: nobody hears what becomes of it (RFC 3834 section 3.3).
func (g *Gateway) Notify(ctx context.Context, to mail.Address, content []byte) error {
	if _, ours := g.domains[to.Domain]; !ours {
		return errors.New("notification to a mailbox that is not ours")
	}
	buf := mail.NewBuffer(g.TempDir)
	defer buf.Close()
	if _, err := buf.Write(content); err != nil {
		return err
	}
	m := &mail.Message{
		ID: mail.NewID(), Content: buf, Facts: buf.Facts(),
		Envelope: mail.Envelope{Recipients: []mail.Recipient{{Address: to, Notify: mail.NotifyNever}}, SMTPUTF8: !to.IsASCII()},
		Origin:   mail.Origin{Transport: "local", Local: to.Domain, Received: time.Now()},
	}
	if m.Facts.EightBit {
		m.Envelope.Body = mail.Body8BitMIME
	}
	verdicts := g.spool(ctx, incoming{Message: m, transfer: mail.TransferID(mail.Address{}, m.Facts)}, nil)
	if f := verdicts[0].Failure; f != nil {
		return f
	}
	return nil
}

// Exists reports whether a mailbox of ours is there, as far as can be told now.
func (g *Gateway) Exists(ctx context.Context, mailbox mail.Address) bool {
	d, ours := g.domains[mailbox.Domain]
	return ours && g.verifyLocal(ctx, d, mail.Address{}, !mailbox.IsASCII(), []mail.Recipient{{Address: mailbox}})[0] == nil
}
