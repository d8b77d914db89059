package stream

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"mailxmppd/mail"
	"mailxmppd/xmpp/wire"
)

// Link is a live stream with one peer domain. Safe for concurrent use.
type Link struct {
	m       *Manager
	cfg     *Config
	conn    secured
	parser  *wire.Parser
	binding mail.Binding
	inbound bool
	way     way
	origin  *attempts // whose dial made it; nil if the peer's
	born    time.Time
	peerMax int    // octets of a stanza that the peer takes
	iqFrom  string // " from='..' to='..'>" of every stanza, escaped
	expires time.Time

	keepAlive time.Duration // something is sent at least that often; 0: no matter
	acks      acks
	heard     bool // a stanza has come; the reader's alone
	out       *outbox
	written   chan struct{} // closed when the writer has ended
	ctx       context.Context
	cancel    context.CancelFunc
	handlers  sync.WaitGroup // added to by the reader alone
	tasks     chan task      // to handlers that wait for one
	life      *time.Timer

	mu       sync.Mutex
	waiting  map[string]chan<- *wire.Element // requests by id, each channel with room for its answer
	handling int                             // requests of the peer in hand
	holding  int                             // octets of them
	asking   int                             // requests of ours under way
	pings    [2]string                       // ids of the last pings
	retired  bool                            // takes no new requests, either way
	drained  chan struct{}                   // closed when retired and nothing is under way

	lastRead atomic.Int64 // when the peer last sent an element, Unix nanoseconds
	lastBusy atomic.Int64 // when a request was last under way
	lastPing atomic.Int64 // when we last pinged

	lastWrite atomic.Int64 // when something was last sent

	ending              atomic.Bool // Close was called
	closeOnce, killOnce sync.Once
	done                chan struct{} // closed by kill
	silent              chan struct{} // closed by the reader: no answer will come any more
}

// Binding says for whom the link speaks and what proved it.
func (l *Link) Binding() mail.Binding { return l.binding }

func (l *Link) pair() pair { return pair{l.binding.Local, l.binding.Remote} }

// MaxStanza is the size in octets that a whole stanza to the peer may have:
// what the peer announced (XEP-0478), or our own limit where it did not.
func (l *Link) MaxStanza() int { return l.peerMax }

// Done is closed when the link is dead.
func (l *Link) Done() <-chan struct{} { return l.done }

// Inbound reports whether the peer opened the connection.
func (l *Link) Inbound() bool { return l.inbound }

// Close ends the link without waiting for it: with reason "" in order, once
// what is under way has been answered (each step at most CloseTimeout);
// otherwise at once, with that stream error condition.
func (l *Link) Close(reason string) {
	l.closeOnce.Do(func() {
		l.ending.Store(true)
		l.retire()
		go l.shut(reason)
	})
}

func (l *Link) shut(reason string) {
	l.m.drop(l)
	if reason == "" {
		await(l.drained, l.done, l.cfg.CloseTimeout)
		l.out.end(encodeStreamEnd(nil))
	} else {
		l.out.end(encodeStreamEnd(&streamError{condition: reason}))
	}
	if !await(l.done, nil, l.cfg.CloseTimeout) {
		l.kill()
	}
}

// await waits for either channel, no longer than d; it reports whether one of
// them was closed.
func await(a, b <-chan struct{}, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-a:
		return true
	case <-b:
		return true
	case <-t.C:
		return false
	}
}

// run is the reader: it lives as long as the link.
func (l *Link) run() {
	go l.writer()
	err := l.read()
	l.m.broke(l, err)
	l.retire()
	l.m.drop(l)
	l.life.Stop()
	l.finish(err)
	<-l.written
	l.handlers.Wait()
	l.cfg.Log.Info("stream closed", "peer", l.binding.Remote, "local", l.binding.Local,
		"dir", direction(l.inbound), "remote", l.binding.Addr, "err", closeReason(err))
}

func closeReason(err error) string {
	if err == io.EOF {
		return ""
	}
	return mail.Sanitise(err.Error())
}

// finish ends the link after the reader has ended with err.
func (l *Link) finish(err error) {
	refused, ours := errors.AsType[*streamError](err)
	malformed, ok := errors.AsType[*wire.Error](err)
	if ok {
		refused, ours = &streamError{condition: malformed.Condition, text: malformed.Text}, true
	}
	_, byPeer := errors.AsType[*peerError](err)
	ended := err == io.EOF
	if !ours && !byPeer && !ended {
		l.kill() // first, so that a waiter knows what never left
		close(l.silent)
		return
	}
	close(l.silent)
	if ours {
		l.m.counters.streamErrors.Add(1)
	}
	if ended {
		// The peer sends nothing more, but still reads (RFC 6120 section
		// 4.4): let what it asked be answered.
		await(l.drained, l.written, l.cfg.CloseTimeout)
	}
	l.out.end(encodeStreamEnd(refused))
	if await(l.written, nil, l.cfg.CloseTimeout) {
		// TLS ends only now: some, as Prosody, drop their own closing tag on
		// seeing its end (RFC 6120 section 4.4).
		l.conn.CloseWrite()
	}
	if ours {
		l.linger()
	}
	l.kill()
}

// linger reads and forgets what the peer had under way: closing a socket with
// unread octets would reset it, and the peer would not see our stream error.
func (l *Link) linger() { lingerOn(l.conn.NetConn(), l.cfg.CloseTimeout) }

// kill ends the link at once; whoever waits is released.
func (l *Link) kill() {
	l.killOnce.Do(func() {
		l.retire()
		l.out.kill()
		l.cancel()
		l.conn.NetConn().Close()
		close(l.done)
	})
}

// retire makes the link take no new requests.
func (l *Link) retire() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.retired {
		l.retired = true
		l.checkDrained()
	}
}

// checkDrained is called with mu held after any of its terms has changed.
func (l *Link) checkDrained() {
	if l.retired && l.handling == 0 && l.asking == 0 {
		select {
		case <-l.drained:
		default:
			close(l.drained)
		}
	}
}

func (l *Link) usable() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.retired
}

func direction(inbound bool) string {
	if inbound {
		return "in"
	}
	return "out"
}
