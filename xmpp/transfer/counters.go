package transfer

import (
	"maps"
	"sync"

	"mailxmppd/mail"
)

// Names of what a Server counts, beside "refused-<kind>" for requests that
// fail as a whole (mail.Kind) and the gauges of Snapshot.
const (
	countAccepted     = "accepted"      // messages
	countRefused      = "refused"       // messages refused for all recipients
	countReady        = "ready"         // transfers begun in chunks
	countResumed      = "resumed"       // of those, taken up above offset 0
	countOctets       = "chunk-octets"  // octets of content taken from chunks, none of them twice
	countStray        = "chunk-stray"   // chunks repeated, overlapping or too far ahead
	countUnknown      = "unknown"       // requests for a transfer that is not open here
	countWrongContent = "wrong-content" // content that is not what was offered
	countRelaying     = "relaying"      // recipients that are not of the stream's domain
	countNotBound     = "not-bound"     // reverse-paths that the stream's domain does not speak for
	countOfferFlood   = "offer-flood"   // offers above the rate of one domain
	countNullFlood    = "null-flood"    // offers above the rate for null reverse-paths
	countCheckFlood   = "check-flood"   // checks above their rate
	countGrantFlood   = "grant-flood"   // requests for permission, grants and revocations above their rates
	countCrowded      = "crowded"       // offers for which there was no room
	countDropped      = "dropped"       // open transfers dropped without progress
	countTakenOver    = "taken-over"    // open transfers lost to another node
)

// tally counts by name; the names are few and ours.
type tally struct {
	mu sync.Mutex
	n  map[string]int64
}

func newTally() *tally { return &tally{n: map[string]int64{}} }

func (t *tally) add(name string) { t.addN(name, 1) }

func (t *tally) addN(name string, n int) {
	t.mu.Lock()
	t.n[name] += int64(n)
	t.mu.Unlock()
}

func (t *tally) refusal(f *mail.Failure) { t.add("refused-" + string(f.Kind)) }

// Snapshot returns the counters since the start, and what is open now:
// "open" transfers and the "open-octets" that their envelopes take.
func (s *Server) Snapshot() map[string]int64 {
	s.tally.mu.Lock()
	out := maps.Clone(s.tally.n)
	s.tally.mu.Unlock()
	s.open.mu.Lock()
	defer s.open.mu.Unlock()
	out["open"], out["open-octets"] = int64(s.open.open), int64(s.open.octets)
	return out
}
