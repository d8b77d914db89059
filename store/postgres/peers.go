package postgres

import (
	"context"

	"mailxmppd/store"
)

// Peer implements store.Peers.
func (s *Store) Peer(ctx context.Context, domain string) (store.Peer, error) {
	p := store.Peer{Domain: domain}
	err := s.pool.QueryRow(ctx, `SELECT facts, seen_at, (extract(epoch FROM now() - seen_at) * 1e9)::bigint FROM peers WHERE domain = $1`, domain).
		Scan(&p.Facts, &p.Seen, &p.Age)
	if err != nil {
		return store.Peer{}, failed(err)
	}
	return p, nil
}

// PutPeer implements store.Peers.
func (s *Store) PutPeer(ctx context.Context, p store.Peer) error {
	_, err := s.pool.Exec(ctx, `INSERT INTO peers (domain, facts, seen_at) VALUES ($1, $2, now())
		ON CONFLICT (domain) DO UPDATE SET facts = excluded.facts, seen_at = excluded.seen_at`, p.Domain, orEmpty(p.Facts))
	return failed(err)
}
