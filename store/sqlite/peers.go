package sqlite

import (
	"context"
	"time"

	"mailxmppd/store"
)

// Peer implements store.Peers.
func (s *Store) Peer(ctx context.Context, domain string) (p store.Peer, err error) {
	err = s.read(ctx, func(c *conn) error {
		r, err := c.first("SELECT facts, seen FROM peers WHERE domain = ?", domain)
		if err != nil {
			return err
		}
		if r == nil {
			return store.ErrNotFound
		}
		p = store.Peer{Domain: domain, Facts: r.blob(0), Seen: time.UnixMilli(r.int(1)).UTC(), Age: duration(max(0, s.now()-r.int(1)))}
		return nil
	})
	return p, err
}

// PutPeer implements store.Peers.
func (s *Store) PutPeer(ctx context.Context, p store.Peer) error {
	return s.writer.do(ctx, plain, len(p.Facts), func(c *conn) error {
		_, err := c.exec(`INSERT INTO peers (domain, facts, seen) VALUES (?, ?, ?)
			ON CONFLICT (domain) DO UPDATE SET facts = excluded.facts, seen = excluded.seen`, p.Domain, p.Facts, s.now())
		return err
	})
}
