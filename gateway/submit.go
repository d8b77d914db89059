package gateway

import (
	"context"

	"mailxmppd/mail"
)

// Submit takes responsibility for a message of the gateway's own, or says why
// not. The content may be closed after the return.
func (g *Gateway) Submit(ctx context.Context, m *mail.Message) *mail.Failure {
	return g.accept(ctx, mail.Source{Client: mail.Client{ESMTP: true}, Trusted: true}, m, false)[0].Failure
}
