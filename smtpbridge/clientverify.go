package smtpbridge

import (
	"context"

	"mailxmppd/mail"
)

// Verify asks the hop which recipients it would take from sender: MAIL, one
// RCPT each, then RSET. The result has one entry per recipient, nil where the
// hop says yes; a refused sender is every recipient's failure. An error, a
// *mail.Failure, means that the hop could not be asked. Nothing is remembered
// here.
func (c *Client) Verify(ctx context.Context, hop Hop, sender mail.Address, utf8 bool, rcpts []mail.Recipient) ([]*mail.Failure, error) {
	if len(rcpts) == 0 {
		return nil, nil
	}
	env := mail.Envelope{Sender: sender, Recipients: rcpts, SMTPUTF8: utf8}
	var failures []*mail.Failure
	var lost *mail.Failure
	e := errand{hop: hop, domain: rcpts[0].Address.Domain, waived: func() bool { return false }}
	f := c.transact(ctx, e, func(hc *hopConn) (p passage) {
		failures, lost, p.stale = hc.verify(env)
		return p
	})
	switch {
	case f != nil:
		return nil, f
	case lost != nil:
		return nil, lost
	}
	return failures, nil
}

// verify is the dialogue; the RSET is settle's. lost is set where the session
// ended before all replies were there.
func (hc *hopConn) verify(env mail.Envelope) (failures []*mail.Failure, lost *mail.Failure, untouched bool) {
	if f := hc.cannotName(env); f != nil {
		failures = make([]*mail.Failure, len(env.Recipients))
		for i := range failures {
			failures[i] = f
		}
		return failures, nil, false
	}
	t, untouched := hc.envelope(env, hc.mailCommand(env, nil), false)
	if t.lost != nil && t.sender == nil {
		return nil, t.lost, untouched
	}
	return t.failures, nil, false
}
