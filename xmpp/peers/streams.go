package peers

import (
	"context"

	"mailxmppd/xmpp/stream"
	"mailxmppd/xmpp/transfer"
	"mailxmppd/xmpp/wire"
)

// Link is a transfer.Link that tells who opened it.
type Link interface {
	transfer.Link
	Inbound() bool
}

// Streams is what keeps the streams; see Over. Its errors are those of package
// stream.
type Streams interface {
	// Live returns a live link of the pair, or nil.
	Live(local, remote string) Link
	// Link returns a live link, or dials the targets in their order. It fails
	// at once while a dead peer's back-off lasts.
	Link(ctx context.Context, local, remote string, targets []stream.Target) (Link, error)
	// Bulk returns the youngest live link, dialling if there are fewer than
	// two; the only one where a second cannot be had.
	Bulk(ctx context.Context, local, remote string, targets []stream.Target) (Link, error)
	// Probe asks, with an IQ of type get, by whatever stream there is, also
	// those that are no links because the peer has no bidirectional ones.
	Probe(ctx context.Context, local, remote string, targets []stream.Target, payload []byte) (*wire.Element, error)
}

// Over makes a stream manager fit for Config.Streams.
func Over(m *stream.Manager) Streams { return managed{m} }

type managed struct{ *stream.Manager }

func (s managed) Live(local, remote string) Link { return orNil(s.Manager.Live(local, remote)) }

func (s managed) Link(ctx context.Context, local, remote string, targets []stream.Target) (Link, error) {
	l, err := s.Manager.Link(ctx, local, remote, targets)
	return orNil(l), err
}

func (s managed) Bulk(ctx context.Context, local, remote string, targets []stream.Target) (Link, error) {
	l, err := s.Manager.Bulk(ctx, local, remote, targets)
	return orNil(l), err
}

// orNil keeps a nil pointer from becoming a Link that is not nil.
func orNil(l *stream.Link) Link {
	if l == nil {
		return nil
	}
	return l
}
