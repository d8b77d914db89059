package stream

import (
	"slices"
	"time"
)

// writer moves what is queued to the connection until the link ends.
func (l *Link) writer() {
	defer close(l.written)
	var batch []byte
	for last := false; !last; {
		if batch, last = l.out.take(batch); batch == nil {
			return
		}
		for p := range slices.Chunk(batch, piece) {
			if !l.out.leaving(len(p)) {
				return
			}
			if err := l.send(p); err != nil {
				l.kill()
				return
			}
			l.out.left(len(p))
		}
	}
}

// send writes to the connection; the peer has WriteTimeout to take it.
func (l *Link) send(p []byte) error {
	now := time.Now()
	l.lastWrite.Store(now.UnixNano())
	if err := l.conn.SetWriteDeadline(now.Add(l.cfg.WriteTimeout)); err != nil {
		return err
	}
	_, err := l.conn.Write(p)
	return err
}
