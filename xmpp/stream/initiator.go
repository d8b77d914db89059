package stream

import (
	"crypto/x509"
	"errors"
	"strings"

	"mailxmppd/mail"
	"mailxmppd/xmpp/wire"
)

// errNoFeature is in the chain of a failure for what the peer does not offer.
var errNoFeature = errors.New("peer does not offer what mail needs")

// saslFailure is the peer's refusal of our authentication.
type saslFailure struct{ condition string }

func (e *saslFailure) Error() string { return "authentication refused: " + e.condition }

// initiate negotiates as the connecting side. TLS has verified the peer.
func (n *negotiation) initiate() error {
	var err error
	n.expires, err = verifyCertificate(n.conn.ConnectionState().PeerCertificates, n.m.cfg.Roots, n.pair.remote, x509.ExtKeyUsageServerAuth)
	if err != nil {
		return err
	}
	n.proven = true
	features, err := n.openStream()
	if err != nil {
		return err
	}
	n.stage = StageAuth
	if !offersExternal(features) {
		return errors.Join(errNoFeature, errors.New("no SASL EXTERNAL for our certificate"))
	}
	if features.Child(nsBidiFeature, "bidi") == nil {
		return errors.Join(errNoFeature, errors.New("no bidirectional streams (XEP-0288)"))
	}
	// "=" is an empty authorization identity: the from of our header counts.
	err = n.write("<bidi xmlns='"+nsBidi+"'>", n.ownLimits(), "</bidi>",
		"<auth xmlns='"+nsSASL+"' mechanism='EXTERNAL'>=</auth>")
	if err != nil {
		return err
	}
	el, err := n.next()
	switch {
	case err != nil:
		return err
	case el.Is(nsSASL, "failure"):
		return readSASLFailure(el)
	case !el.Is(nsSASL, "success"):
		return &streamError{"policy-violation", "answer to authentication expected"}
	}
	n.stage = StageReady
	if err := n.parser.Reset(n.conn); err != nil {
		return err
	}
	_, err = n.openStream()
	return err
}

// openStream sends a header and reads header and features in return.
func (n *negotiation) openStream() (*wire.Element, error) {
	if err := n.open(""); err != nil {
		return nil, err
	}
	h, err := n.header()
	if err != nil {
		return nil, err
	}
	// An error may come in a stream that names nobody (RFC 6120 section
	// 4.9.1.2): it says more than the names it lacks.
	el, err := n.next()
	if err != nil {
		return nil, err
	}
	if err := n.samePair(h); err != nil {
		return nil, err
	}
	if h.ID == "" {
		return nil, &streamError{"undefined-condition", "stream header without id"}
	}
	if !el.Is(wire.StreamNS, "features") {
		return nil, &streamError{"policy-violation", "features expected"}
	}
	n.takeLimits(el)
	return el, nil
}

func offersExternal(features *wire.Element) bool {
	mechanisms := features.Child(nsSASL, "mechanisms")
	if mechanisms == nil {
		return false
	}
	for _, m := range mechanisms.Children {
		if m.Is(nsSASL, "mechanism") && strings.TrimSpace(string(m.Text)) == "EXTERNAL" {
			return true
		}
	}
	return false
}

func readSASLFailure(el *wire.Element) *saslFailure {
	for _, c := range el.Children {
		if c.Name.Space == nsSASL && c.Name.Local != "text" {
			return &saslFailure{mail.Sanitise(c.Name.Local)}
		}
	}
	return &saslFailure{"not-authorized"}
}
