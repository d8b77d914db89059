package stream

import (
	"time"

	"mailxmppd/xmpp/wire"
)

// watch starts the look at the link's health that recurs until it ends. It is
// a timer, not a goroutine: thousands of idle links cost next to nothing.
func (l *Link) watch() {
	every := max(10*time.Millisecond, min(l.cfg.PingAfter, l.cfg.IdleClose, l.cfg.RequestTimeout)/4)
	now := time.Now()
	l.lastRead.Store(now.UnixNano())
	l.lastBusy.Store(now.UnixNano())
	l.mu.Lock()
	defer l.mu.Unlock() // tick reads l.life
	l.life = time.AfterFunc(l.next(every), func() { l.tick(every) })
}

// tick closes a link that is too old or idle, asks one for life that brought
// nothing for long, and ends one that does not answer: a connection that is
// half open, or a peer that sends one stanza for ever.
func (l *Link) tick(every time.Duration) {
	now := time.Now()
	since := func(at int64) time.Duration { return now.Sub(time.Unix(0, at)) }
	read, ping := l.lastRead.Load(), l.lastPing.Load()
	switch {
	case !now.Before(l.expires):
		l.Close("")
	case since(l.lastBusy.Load()) >= l.cfg.IdleClose && !l.busy():
		l.Close("")
	case ping > read && since(ping) >= l.cfg.RequestTimeout:
		l.Close("connection-timeout")
	case ping <= read && since(read) >= l.cfg.PingAfter:
		l.lastPing.Store(now.UnixNano())
		l.ping()
	}
	select {
	case <-l.done:
	default:
		l.mu.Lock()
		defer l.mu.Unlock()
		l.life.Reset(l.next(every))
	}
}

// next is the time to the next look.
func (l *Link) next(every time.Duration) time.Duration {
	return max(10*time.Millisecond, min(every, time.Until(l.expires)))
}

func (l *Link) busy() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.asking > 0 || l.handling > 0
}

// ping asks for a sign of life (XEP-0199). Any stanza is one, an error too,
// so nobody waits for the answer; it is in the table to be known as ours.
func (l *Link) ping() {
	id := newID()
	l.mu.Lock()
	delete(l.waiting, l.pingID)
	l.pingID = id
	l.waiting[id] = make(chan *wire.Element, 1)
	l.mu.Unlock()
	// Without room for it, the writer's own deadline decides.
	l.answerNow(l.stanzaHead("iq", "get", id), []byte("<ping xmlns='"+nsPing+"'/>"), iqEnd)
}
