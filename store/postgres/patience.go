package postgres

import (
	"context"
	"net"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// keepAlive finds out about a server that is gone on connections that wait for
// it, as the listener's does; the server has the same settings for us.
func keepAlive() net.KeepAliveConfig {
	return net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 3}
}

// patient makes connections whose reads and writes end after a silence. It
// bounds every call on the pool, whatever the caller's context says. A
// connection that lies idle in the pool is not read from.
func patient(dial pgconn.DialFunc, silence time.Duration) pgconn.DialFunc {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &patientConn{Conn: c, silence: silence}, nil
	}
}

// patientConn gives each read and write its own deadline, unless one has been
// set from outside, as the driver does to end a call with its context.
type patientConn struct {
	net.Conn
	silence time.Duration
	mu      sync.Mutex
	outside bool
}

// Read implements net.Conn.
func (c *patientConn) Read(p []byte) (int, error) {
	c.within(c.Conn.SetReadDeadline)
	return c.Conn.Read(p)
}

// Write implements net.Conn.
func (c *patientConn) Write(p []byte) (int, error) {
	c.within(c.Conn.SetWriteDeadline)
	return c.Conn.Write(p)
}

func (c *patientConn) within(set func(time.Time) error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.outside {
		set(time.Now().Add(c.silence)) // fails on a closed connection only, as what follows does
	}
}

// SetDeadline implements net.Conn.
func (c *patientConn) SetDeadline(t time.Time) error { return c.fromOutside(t, c.Conn.SetDeadline) }

// SetReadDeadline implements net.Conn.
func (c *patientConn) SetReadDeadline(t time.Time) error {
	return c.fromOutside(t, c.Conn.SetReadDeadline)
}

// SetWriteDeadline implements net.Conn.
func (c *patientConn) SetWriteDeadline(t time.Time) error {
	return c.fromOutside(t, c.Conn.SetWriteDeadline)
}

func (c *patientConn) fromOutside(t time.Time, set func(time.Time) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.outside = !t.IsZero()
	return set(t)
}
