package trust

import (
	"crypto/sha256"
	"io"
	"sync"
	"time"

	"mailxmppd/mail"
)

// maxPatience bounds the messages that are remembered.
const maxPatience = 10_000

// patience remembers since when messages have been put off, so that a resolver
// that stays down does not put them off until their senders give up. It forgets
// at a restart, and what is too much: those begin anew.
type patience struct {
	mu    sync.Mutex
	limit time.Duration
	since map[[32]byte]time.Time
	now   func() time.Time
}

func newPatience(limit time.Duration) *patience {
	return &patience{limit: limit, since: map[[32]byte]time.Time{}, now: time.Now}
}

// over notes that a message waits for a recipient, and reports whether it has
// waited for long enough.
func (p *patience) over(m *mail.Message, rcpt mail.Address) bool {
	h := sha256.New()
	h.Write(m.Facts.SHA256[:])
	io.WriteString(h, m.Envelope.Sender.String()+"\x00"+rcpt.String())
	key := [32]byte(h.Sum(nil))
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	since, known := p.since[key]
	switch {
	case known && now.Sub(since) >= p.limit:
		return true
	case known:
		return false
	}
	if len(p.since) >= maxPatience {
		for k := range p.since { // any: whoever floods has most of them
			delete(p.since, k)
			break
		}
	}
	p.since[key] = now
	return false
}
