package sqlite

import "time"

// steadyClock tells the time of day as it was at its making, carried on by a
// clock that nobody sets: where the system's is set while the store is open, no
// lease runs out under a running attempt, and no wait grows.
func steadyClock(now func() time.Time, elapsed func() time.Duration) func() time.Time {
	start, begin := now(), elapsed()
	return func() time.Time { return start.Add(elapsed() - begin) }
}

// lastSeen is the latest that the store knows of: the newest message, or the
// last attempt of the delivery that waits longest. What waits was told to by
// then, for no longer than the longest time between attempts.
const lastSeen = `SELECT max(
	coalesce((SELECT created FROM messages ORDER BY num DESC LIMIT 1), 0),
	coalesce((SELECT max(began, ended) FROM deliveries WHERE state < 2 ORDER BY due DESC LIMIT 1), 0))`

// notBefore carries the clock on from what the store has seen, where the
// system's is behind that, as after a start without a battery for it: else what
// waits would do so until the system's has caught up.
func (s *Store) notBefore(c *conn) error {
	r, err := c.first(lastSeen)
	if err != nil {
		return err
	}
	behind := r.int(0) - s.now()
	if behind <= 0 {
		return nil
	}
	s.log.Warn("the system's clock is behind the store's, which goes on from its own", "by", duration(behind))
	now := s.now
	s.now = func() int64 { return now() + behind }
	return nil
}
