package stream

import (
	"time"

	"mailxmppd/xmpp/wire"
)

// watch starts the look at the link's health that recurs until it ends. It is
// a timer, not a goroutine: thousands of idle links cost next to nothing.
func (l *Link) watch() {
	every := min(l.cfg.PingAfter, l.cfg.IdleClose, l.cfg.RequestTimeout)
	if l.keepAlive > 0 {
		every = min(every, l.keepAlive)
	}
	every = max(10*time.Millisecond, every/4)
	now := time.Now().UnixNano()
	l.lastRead.Store(now)
	l.lastBusy.Store(now)
	l.lastWrite.Store(now)
	l.mu.Lock()
	defer l.mu.Unlock() // tick reads l.life
	l.life = time.AfterFunc(l.next(every), func() { l.tick(every) })
}

// tick closes a link that is too old or idle, asks one for life that brought
// nothing for long, and ends one that does not answer: a connection that is
// half open, or a peer that sends one stanza for ever. One-way streams cannot
// be pinged; acks do where the peer has them, and TCP keepalives.
func (l *Link) tick(every time.Duration) {
	now := time.Now()
	since := func(at int64) time.Duration { return now.Sub(time.Unix(0, at)) }
	read := l.lastRead.Load()
	switch {
	case !now.Before(l.expires):
		l.Close("")
	case since(l.lastBusy.Load()) >= l.cfg.IdleClose && !l.busy():
		l.Close("")
	case l.doubtful() && since(l.lastPing.Load()) >= l.cfg.RequestTimeout:
		l.Close("connection-timeout")
	case l.askAck(now):
		l.Close("connection-timeout")
	case l.way == bothWays && !l.doubtful() && since(read) >= l.cfg.PingAfter:
		l.ping()
	case l.keepAlive > 0 && since(l.lastWrite.Load()) >= l.keepAlive:
		l.sayNow(" ") // RFC 6120 section 4.6.1
	}
	select {
	case <-l.done:
	default:
		l.mu.Lock()
		defer l.mu.Unlock()
		l.life.Reset(l.next(every))
	}
}

// keepAlive is how often a peer must hear something that ends idle streams
// after that time (XEP-0478 section 3). One with less than ten seconds of
// patience is let go its way.
func keepAlive(peerIdle time.Duration) time.Duration {
	if peerIdle < 10*time.Second {
		return 0
	}
	return peerIdle / 2
}

// doubtful reports whether the peer has been pinged and nothing has come from
// it since.
func (l *Link) doubtful() bool { return l.lastPing.Load() > l.lastRead.Load() }

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
	l.lastPing.Store(time.Now().UnixNano())
	id := newID()
	l.mu.Lock()
	delete(l.waiting, l.pings[0]) // the last two may still be answered
	l.pings = [2]string{l.pings[1], id}
	l.waiting[id] = make(chan *wire.Element, 1)
	l.mu.Unlock()
	// Without room for it, the writer's own deadline decides.
	l.answerNow(l.stanzaHead("iq", "get", id), []byte("<ping xmlns='"+nsPing+"'/>"), iqEnd)
}
