package stream

import (
	"crypto/tls"
	"errors"
	"os"
	"strconv"
	"strings"
	"time"

	"mailxmppd/mail"
	"mailxmppd/xmpp/wire"
)

// negotiation takes a connection with TLS up to a link. It belongs to one
// goroutine; the connection's deadline bounds all of it. STARTTLS would come
// before it, on a parser of its own.
type negotiation struct {
	m       *Manager
	conn    *tls.Conn
	parser  *wire.Parser
	pair    pair
	stage   string
	opened  bool // our stream header is out
	proven  bool // the peer's certificate proves pair.remote
	expires time.Time
	peerMax int
}

func (m *Manager) negotiate(conn *tls.Conn) *negotiation {
	return &negotiation{
		m: m, conn: conn, parser: wire.NewParser(conn, wire.PreAuth()), stage: StageHeader,
		peerMax: m.cfg.Limits.StanzaBytes,
	}
}

func (n *negotiation) write(parts ...string) error {
	_, err := n.conn.Write([]byte(strings.Join(parts, "")))
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
		return nil, &streamError{"invalid-namespace", "content is not jabber:server"}
	case majorVersion(h.Version) < 1: // RFC 6120 section 4.7.5
		return nil, &streamError{"unsupported-version", ""}
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
		return &streamError{"improper-addressing", "stream header without from or to"}
	case !sameDomain(h.From, n.pair.remote):
		return &streamError{"invalid-from", "stream header from another domain"}
	case !sameDomain(h.To, n.pair.local):
		return &streamError{"host-unknown", "stream header for another domain"}
	}
	return nil
}

// takeLimits reads what the peer announces (XEP-0478) in its features or its
// bidi element. RFC 6120 section 13.12 has 10,000 octets as the least.
func (n *negotiation) takeLimits(parent *wire.Element) {
	limits := parent.Child(nsLimits, "limits")
	if limits == nil {
		return
	}
	if max := limits.Child(nsLimits, "max-bytes"); max != nil {
		if v, err := strconv.ParseUint(strings.TrimSpace(string(max.Text)), 10, 31); err == nil && v >= 10000 {
			n.peerMax = int(v)
		}
	}
}

func (n *negotiation) ownLimits() string {
	return "<limits xmlns='" + nsLimits + "'><max-bytes>" + strconv.Itoa(n.m.cfg.Limits.StanzaBytes) +
		"</max-bytes><idle-seconds>" + strconv.Itoa(int(n.m.cfg.IdleClose.Seconds())) + "</idle-seconds></limits>"
}

// fail turns the peer away: the stream error that fits, if it has not left by
// itself, and the closing tag. It returns the error to report.
func (n *negotiation) fail(err error) *NegotiationError {
	out := &NegotiationError{Stage: n.stage, Err: err}
	own, ok := errors.AsType[*streamError](err)
	if malformed, isXML := errors.AsType[*wire.Error](err); isXML {
		own, ok = &streamError{malformed.Condition, malformed.Text}, true
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		own, ok = &streamError{"connection-timeout", "negotiation took too long"}, true
	}
	if theirs, isTheirs := errors.AsType[*peerError](err); isTheirs {
		out.Condition, out.Peer = theirs.condition, n.proven
		out.Permanent = !passing(theirs.condition)
	}
	if saslErr, isSASL := errors.AsType[*saslFailure](err); isSASL {
		out.Condition, out.Peer = saslErr.condition, n.proven
		out.Permanent = saslErr.condition != "temporary-auth-failure"
	}
	if errors.Is(err, errNoFeature) {
		out.Peer, out.Permanent = n.proven, true
	}
	n.conn.SetDeadline(time.Now().Add(min(n.m.cfg.CloseTimeout, n.m.cfg.NegotiateTimeout)))
	if ok {
		out.Condition, out.Permanent = own.condition, !passing(own.condition)
		n.m.counters.streamErrors.Add(1)
		if !n.opened { // RFC 6120 section 4.9.1.2: an error needs a stream around it
			n.open(newID())
		}
		n.write(string(encodeStreamEnd(own)))
	} else if n.opened {
		n.write(streamEnd)
	}
	n.conn.CloseWrite()
	lingerOn(n.conn.NetConn(), min(n.m.cfg.CloseTimeout, n.m.cfg.NegotiateTimeout))
	n.conn.NetConn().Close()
	return out
}

// passing reports whether a stream error condition speaks of the moment.
func passing(condition string) bool {
	switch condition {
	case "conflict", "connection-timeout", "internal-server-error", "remote-connection-failed",
		"reset", "resource-constraint", "system-shutdown", "undefined-condition":
		return true
	}
	return false
}

// link makes the link of a finished negotiation.
func (n *negotiation) link(inbound bool) *Link {
	n.conn.SetDeadline(time.Time{})
	n.parser.SetLimits(n.m.cfg.Limits)
	state := n.conn.ConnectionState()
	l := &Link{
		m: n.m, cfg: &n.m.cfg, conn: n.conn, parser: n.parser, inbound: inbound, peerMax: n.peerMax,
		binding: mail.Binding{
			Local: n.pair.local, Remote: n.pair.remote, Proof: "pkix", TLS: describeTLS(state),
			Addr: n.conn.RemoteAddr().String(),
		},
		iqFrom:  addresses(n.pair),
		expires: n.expires,
		out:     newOutbox(&n.m.buffers),
		written: make(chan struct{}),
		waiting: map[string]chan<- *wire.Element{},
		drained: make(chan struct{}),
		done:    make(chan struct{}),
		silent:  make(chan struct{}),
	}
	if latest := time.Now().Add(n.m.cfg.MaxLife); latest.Before(l.expires) {
		l.expires = latest
	}
	return l
}
