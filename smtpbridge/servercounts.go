package smtpbridge

import "sync/atomic"

// ServerCounts is what a Server counted since its start, for metrics.
type ServerCounts struct {
	Connections      uint64 // that came
	TurnedAway       uint64 // of them, at once
	RateLimited      uint64 // connections and messages beyond a rate
	BrokenOff        uint64 // sessions that were ended for what the client did
	TimedOut         uint64 // sessions that were ended for what the client did not do
	HandshakesFailed uint64 // sessions that ended in the TLS handshake
	CommandsRefused  uint64 // but for recipients that the Handler refused
	ContentsRefused  uint64 // of them: for their form, their size, or want of space, before the Handler saw them
	AuthOK           uint64
	AuthFailed       uint64 // wrong, broken off or cancelled
	AuthLimited      uint64 // refused without a look at the password
}

type serverCounts struct {
	connections, turnedAway, rateLimited, brokenOff, timedOut, handshakesFailed atomic.Uint64
	commandsRefused, contentsRefused, authOK, authFailed, authLimited           atomic.Uint64
}

// Counts returns the counts so far.
func (s *Server) Counts() ServerCounts {
	c := &s.counts
	return ServerCounts{
		Connections: c.connections.Load(), TurnedAway: c.turnedAway.Load(), RateLimited: c.rateLimited.Load(),
		BrokenOff: c.brokenOff.Load(), TimedOut: c.timedOut.Load(), HandshakesFailed: c.handshakesFailed.Load(),
		CommandsRefused: c.commandsRefused.Load(), ContentsRefused: c.contentsRefused.Load(),
		AuthOK: c.authOK.Load(), AuthFailed: c.authFailed.Load(), AuthLimited: c.authLimited.Load(),
	}
}
