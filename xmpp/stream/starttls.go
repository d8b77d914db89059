package stream

import (
	"context"
	"errors"
	"net"

	"mailxmppd/xmpp/wire"
)

// ServeStartTLS is Serve for streams that begin in the clear and go on in TLS
// (RFC 6120 section 5). Nothing but that step is possible before it.
func (m *Manager) ServeStartTLS(ctx context.Context, ln net.Listener) error {
	return m.serve(ctx, ln, false)
}

const (
	requestTLS = "<starttls xmlns='" + nsTLS + "'/>"
	proceedTLS = "<proceed xmlns='" + nsTLS + "'/>"
	requireTLS = "<stream:features><starttls xmlns='" + nsTLS + "'><required/></starttls></stream:features>"
)

// askTLS is the connecting side's way to TLS. A server that does not offer it
// may have had the offer taken out on the way: there is no going on without.
func (n *negotiation) askTLS() error {
	if err := n.open(""); err != nil {
		return err
	}
	if _, err := n.header(); err != nil { // the names count only inside TLS
		return err
	}
	el, err := n.next()
	switch {
	case err != nil:
		return err
	case !el.Is(wire.StreamNS, "features"):
		return &streamError{condition: "policy-violation", text: "features expected"}
	case el.Child(nsTLS, "starttls") == nil:
		return errors.Join(errNoFeature, errors.New("no STARTTLS"))
	}
	if err := n.write(requestTLS); err != nil {
		return err
	}
	if el, err = n.next(); err != nil {
		return err
	}
	switch {
	case el.Is(nsTLS, "failure"):
		return errRefusedTLS
	case !el.Is(nsTLS, "proceed"):
		return &streamError{condition: "policy-violation", text: "answer to starttls expected"}
	}
	return n.nothingAhead()
}

var errRefusedTLS = errors.New("peer refused TLS")

// giveTLS is the accepting side's way to TLS (RFC 6120 section 5.3.1: TLS is
// mandatory here, so it is all that is offered).
func (n *negotiation) giveTLS() error {
	h, err := n.header()
	if err != nil {
		return err
	}
	if err := n.addressed(h); err != nil {
		return err
	}
	if _, err := n.m.cfg.Certificate(n.pair.local); err != nil {
		n.pair.local = ""
		return &streamError{condition: "host-unknown"}
	}
	if err := n.open(newID()); err != nil {
		return err
	}
	if err := n.write(requireTLS); err != nil {
		return err
	}
	for {
		el, err := n.next()
		switch {
		case err != nil:
			return err
		case el.Is(nsTLS, "starttls"):
			if err := n.nothingAhead(); err != nil {
				return err
			}
			return n.write(proceedTLS)
		case el.Name.Space == nsDialback:
			// XEP-0220 section 2.4.2: TLS is to come before dialback.
			if err := n.write(n.m.answerDialback(el, "policy-violation")); err != nil {
				return err
			}
		case el.Name.Space == nsServer: // RFC 6120 section 4.9.3.12
			return &streamError{condition: "not-authorized", text: "stanza before TLS"}
		default:
			return &streamError{condition: "policy-violation", text: "TLS is required"}
		}
	}
}

// nothingAhead refuses what was read together with the last element before
// TLS: somebody on the way may have put it there to be taken for a part of the
// secured stream (RFC 6120 section 5.4.3.3). What comes later ends up in the
// handshake, and breaks it.
func (n *negotiation) nothingAhead() error {
	if n.parser.Buffered() > 0 {
		return &streamError{condition: "policy-violation", text: "data ahead of the TLS handshake"}
	}
	return nil
}
