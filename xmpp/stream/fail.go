package stream

import (
	"errors"
	"os"
	"time"

	"mailxmppd/xmpp/wire"
)

// fail turns the peer away: the stream error that fits, if it has not left by
// itself, and the closing tag. It returns the error to report.
func (n *negotiation) fail(err error) *NegotiationError {
	out := &NegotiationError{Stage: n.stage, Err: err}
	own, ok := errors.AsType[*streamError](err)
	if malformed, isXML := errors.AsType[*wire.Error](err); isXML {
		own, ok = &streamError{condition: malformed.Condition, text: malformed.Text}, true
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		own, ok = &streamError{condition: "connection-timeout", text: "negotiation took too long"}, true
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
	if errors.Is(err, errUnproven) {
		out.Stage, out.Permanent = StageTLS, true
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
	if n.opened {
		n.conn.CloseWrite()
		lingerOn(n.conn.NetConn(), min(n.m.cfg.CloseTimeout, n.m.cfg.NegotiateTimeout))
	}
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
