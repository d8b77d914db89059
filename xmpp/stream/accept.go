package stream

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"time"

	"mailxmppd/mail"
)

// Serve accepts streams with direct TLS (XEP-0368) on a TCP listener until ctx
// ends or Shutdown, and then returns nil and has closed ln. Links live on:
// Shutdown ends them. ErrShutdown means that it was called too late.
func (m *Manager) Serve(ctx context.Context, ln net.Listener) error {
	return m.serve(ctx, ln, true)
}

func (m *Manager) serve(ctx context.Context, ln net.Listener, direct bool) error {
	m.mu.Lock()
	if m.stopping {
		m.mu.Unlock()
		ln.Close()
		return ErrShutdown
	}
	m.listeners[ln] = struct{}{}
	m.mu.Unlock()
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer func() {
		stop()
		ln.Close()
		m.mu.Lock()
		delete(m.listeners, ln)
		m.mu.Unlock()
	}()
	for {
		conn, err := ln.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return nil
		case err != nil:
			// Out of descriptors, or a connection gone before it was
			// accepted: neither is the listener's end.
			m.cfg.Log.Warn("connection could not be accepted", "err", err)
			select {
			case <-time.After(250 * time.Millisecond):
			case <-ctx.Done():
			}
			continue
		}
		m.counters.accepted.Add(1)
		if !m.enter(conn) {
			m.counters.turnedAway.Add(1)
			conn.Close()
			continue
		}
		go m.welcome(conn, direct)
	}
}

// enter counts an accepted connection against the bounds and puts it among
// those in negotiation.
func (m *Manager) enter(conn net.Conn) bool {
	addr := addrOf(conn)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stopping || m.accepted >= m.cfg.MaxStreams || m.perAddr[addr] >= m.cfg.MaxPerAddress {
		return false
	}
	m.accepted++
	m.perAddr[addr]++
	m.young[conn] = struct{}{}
	m.wg.Add(1)
	return true
}

// leave ends the counting of an accepted connection.
func (m *Manager) leave(conn net.Conn) {
	addr := addrOf(conn)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.accepted--
	if m.perAddr[addr]--; m.perAddr[addr] == 0 {
		delete(m.perAddr, addr)
	}
}

// grown takes a connection that became no link from those in negotiation.
func (m *Manager) grown(conn net.Conn) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.young, conn)
}

// addrOf is the address that a connection counts for. Who has one address of
// an IPv6 /64 has them all (RFC 4291 section 2.5.4): they count as one.
func addrOf(conn net.Conn) netip.Addr {
	a, ok := conn.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	ip, _ := netip.AddrFromSlice(a.IP)
	ip = ip.Unmap()
	if ip.Is6() {
		return netip.PrefixFrom(ip, 64).Masked().Addr()
	}
	return ip
}

// welcome negotiates on an accepted connection. Nothing but a TLS handshake,
// and STARTTLS where it has to come first, is ever read or written outside TLS.
func (m *Manager) welcome(raw net.Conn, direct bool) {
	defer m.wg.Done()
	err := m.receiveStream(raw, direct)
	if err == nil {
		return
	}
	m.grown(raw)
	raw.Close()
	m.leave(raw)
	m.counters.negotiationFailures.Add(1)
	m.cfg.Log.Info("stream refused", "remote", raw.RemoteAddr().String(), "err", mail.Sanitise(err.Error()))
}

func (m *Manager) receiveStream(raw net.Conn, direct bool) error {
	ctx, cancel := context.WithTimeout(m.ctx, m.cfg.NegotiateTimeout)
	defer cancel()
	deadline, _ := ctx.Deadline()
	raw.SetDeadline(deadline)
	n := m.negotiate(pair{})
	if !direct {
		n.begin(inClear{raw}, StageStartTLS)
		if err := n.giveTLS(); err != nil {
			return n.fail(err)
		}
	}
	conn := tls.Server(raw, n.serverTLS(direct))
	if err := conn.HandshakeContext(ctx); err != nil {
		return &NegotiationError{Stage: StageTLS, Err: err}
	}
	n.begin(conn, StageHeader)
	if err := n.respond(ctx); err != nil {
		return n.fail(err)
	}
	if err := m.adopt(n.link(true)); err != nil {
		return n.fail(&streamError{condition: "system-shutdown"})
	}
	return nil
}
