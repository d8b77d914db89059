package stream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"
)

// Evidence is what a peer showed in TLS for the domain that it claims.
type Evidence struct {
	Local, Remote string // A-labels
	State         tls.ConnectionState
	Dialled       *Target // where the peer was reached; nil for a stream that was accepted
	PKIX          error   // nil where the chain leads to one of the roots and the names match
}

// prove judges the certificate that the peer showed for pair.remote. It comes
// after the handshake and before the first octet inside TLS: what Prove asks
// of the network holds up nobody but this peer.
func (n *negotiation) prove(ctx context.Context, usages ...x509.ExtKeyUsage) error {
	state := n.conn.ConnectionState()
	expires, pkix := verifyCertificate(state.PeerCertificates, n.m.cfg.Roots, n.pair.remote, usages...)
	proof, err := "pkix", pkix
	if n.m.cfg.Prove != nil && len(state.PeerCertificates) > 0 {
		proof, err = n.m.cfg.Prove(ctx, Evidence{
			Local: n.pair.local, Remote: n.pair.remote, State: state, Dialled: n.dialled, PKIX: pkix,
		})
		if err == nil && proof == "" {
			err = errors.New("nothing proves it")
		}
	}
	if err != nil {
		if !errors.Is(err, errUnproven) {
			err = fmt.Errorf("%w: %w", errUnproven, err)
		}
		return err
	}
	if pkix != nil {
		expires = state.PeerCertificates[0].NotAfter
	}
	n.proven, n.proof = true, proof
	n.endBy(expires)
	return nil
}

// endBy notes the end of a certificate, so that the stream does not outlive
// it. What has already passed was judged to be no hindrance: DANE-EE looks at
// no dates (RFC 7671 section 5.1), and ours is for the peer to judge.
func (n *negotiation) endBy(t time.Time) {
	if t.After(time.Now()) && t.Before(n.expires) {
		n.expires = t
	}
}

// certificate finds our own certificate for this stream. It is asked for anew
// each time: a new one serves new streams, and those that are live go on.
func (n *negotiation) certificate(domain string) (*tls.Certificate, error) {
	own, err := n.m.cfg.Certificate(domain)
	if err != nil {
		return nil, err
	}
	leaf := own.Leaf
	if leaf == nil && len(own.Certificate) > 0 {
		if leaf, err = x509.ParseCertificate(own.Certificate[0]); err != nil {
			return nil, err
		}
	}
	if leaf != nil {
		n.endBy(leaf.NotAfter)
	}
	return own, nil
}
