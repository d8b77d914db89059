package stream

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"strings"

	"mailxmppd/mail"
	"mailxmppd/xmpp/wire"
)

// respond negotiates as the receiving side, inside TLS.
func (n *negotiation) respond(ctx context.Context) error {
	h, err := n.header()
	if err != nil {
		return err
	}
	if err := n.greeted(ctx, h); err != nil {
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

// greeted judges the first header inside TLS: for whom, from whom, and whether
// the certificate proves it.
func (n *negotiation) greeted(ctx context.Context, h *wire.Header) error {
	if h.From == "" {
		return &streamError{condition: "improper-addressing", text: "stream header without from"}
	}
	if err := n.addressed(h); err != nil {
		return err
	}
	if err := n.prove(ctx, x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth); err != nil {
		n.m.counters.unproven.Add(1)
		n.m.cfg.Log.Info("stream peer not proven", "peer", n.pair.remote, "remote", n.conn.RemoteAddr().String(),
			"err", mail.Sanitise(err.Error()))
	}
	return nil
}

// addressed takes the names from a first header. The peer has verified the
// certificate of the domain that it named before TLS or in it, so the stream
// is for that domain and no other.
func (n *negotiation) addressed(h *wire.Header) error {
	if h.To == "" {
		return &streamError{condition: "improper-addressing", text: "stream header without to"}
	}
	to, bare, err := domainOf(h.To)
	if err != nil || !bare {
		return &streamError{condition: "host-unknown"}
	}
	if n.pair.local != "" && to != n.pair.local {
		return &streamError{condition: "host-unknown", text: "not the domain that was named before"}
	}
	if h.From != "" { // before TLS it may be kept back (RFC 6120 section 4.7.1)
		from, bare, err := domainOf(h.From)
		if err != nil || !bare || mail.IsLiteral(from) || n.pair.remote != "" && from != n.pair.remote {
			return &streamError{condition: "invalid-from"}
		}
		n.pair.remote = from
	}
	n.pair.local = to
	return nil
}

// authenticated waits for SASL EXTERNAL. bidi may come before it (XEP-0288
// section 2.2); without it the stream takes no answers and carries no mail.
func (n *negotiation) authenticated() error {
	n.way = inward
	for {
		el, err := n.next()
		if err != nil {
			return err
		}
		switch {
		case el.Is(nsBidi, "bidi") && n.way == inward:
			n.way = bothWays
			n.takeLimits(el) // XEP-0478 section 3: the initiator has no features to put them in
		case el.Is(nsSASL, "auth"):
			condition := n.judgeAuth(el)
			if condition != "" {
				n.m.counters.authFailures.Add(1)
				n.write("<failure xmlns='" + nsSASL + "'><" + condition + "/></failure>")
				return &streamError{condition: "policy-violation", text: "authentication failed"}
			}
			return nil
		case el.Name.Space == nsDialback:
			if err := n.write(n.m.answerDialback(el, "not-authorized")); err != nil {
				return err
			}
		case el.Name.Space == nsServer: // RFC 6120 section 4.9.3.12
			return &streamError{condition: "not-authorized", text: "stanza before authentication"}
		default:
			return &streamError{condition: "unsupported-stanza-type", text: "element not expected here"}
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
