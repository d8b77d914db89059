package gateway

import (
	"context"

	"mailxmppd/mail"
)

// Signer signs mail of our own domains. Safe for concurrent use.
type Signer interface {
	// Sign returns header fields to be prepended to a message: its signatures;
	// none where its author is of no domain that signs. An error means that it
	// could not be signed now.
	Sign(ctx context.Context, content mail.Content) (fields string, err error)
}

// sign puts signatures in front of a message of ours that a client with the
// right to it hands over. They go into the trace: the content is not ours to
// change, and a client that comes again makes no twin. A neighbour brings also
// what it forwards for others, whatever that claims in From: for it only what is
// sent from an address of ours is signed, and nothing that it says it had from a
// client of its own (XFORWARD): anybody can give that any reverse-path.
func (e *Entrance) sign(ctx context.Context, c mail.Client, m *mail.Message) *mail.Failure {
	if e.Signer == nil || !e.Sign || !e.trusts(c) {
		return nil
	}
	if _, ours := e.domains[m.Envelope.Sender.Domain]; c.User == "" && (!ours || c.Forwarded != nil && !c.Forwarded.Local()) {
		return nil
	}
	fields, err := e.Signer.Sign(ctx, m.Content)
	if err != nil {
		// Unsigned it could be refused for good by those who ask for signatures.
		return mail.Fail(mail.Internal, "the message could not be signed", err)
	}
	m.Trace = append([]byte(fields), m.Trace...)
	return nil
}

// signedNotice signs a message that the gateway itself has written. A notice
// without a signature is better than none.
func (g *Gateway) signedNotice(content mail.Content) []byte {
	if g.Signer == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), settleTimeout)
	defer cancel()
	fields, err := g.Signer.Sign(ctx, content)
	if err != nil {
		g.Log.Warn("dsn goes unsigned", "err", err)
	}
	return []byte(fields)
}
