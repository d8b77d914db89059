package component

import (
	"context"
	"errors"

	"mailxmppd/xmpp/peers"
	"mailxmppd/xmpp/stream"
	"mailxmppd/xmpp/wire"
)

// Over is streams with the links of components for the domains that those are.
func Over(streams peers.Streams, components ...*Component) peers.Streams {
	o := over{streams, map[string]*Component{}}
	for _, c := range components {
		o.components[c.Domain()] = c
	}
	return o
}

type over struct {
	peers.Streams
	components map[string]*Component
}

func (o over) Live(local, remote string) peers.Link {
	c := o.components[local]
	if c == nil {
		return o.Streams.Live(local, remote)
	}
	return orNil(c.Live(local, remote))
}

// Link leaves it to the server where the peer is dialled.
func (o over) Link(ctx context.Context, local, remote string, targets []stream.Target) (peers.Link, error) {
	c := o.components[local]
	if c == nil {
		return o.Streams.Link(ctx, local, remote, targets)
	}
	l, err := c.Link(ctx, local, remote)
	return orNil(l), err
}

// Bulk is Link: there is one connection.
func (o over) Bulk(ctx context.Context, local, remote string, targets []stream.Target) (peers.Link, error) {
	if o.components[local] == nil {
		return o.Streams.Bulk(ctx, local, remote, targets)
	}
	return o.Link(ctx, local, remote, nil)
}

func (o over) Probe(ctx context.Context, local, remote string, targets []stream.Target, payload []byte) (*wire.Element, error) {
	c := o.components[local]
	if c == nil {
		return o.Streams.Probe(ctx, local, remote, targets, payload)
	}
	l, err := c.Link(ctx, local, remote)
	if err != nil {
		return nil, err
	}
	el, err := l.Request(ctx, "get", payload)
	if b, ok := errors.AsType[*Bounce](err); ok {
		return nil, &stream.NegotiationError{Stage: stream.StageDial, Condition: b.Refusal.Condition, Err: b}
	}
	return el, err
}

// orNil keeps a nil pointer from becoming a link that is not nil.
func orNil(l *Link) peers.Link {
	if l == nil {
		return nil
	}
	return l
}
