package component

import (
	"context"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"time"

	"mailxmppd/mail"
	"mailxmppd/xmpp/wire"
)

const streamEnd = "</stream:stream>"

// maxStreamID bounds what the server may have us hash.
const maxStreamID = 1024

// connect makes a connection and shakes hands (XEP-0114 section 3).
func (c *Component) connect(ctx context.Context) (*session, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.HandshakeWait)
	defer cancel()
	conn, err := (&net.Dialer{Timeout: c.cfg.DialTimeout}).DialContext(ctx, "tcp", c.cfg.Address)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	s, err := c.shakeHands(conn)
	if !stop() && err == nil { // ctx has ended, and the deadline may yet strike
		err = context.Cause(ctx)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return s, nil
}

var errExposed = errors.New("port for components is not on this machine, and its protocol has no encryption")

func (c *Component) shakeHands(conn net.Conn) (*session, error) {
	// The protocol has no encryption: what peers were authenticated for must
	// not cross a network in the clear after it.
	if a, ok := conn.RemoteAddr().(*net.TCPAddr); !ok || !a.IP.IsLoopback() {
		return nil, errExposed
	}
	open, err := wire.AppendAttr([]byte("<?xml version='1.0'?><stream:stream xmlns='"+nsComponent+"' xmlns:stream='"+wire.StreamNS+"'"),
		"to", mail.UnicodeDomain(c.cfg.Domain))
	if err != nil {
		return nil, err
	}
	if _, err := conn.Write(append(open, '>')); err != nil {
		return nil, err
	}
	in := newStanzas(conn, c.cfg.Limits)
	h, err := in.header()
	switch {
	case err != nil:
		return nil, fmt.Errorf("header of the server's stream: %w", err)
	case h.Content != nsComponent:
		return nil, errors.New("server's port is not for components (XEP-0114)")
	case h.ID == "" || len(h.ID) > maxStreamID:
		if err := in.refusal(); err != nil {
			return nil, err
		}
		return nil, errors.New("server's stream has no id that can be used")
	}
	digest := sha1.Sum([]byte(h.ID + c.cfg.Secret))
	if _, err := conn.Write([]byte("<handshake>" + hex.EncodeToString(digest[:]) + "</handshake>")); err != nil {
		return nil, err
	}
	if err := in.refusal(); err != nil {
		return nil, err
	}
	return c.newSession(conn, in), nil
}

// refusal reads the server's answer to the handshake, nil if it is a welcome.
func (s *stanzas) refusal() error {
	el, err := s.next()
	switch {
	case err != nil:
		return fmt.Errorf("answer to the handshake: %w", err)
	case el.Is(wire.StreamNS, "error"):
		return readServerError(el)
	case !el.Is(nsComponent, "handshake"):
		return errors.New("server does not answer the handshake")
	}
	return nil
}

func readServerError(el *wire.Element) *serverError {
	e := &serverError{condition: "undefined-condition"}
	for _, c := range el.Children {
		switch {
		case c.Name.Space != nsStreamErrors:
		case c.Name.Local == "text":
			e.text = mail.Sanitise(string(c.Text))
		default:
			e.condition = mail.Sanitise(c.Name.Local)
		}
	}
	return e
}
