package smtpbridge

import (
	"net"
	"net/netip"
	"slices"
	"time"
)

// admit starts a session for a connection, or turns it away.
func (s *Server) admit(conn net.Conn) {
	s.counts.connections.Add(1)
	sess, refusal := s.register(conn)
	if sess == nil {
		s.turnAway(conn, refusal)
		return
	}
	go func() {
		defer s.wg.Done()
		sess.run(s.ctx)
		s.unregister(sess)
	}()
}

// register counts a connection in; the session is nil if there is no room.
func (s *Server) register(conn net.Conn) (*session, serverReply) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.isStopping():
		return nil, serverReply{421, "4.3.2", "service is shutting down"}
	case !s.mayConnect(addrPort(conn.RemoteAddr())):
		return nil, serverReply{554, "5.7.1", "not permitted from your address"}
	case !s.cfg.Crowd.enter(s.cfg.Limits.Connections):
		return nil, serverReply{421, "4.3.2", "too many connections, try again later"}
	}
	sess := newSession(s, conn)
	if !sess.fromProxy() { // whose client is not known yet
		if refusal := s.countIn(sess); refusal != nil {
			s.cfg.Crowd.leave("")
			return nil, *refusal
		}
	}
	s.sessions[sess] = struct{}{}
	s.wg.Add(1)
	return sess, serverReply{}
}

// mayConnect leaves who may use a local socket to the socket's file.
func (s *Server) mayConnect(addr netip.AddrPort) bool {
	return s.cfg.Clients == nil || !addr.IsValid() || within(addr.Addr(), s.cfg.Clients)
}

// countIn counts a session by its client's address.
func (s *Server) countIn(sess *session) *serverReply {
	key := clientKey(sess.client.Addr)
	switch {
	case key == "":
		return nil
	case !s.cfg.Crowd.join(key, s.cfg.Limits.PerAddress):
		return &serverReply{421, "4.7.0", "too many connections from your address"}
	case !s.rates.connection(sess.client.Addr):
		s.cfg.Crowd.quit(key)
		s.counts.rateLimited.Add(1)
		return &serverReply{421, "4.7.1", "too many connections a minute from your address"}
	}
	sess.key = key
	return nil
}

// countBehindProxy counts a session once its proxy has told whose it is.
func (s *Server) countBehindProxy(sess *session) *serverReply {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.countIn(sess)
}

func (s *Server) unregister(sess *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sessions, sess)
	s.cfg.Crowd.leave(sess.key)
}

// turnAway answers a connection for which there is no session. It must not
// hold up the accept loop: the reply fits the empty send buffer of a new
// connection, and the deadline covers the case that it does not. Who expects
// TLS could not read it.
func (s *Server) turnAway(conn net.Conn, refusal serverReply) {
	s.counts.turnedAway.Add(1)
	s.cfg.Log.Info("smtp connection turned away", "remote", conn.RemoteAddr().String(), "status", refusal.status)
	if !s.cfg.ImplicitTLS {
		conn.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
		conn.Write(refusal.appendTo(nil))
	}
	conn.Close()
}

// clientKey is what connections are counted by: the address, for IPv6 its /64
// since a single host commonly has all of one; "" for a local socket.
func clientKey(ap netip.AddrPort) string {
	switch ip := ap.Addr(); {
	case !ip.IsValid():
		return ""
	case ip.Is4():
		return ip.String()
	default:
		return netip.PrefixFrom(ip, 64).Masked().String()
	}
}

// addrPort is the zero value for what is not TCP.
func addrPort(addr net.Addr) netip.AddrPort {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	return plainAddr(tcp.AddrPort())
}

// plainAddr writes an IPv4 address as one, and no zone.
func plainAddr(ap netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
}

// within says whether an address is in one of a list of networks.
func within(ip netip.Addr, networks []netip.Prefix) bool {
	return slices.ContainsFunc(networks, func(p netip.Prefix) bool { return p.Contains(ip) })
}
