package stream

import (
	"crypto/x509"
	"encoding/base64"
	"strings"

	"mailxmppd/mail"
	"mailxmppd/xmpp/wire"
)

// respond negotiates as the receiving side.
func (n *negotiation) respond() error {
	h, err := n.header()
	if err != nil {
		return err
	}
	if err := n.greeted(h); err != nil {
		return err
	}
	if err := n.open(newID()); err != nil {
		return err
	}
	// EXTERNAL is offered only to a peer whose certificate proves the domain
	// it claims (XEP-0178 section 3); nothing else lets it in.
	features := "<stream:features>"
	if n.proven {
		features += "<mechanisms xmlns='" + nsSASL + "'><mechanism>EXTERNAL</mechanism></mechanisms>"
	}
	features += "<bidi xmlns='" + nsBidiFeature + "'/>" + n.ownLimits() + "</stream:features>"
	if err := n.write(features); err != nil {
		return err
	}
	n.stage = StageAuth
	if err := n.authenticated(); err != nil {
		return err
	}
	n.stage = StageReady
	if err := n.parser.Reset(n.conn); err != nil {
		return err
	}
	if err := n.write("<success xmlns='" + nsSASL + "'/>"); err != nil {
		return err
	}
	n.opened = false // the restarted stream has a header of its own
	if h, err = n.header(); err != nil {
		return err
	}
	if err := n.samePair(h); err != nil {
		return err
	}
	if err := n.open(newID()); err != nil {
		return err
	}
	return n.write("<stream:features>", n.ownLimits(), "</stream:features>")
}

// greeted judges the first header: for whom, from whom, and whether the
// certificate proves it.
func (n *negotiation) greeted(h *wire.Header) error {
	if h.From == "" || h.To == "" {
		return &streamError{"improper-addressing", "stream header without from or to"}
	}
	to, bare, err := domainOf(h.To)
	if err != nil || !bare {
		return &streamError{"host-unknown", ""}
	}
	// The peer verified the certificate of the name it asked for in TLS: the
	// stream is for that domain and no other.
	state := n.conn.ConnectionState()
	if asked, err := mail.ParseDomain(strings.TrimSuffix(state.ServerName, ".")); err != nil || asked != to {
		return &streamError{"host-unknown", "not the domain of the TLS server name"}
	}
	n.pair.local = to
	from, bare, err := domainOf(h.From)
	if err != nil || !bare || mail.IsLiteral(from) {
		return &streamError{"invalid-from", ""}
	}
	n.pair.remote = from
	n.expires, err = verifyCertificate(state.PeerCertificates, n.m.cfg.Roots, from,
		x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth)
	n.proven = err == nil
	if err != nil {
		n.m.counters.unproven.Add(1)
		n.m.cfg.Log.Info("stream peer not proven", "peer", from, "remote", n.conn.RemoteAddr().String(),
			"err", mail.Sanitise(err.Error()))
	}
	return nil
}

// authenticated waits for SASL EXTERNAL, and for bidi before it (XEP-0288
// section 2.2): without bidi our answers would need a second stream, so such
// a peer is turned away before it is authenticated.
func (n *negotiation) authenticated() error {
	bidi := false
	for {
		el, err := n.next()
		if err != nil {
			return err
		}
		switch {
		case el.Is(nsBidi, "bidi") && !bidi:
			bidi = true
			n.takeLimits(el) // XEP-0478 section 3: the initiator has no features to put them in
		case el.Is(nsSASL, "auth"):
			condition := n.judgeAuth(el)
			if condition != "" {
				n.m.counters.authFailures.Add(1)
				n.write("<failure xmlns='" + nsSASL + "'><" + condition + "/></failure>")
				return &streamError{"policy-violation", "authentication failed"}
			}
			if !bidi {
				return &streamError{"policy-violation", "bidirectional streams (XEP-0288) are required"}
			}
			return nil
		case el.Name.Space == nsServer: // RFC 6120 section 4.9.3.12
			return &streamError{"not-authorized", "stanza before authentication"}
		default:
			return &streamError{"unsupported-stanza-type", "element not expected here"}
		}
	}
}

// judgeAuth returns the SASL error condition (RFC 6120 section 6.5) for an
// attempt, "" to let it pass.
func (n *negotiation) judgeAuth(el *wire.Element) string {
	if !n.proven {
		return "not-authorized"
	}
	if el.Attr("mechanism") != "EXTERNAL" {
		return "invalid-mechanism"
	}
	// No initial response, or "=" for an empty one: the identity is the one
	// of the stream header (XEP-0178 section 3).
	if text := strings.TrimSpace(string(el.Text)); text != "" && text != "=" {
		authzid, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return "incorrect-encoding"
		}
		if !sameDomain(string(authzid), n.pair.remote) {
			return "invalid-authzid"
		}
	}
	if allow := n.m.cfg.Allow; allow != nil && !allow(n.pair.remote) {
		return "not-authorized"
	}
	return ""
}
