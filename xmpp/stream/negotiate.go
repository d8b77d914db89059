package stream

import (
	"strconv"
	"strings"
	"time"

	"mailxmppd/mail"
	"mailxmppd/xmpp/wire"
)

// negotiation takes a connection up to a link. It belongs to one goroutine;
// the connection's deadline bounds all of it.
type negotiation struct {
	m        *Manager
	conn     secured
	parser   *wire.Parser
	pair     pair
	dialled  *Target   // nil where we accept
	origin   *attempts // that it is one of; nil where we accept
	stage    string
	opened   bool   // our stream header is out
	proven   bool   // the peer's certificate proves pair.remote
	proof    string // what did
	way      way
	acks     bool // the peer offers acks
	expires  time.Time
	peerMax  int
	peerIdle time.Duration
}

func (m *Manager) negotiate(p pair) *negotiation {
	return &negotiation{
		m: m, pair: p, peerMax: m.cfg.Limits.StanzaBytes, expires: time.Now().Add(m.cfg.MaxLife),
	}
}

// begin starts a stream, with nothing of what was read before it.
func (n *negotiation) begin(conn secured, stage string) {
	n.conn, n.stage, n.opened = conn, stage, false
	n.parser = wire.NewParser(conn, wire.PreAuth())
}

func (n *negotiation) write(parts ...string) error {
	all := strings.Join(parts, "")
	if all == "" {
		return nil
	}
	_, err := n.conn.Write([]byte(all))
	return err
}

// open sends our stream header.
func (n *negotiation) open(id string) error {
	n.opened = true
	return n.write(string(encodeHeader(n.pair, id)))
}

// next reads an element; a stream error of the peer is an error.
func (n *negotiation) next() (*wire.Element, error) {
	el, err := n.parser.Next()
	if err == nil && el.Is(wire.StreamNS, "error") {
		return nil, readPeerError(el)
	}
	return el, err
}

// header reads the peer's stream header and checks what both roles demand.
func (n *negotiation) header() (*wire.Header, error) {
	h, err := n.parser.Header()
	switch {
	case err != nil:
		return nil, err
	case h.Content != nsServer:
		return nil, &streamError{condition: "invalid-namespace", text: "content is not jabber:server"}
	case majorVersion(h.Version) < 1: // RFC 6120 section 4.7.5
		return nil, &streamError{condition: "unsupported-version"}
	}
	return h, nil
}

func majorVersion(v string) int {
	major, minor, ok := strings.Cut(v, ".")
	n, err := strconv.ParseUint(major, 10, 16)
	if _, minorErr := strconv.ParseUint(minor, 10, 16); !ok || err != nil || minorErr != nil {
		return 0
	}
	return int(n)
}

// samePair checks that a header names the link's two domains, as A-labels:
// they may not change when the stream restarts.
func (n *negotiation) samePair(h *wire.Header) error {
	switch {
	case h.From == "" || h.To == "":
		return &streamError{condition: "improper-addressing", text: "stream header without from or to"}
	case !sameDomain(h.From, n.pair.remote):
		return &streamError{condition: "invalid-from", text: "stream header from another domain"}
	case !sameDomain(h.To, n.pair.local):
		return &streamError{condition: "host-unknown", text: "stream header for another domain"}
	}
	return nil
}

// link makes the link of a finished negotiation.
func (n *negotiation) link(inbound bool) *Link {
	n.conn.SetDeadline(time.Time{})
	n.parser.SetLimits(n.m.cfg.Limits)
	n.parser.DecodeInPlace(n.m.cfg.Binary...)
	state := n.conn.ConnectionState()
	l := &Link{
		m: n.m, cfg: &n.m.cfg, conn: n.conn, parser: n.parser, inbound: inbound, way: n.way,
		origin: n.origin, born: time.Now(),
		peerMax: n.peerMax, keepAlive: keepAlive(n.peerIdle),
		binding: mail.Binding{
			Local: n.pair.local, Remote: n.pair.remote, Proof: n.proof, TLS: describeTLS(state),
			Addr: n.conn.RemoteAddr().String(),
		},
		iqFrom:  addresses(n.pair),
		expires: n.expires,
		out:     newOutbox(&n.m.buffers),
		written: make(chan struct{}),
		waiting: map[string]chan<- *wire.Element{},
		drained: make(chan struct{}), tasks: make(chan task),
		done:   make(chan struct{}),
		silent: make(chan struct{}),
	}
	if n.acks {
		l.enableAcks()
	}
	return l
}
