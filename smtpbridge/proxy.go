package smtpbridge

import (
	"time"
)

// fromProxy says whether the connection comes from a proxy that tells whose it
// is.
func (s *session) fromProxy() bool { return within(s.client.Addr.Addr(), s.srv.cfg.Proxies) }

// meetProxy reads the header that a trusted proxy sends first, before TLS and
// greeting. A proxy that sends none, or not in time, is none of ours, and is
// told nothing. false ends the session.
func (s *session) meetProxy() bool {
	if !s.fromProxy() {
		return true
	}
	defer s.awake()
	s.conn.SetReadDeadline(time.Now().Add(s.srv.cfg.Timeouts.Proxy))
	if !s.rest() {
		return false
	}
	header, err := readProxyHeader(s.conn)
	if err != nil {
		s.srv.counts.brokenOff.Add(1)
		s.srv.cfg.Log.Info("proxy header refused", "remote", s.remote(), "err", err)
		return false
	}
	if !header.source.IsValid() {
		return true // the proxy's own connection, to see that we live
	}
	s.client.Via, s.client.Addr, s.client.Local = s.client.Addr, header.source, header.destination
	if refusal := s.srv.countBehindProxy(s); refusal != nil {
		s.srv.turnAway(s.conn, *refusal)
		return false
	}
	return true
}
