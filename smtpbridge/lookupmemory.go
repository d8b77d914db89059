package smtpbridge

import (
	"sync"
	"time"

	"mailxmppd/mail"
)

const (
	// slowLookup is how long an answer may take without being remembered: what
	// Standings knows it tells at once.
	slowLookup    = time.Second
	lookupKeptFor = time.Minute
	lookupsKept   = 1000
)

// lookupMemory keeps for a short time what took long to find out, or could not
// be found out. Postfix's queue manager waits for each answer, one after the
// other: a hundred messages for one domain whose DNS does not answer must not
// hold up all others a hundred times. When it is full, it is emptied.
type lookupMemory struct {
	mu sync.Mutex
	m  map[string]keptLookup
}

type keptLookup struct {
	standing mail.Standing
	until    time.Time
}

func (k *lookupMemory) get(domain string) (mail.Standing, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	e, ok := k.m[domain]
	return e.standing, ok && time.Now().Before(e.until)
}

func (k *lookupMemory) put(domain string, standing mail.Standing, took time.Duration) {
	if took < slowLookup && standing != mail.Unsure {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.m == nil || len(k.m) >= lookupsKept {
		k.m = map[string]keptLookup{}
	}
	k.m[domain] = keptLookup{standing, time.Now().Add(lookupKeptFor)}
}
