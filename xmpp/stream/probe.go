package stream

import (
	"context"
	"errors"

	"mailxmppd/xmpp/wire"
)

// Probe asks a peer domain with an IQ of type get, such as for disco#info
// (XEP-0030 section 3), and returns the payload of its answer. Where the domain has an ordinary server without
// bidi, no Link can be had; then the question goes over a stream of ours and
// the answer comes over one that the server dials to us. It needs our
// listener's address in DNS, so where none comes in time the error says
// StageBidi: the peer is proven and known not to take mail. Errors are those
// of Link and of Request.
func (m *Manager) Probe(ctx context.Context, local, remote string, targets []Target, query []byte) (*wire.Element, error) {
	l, err := m.Link(ctx, local, remote, targets)
	if err == nil {
		return l.Request(ctx, "get", query)
	}
	out := m.toward(pair{local, remote})
	if out == nil {
		return nil, err
	}
	el, err := m.ask(ctx, out, "get", query)
	if _, refused := errors.AsType[*StanzaError](err); err != nil && !refused {
		return nil, &NegotiationError{Stage: StageBidi, Permanent: true, Peer: true, Err: err}
	}
	return el, err
}
