package stream

import (
	"crypto/tls"
	"io"
	"net"
	"time"
)

// secured is a connection with TLS; *tls.Conn is one.
type secured interface {
	net.Conn
	ConnectionState() tls.ConnectionState
	CloseWrite() error
	NetConn() net.Conn
}

// inClear is a connection on which TLS has yet to start: what negotiates TLS
// needs the same methods, and finds no certificates.
type inClear struct{ net.Conn }

func (inClear) ConnectionState() tls.ConnectionState { return tls.ConnectionState{} }

func (c inClear) NetConn() net.Conn { return c.Conn }

func (c inClear) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// maxLinger bounds the octets read from a peer that is being turned away.
const maxLinger = 4 << 20

// lingerOn reads and forgets until the peer closes, so that what we said last
// reaches it before the socket goes.
func lingerOn(conn net.Conn, d time.Duration) {
	conn.SetReadDeadline(time.Now().Add(d))
	io.Copy(io.Discard, io.LimitReader(conn, maxLinger))
}
