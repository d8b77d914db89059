package gateway

import (
	"context"
	"errors"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// Notify puts a message of our own to a mailbox of ours into the queue, once for
// an id as long as the queue remembers it. It has a null reverse-path: nobody hears
// what becomes of it (RFC 3834 section 3.3).
func (g *Gateway) Notify(ctx context.Context, id mail.ID, to mail.Address, content []byte) error {
	if _, ours := g.domains[to.Domain]; !ours {
		return errors.New("notification to a mailbox that is not ours")
	}
	buf := mail.NewBuffer(g.TempDir)
	defer buf.Close()
	if _, err := buf.Write(content); err != nil {
		return err
	}
	m := &mail.Message{
		ID: id, Content: buf, Facts: buf.Facts(),
		Envelope: mail.Envelope{Recipients: []mail.Recipient{{Address: to, Notify: mail.NotifyNever}}, SMTPUTF8: !to.IsASCII()},
		Origin:   mail.Origin{Transport: "local", Local: to.Domain, Received: time.Now()},
	}
	if m.Facts.EightBit {
		m.Envelope.Body = mail.Body8BitMIME
	}
	in := incoming{Message: m, transfer: mail.TransferID(mail.Address{}, m.Facts)}
	// Without a lease: the first call for this id may be delivering it still.
	if _, err := g.Store.PutMessage(ctx, g.newMessage(in, nil, store.Own{})); err != nil {
		return g.storeFailure(err)
	}
	g.logAccepted(in)
	return nil
}

// Exists reports whether a mailbox of ours is there. An error means that it cannot
// be told now.
func (g *Gateway) Exists(ctx context.Context, mailbox mail.Address) (bool, error) {
	d, ours := g.domains[mailbox.Domain]
	if !ours {
		return false, nil
	}
	f := g.verifyLocal(ctx, d, mail.Address{}, !mailbox.IsASCII(), []mail.Recipient{{Address: mailbox}})[0]
	if f != nil && f.Class != mail.Permanent {
		return false, f
	}
	return f == nil, nil
}
