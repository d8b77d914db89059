package stream

import (
	"context"
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

// initiate negotiates as the connecting side, inside TLS.
func (n *negotiation) initiate(ctx context.Context) error {
	if err := n.prove(ctx, x509.ExtKeyUsageServerAuth); err != nil {
		return err
	}
	features, err := n.openStream()
	if err != nil {
		return err
	}
	n.stage = StageAuth
	if !offersExternal(features) {
		return errors.Join(errNoFeature, errors.New("no SASL EXTERNAL for our certificate"))
	}
	// Without bidi (XEP-0288) the stream carries no mail, but what an ordinary
	// server may ask and be asked.
	bidi := ""
	if features.Child(nsBidiFeature, "bidi") == nil {
		n.way = outward
	} else {
		bidi = "<bidi xmlns='" + nsBidi + "'>" + n.ownLimits() + "</bidi>"
	}
	// "=" is an empty authorization identity: the from of our header counts.
	if err = n.write(bidi, "<auth xmlns='"+nsSASL+"' mechanism='EXTERNAL'>=</auth>"); err != nil {
		return err
	}
	el, err := n.next()
	switch {
	case err != nil:
		return err
	case el.Is(nsSASL, "failure"):
		return readSASLFailure(el)
	case !el.Is(nsSASL, "success"):
		return &streamError{condition: "policy-violation", text: "answer to authentication expected"}
	}
	n.stage = StageReady
	if err := n.parser.Reset(n.conn); err != nil {
		return err
	}
	if features, err = n.openStream(); err != nil {
		return err
	}
	n.acks = features.Child(nsAcks, "sm") != nil
	return nil
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
		return nil, &streamError{condition: "undefined-condition", text: "stream header without id"}
	}
	if !el.Is(wire.StreamNS, "features") {
		return nil, &streamError{condition: "policy-violation", text: "features expected"}
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
