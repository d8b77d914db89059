package smtpbridge

import (
	"net"
	"net/netip"
	"time"
)

// admit starts a session for a connection, or turns it away.
func (s *Server) admit(conn net.Conn) {
	key := clientKey(conn.RemoteAddr())
	sess, refusal := s.register(conn, key)
	if sess == nil {
		s.turnAway(conn, refusal)
		return
	}
	go func() {
		defer s.wg.Done()
		sess.run(s.ctx)
		s.unregister(sess, key)
	}()
}

// register counts a connection in; the session is nil if there is no room.
func (s *Server) register(conn net.Conn, key string) (*session, serverReply) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.isStopping():
		return nil, serverReply{421, "4.3.2", "service is shutting down"}
	case len(s.sessions) >= s.cfg.Limits.Connections:
		return nil, serverReply{421, "4.3.2", "too many connections, try again later"}
	case key != "" && s.perClient[key] >= s.cfg.Limits.PerAddress:
		return nil, serverReply{421, "4.7.0", "too many connections from your address"}
	}
	sess := newSession(s, conn)
	s.sessions[sess] = struct{}{}
	if key != "" {
		s.perClient[key]++
	}
	s.wg.Add(1)
	return sess, serverReply{}
}

func (s *Server) unregister(sess *session, key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sessions, sess)
	if key == "" {
		return
	}
	if s.perClient[key]--; s.perClient[key] == 0 {
		delete(s.perClient, key)
	}
}

// turnAway answers a connection for which there is no session. It must not
// hold up the accept loop: the reply fits the empty send buffer of a new
// connection, and the deadline covers the case that it does not. Who expects
// TLS could not read it.
func (s *Server) turnAway(conn net.Conn, refusal serverReply) {
	s.cfg.Log.Info("smtp connection turned away", "remote", conn.RemoteAddr().String(), "status", refusal.status)
	if !s.cfg.ImplicitTLS {
		conn.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
		conn.Write(refusal.appendTo(nil))
	}
	conn.Close()
}

// clientKey is what connections are counted by: the address, for IPv6 its /64
// since a single host commonly has all of one; "" for a local socket.
func clientKey(addr net.Addr) string {
	ap := addrPort(addr)
	if !ap.IsValid() {
		return ""
	}
	if ip := ap.Addr(); ip.Is6() {
		prefix, err := ip.Prefix(64)
		if err != nil {
			return ip.String()
		}
		return prefix.String()
	}
	return ap.Addr().String()
}

// addrPort is the zero value for what is not TCP.
func addrPort(addr net.Addr) netip.AddrPort {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := tcp.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
}
