package component

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"time"

	"mailxmppd/mail"
	"mailxmppd/xmpp/stream"
	"mailxmppd/xmpp/wire"
)

// Config is what a Component needs. Zero values stand for the defaults given.
// The functions are called from many goroutines at once.
type Config struct {
	Domain  string // the mail domain, which is the component's name; A-labels
	Address string // "host:port" of the server's port for components, on this machine
	Secret  string // that the server knows the component by

	// AssertAuthenticated is the operator's word that the server exchanges
	// stanzas with other domains over streams alone that are encrypted and
	// authenticated by certificate, both ways. Without it no mail goes.
	AssertAuthenticated bool

	// MaxStanza is how large a stanza the server takes, and those after it, in
	// octets; 500,000. What is packaged takes 524,288, and writes some
	// characters longer than we do.
	MaxStanza int
	Limits    wire.Limits // of a stanza that comes; wire.Default

	MaxOutBytes  int // octets queued for the server, 4 MiB; half as much more for answers
	MaxPeers     int // links at a time, 4096
	HandlerSlots int // requests of one peer in hand at once, 256; of all, four times as many
	MaxInBytes   int // octets of them of one peer, 16 MiB; of all, four times as many

	DialTimeout     time.Duration // 8 s
	HandshakeWait   time.Duration // from connect to ready, 20 s
	RequestTimeout  time.Duration // for an answer, 1 min
	WriteTimeout    time.Duration // for 64 KiB to leave, 1 min
	CloseTimeout    time.Duration // for each step of an orderly close, 5 s
	MaxLife         time.Duration // of a link, after which its peer is asked again what it takes, 24 h
	BackOff         time.Duration // after the first failed connection, 500 ms; doubles up to 30 s
	RefusedBackOff  time.Duration // after the server has refused the name or the secret, 1 min
	AloneEvery      time.Duration // another node of the same name is looked for so often, 1 min
	IdleBeforeEvict time.Duration // a link so long without requests makes room for others, 1 min

	// Handle answers a request that the component does not answer itself. Each
	// call has its own goroutine; ctx ends with the connection. nil: no
	// request is served.
	Handle func(ctx context.Context, b mail.Binding, iq *stream.IQ) stream.Reply
	// DiscoInfo returns the children of the answer to disco#info (XEP-0030),
	// encoded, namespaces inherited from the query. nil: none.
	DiscoInfo func(local, remote string) []byte
	// Up tells that a peer has been heard through the server, Down that this
	// no longer counts. They alternate for a peer; they must not block.
	Up, Down func(local, remote string)

	Version string // of the program, for XEP-0092; "" for none
	Log     *slog.Logger
}

func (c Config) withDefaults() Config {
	if c.Limits == (wire.Limits{}) {
		c.Limits = wire.Default()
	}
	positive(&c.MaxStanza, 500_000)
	positive(&c.MaxOutBytes, 4<<20)
	positive(&c.MaxPeers, 4096)
	positive(&c.HandlerSlots, 256)
	positive(&c.MaxInBytes, 16<<20)
	positive(&c.DialTimeout, 8*time.Second)
	positive(&c.HandshakeWait, 20*time.Second)
	positive(&c.RequestTimeout, time.Minute)
	positive(&c.WriteTimeout, time.Minute)
	positive(&c.CloseTimeout, 5*time.Second)
	positive(&c.MaxLife, 24*time.Hour)
	positive(&c.BackOff, 500*time.Millisecond)
	positive(&c.RefusedBackOff, time.Minute)
	positive(&c.AloneEvery, time.Minute)
	positive(&c.IdleBeforeEvict, time.Minute)
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

// leastStanza holds a chunk of the least size that every peer must take, and
// what is around it (xep-draft section 7.3).
const leastStanza = 10_000

// check tells what is wrong with a configuration.
func (c Config) check() error {
	var wrong []error
	if d, err := mail.ParseDomain(c.Domain); err != nil || d != c.Domain {
		wrong = append(wrong, fmt.Errorf("component name %q is not a domain in A-labels", c.Domain))
	}
	if c.Secret == "" || strings.ContainsAny(c.Secret, "\r\n") {
		wrong = append(wrong, errors.New("component has no secret, or one of several lines"))
	}
	host, _, err := net.SplitHostPort(c.Address)
	if err != nil {
		wrong = append(wrong, fmt.Errorf("component address: %w", err))
	}
	if ip := net.ParseIP(host); ip != nil && !ip.IsLoopback() { // a name is judged when it is dialled
		wrong = append(wrong, fmt.Errorf("component address %s: %w", c.Address, errExposed))
	}
	if c.MaxStanza < leastStanza {
		wrong = append(wrong, fmt.Errorf("component stanza limit %d is below %d octets", c.MaxStanza, leastStanza))
	}
	return errors.Join(wrong...)
}
