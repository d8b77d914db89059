package smtpbridge

import "sync/atomic"

// ServerCounts is what a Server counted since its start, for metrics.
type ServerCounts struct {
	Connections uint64 // that came
	TurnedAway  uint64 // of them, at once
	RateLimited uint64 // connections and messages beyond a rate
	BrokenOff   uint64 // sessions that were ended for what the client did
	AuthOK      uint64
	AuthFailed  uint64 // wrong, broken off or cancelled
	AuthLimited uint64 // refused without a look at the password
}

type serverCounts struct {
	connections, turnedAway, rateLimited, brokenOff, authOK, authFailed, authLimited atomic.Uint64
}

// Counts returns the counts so far.
func (s *Server) Counts() ServerCounts {
	c := &s.counts
	return ServerCounts{
		Connections: c.connections.Load(), TurnedAway: c.turnedAway.Load(), RateLimited: c.rateLimited.Load(),
		BrokenOff: c.brokenOff.Load(), AuthOK: c.authOK.Load(), AuthFailed: c.authFailed.Load(), AuthLimited: c.authLimited.Load(),
	}
}
