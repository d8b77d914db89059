package stream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"mailxmppd/xmpp/wire"
)

// Config is what a Manager needs. Zero values stand for the defaults given.
// The functions are called from many goroutines at once.
type Config struct {
	// Certificate returns the certificate of one of our domains (A-labels);
	// an error means that the domain is not ours. It is asked for each stream
	// anew, so that certificates can change while streams are live. Required.
	Certificate func(domain string) (*tls.Certificate, error)
	// Roots are the authorities that peers' certificates may come from; nil
	// for the system's.
	Roots *x509.CertPool

	// Prove judges the certificate of a peer after the check of its chain and
	// names (PKIX). It returns what proves the domain ("pkix", "dane", "posh",
	// "pinned"), or an error where nothing does or where what would is not
	// enough for this peer. ctx ends with NegotiateTimeout. nil: PKIX alone.
	Prove func(ctx context.Context, e Evidence) (proof string, err error)

	// Targets finds where a peer domain is dialled whose ordinary server has
	// asked us something over a stream that takes no answers (see the package
	// comment). nil: such answers leave only over a stream that is there.
	Targets func(ctx context.Context, local, remote string) ([]Target, error)
	// Lookup finds the addresses of a host that a proven peer refers us to
	// (see-other-host). nil: the system's resolver.
	Lookup func(ctx context.Context, host string) ([]netip.Addr, error)

	Limits      wire.Limits // after authentication; wire.Default
	Binary      []wire.Name // elements that carry base64, decoded while they are read
	MaxOutBytes int         // octets queued for one peer, 1 MiB; a quarter more for answers
	MaxInBytes  int         // octets of requests that one peer has in hand here, 32 MiB

	MaxStreams    int // connections accepted, 4096
	MaxPerAddress int // connections accepted from one IPv4 address or IPv6 /64, 64
	HandlerSlots  int // requests of one link in hand at once, 256

	DialTimeout      time.Duration // for the TCP connection to one address, 8 s
	NegotiateTimeout time.Duration // from connect to ready, 20 s
	IdleClose        time.Duration // a link without requests is closed, 10 min
	PingAfter        time.Duration // a link that brought nothing is asked for life, 1 min
	RequestTimeout   time.Duration // for an answer, 1 min
	WriteTimeout     time.Duration // for 64 KiB to leave, 1 min
	CloseTimeout     time.Duration // for each step of an orderly close, 5 s
	MaxLife          time.Duration // of a link, 24 h; a certificate that expires ends it earlier
	BackOff          time.Duration // after the first failed dial, 500 ms; doubles up to 30 s

	// Handle answers a request that the stream layer does not answer itself.
	// Each call has its own goroutine; ctx ends with the link. Once it has
	// returned, the octets of the payload's texts belong to the link again; a
	// handler that cannot let go of one sets it to nil. nil: no request is
	// served.
	Handle func(ctx context.Context, l *Link, iq *IQ) Reply
	// DiscoInfo returns the children of the answer to disco#info (XEP-0030),
	// encoded, namespaces inherited from the query. nil: none.
	DiscoInfo func(local, remote string) []byte
	// Up tells that a pair of domains has got its first live link, Down that
	// it has lost its last. They alternate for a pair; they must not block.
	Up, Down func(local, remote string)
	// Allow may refuse a proven remote domain. nil: all are welcome.
	Allow func(remote string) bool

	Version string // of the program, for XEP-0092; "" for none
	Log     *slog.Logger
}

func (c Config) withDefaults() Config {
	if c.Limits == (wire.Limits{}) {
		c.Limits = wire.Default()
	}
	positive(&c.MaxOutBytes, 1<<20)
	positive(&c.MaxInBytes, 32<<20)
	positive(&c.MaxStreams, 4096)
	positive(&c.MaxPerAddress, 64)
	positive(&c.HandlerSlots, 256)
	positive(&c.DialTimeout, 8*time.Second)
	positive(&c.NegotiateTimeout, 20*time.Second)
	positive(&c.IdleClose, 10*time.Minute)
	positive(&c.PingAfter, time.Minute)
	positive(&c.RequestTimeout, time.Minute)
	positive(&c.WriteTimeout, time.Minute)
	positive(&c.CloseTimeout, 5*time.Second)
	positive(&c.MaxLife, 24*time.Hour)
	positive(&c.BackOff, 500*time.Millisecond)
	if c.Lookup == nil {
		c.Lookup = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

func positive[T ~int | ~int64](v *T, otherwise T) {
	if *v <= 0 {
		*v = otherwise
	}
}

// Target is an address at which a domain's streams are accepted.
type Target struct {
	Host     string // as DNS or the configuration named it: for logs, and for DANE
	Port     uint16 // the same
	Addr     string // "ip:port"
	StartTLS bool   // TLS comes by STARTTLS (RFC 6120 section 5); else directly (XEP-0368)
}
