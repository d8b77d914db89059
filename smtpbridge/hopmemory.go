package smtpbridge

import (
	"sync"
	"time"
)

const (
	// maxFailedPlaces bounds what is remembered of dead places.
	maxFailedPlaces = 1000
	// maxFailedTimes caps the growth of the time for which a place comes last.
	maxFailedTimes = 5
)

// failedPlaces remembers the places that could not be connected to, so that
// one dead host of several does not cost every message the same wait. The time
// grows with each failure that follows and ends with the first success.
type failedPlaces struct {
	base time.Duration
	now  func() time.Time

	mu sync.Mutex
	at map[string]failedPlace
}

type failedPlace struct {
	times int
	until time.Time
}

func newFailedPlaces(base time.Duration) *failedPlaces {
	return &failedPlaces{base: base, now: time.Now, at: map[string]failedPlace{}}
}

// recently reports whether a place is to come last.
func (m *failedPlaces) recently(addr string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	p, ok := m.at[addr]
	return ok && m.now().Before(p.until)
}

func (m *failedPlaces) failed(addr string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p, known := m.at[addr]
	if !known && len(m.at) >= maxFailedPlaces {
		m.makeRoom()
	}
	p.times = min(p.times+1, maxFailedTimes)
	p.until = m.now().Add(time.Duration(p.times) * m.base)
	m.at[addr] = p
}

func (m *failedPlaces) reached(addr string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.at, addr)
}

// makeRoom drops, of 16 entries in the map's own random order, all that are
// over, or else one: forgetting costs a wait, no more. m.mu is held.
func (m *failedPlaces) makeRoom() {
	now, looked, freed := m.now(), 0, false
	for addr, p := range m.at {
		if looked++; !now.Before(p.until) || looked == 16 && !freed {
			delete(m.at, addr)
			freed = true
		}
		if looked == 16 {
			return
		}
	}
}
