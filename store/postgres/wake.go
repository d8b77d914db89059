package postgres

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// How long the listener waits between attempts to reconnect, and for the name
// of its node to become free after a process that was killed.
const (
	firstReconnect = 100 * time.Millisecond
	lastReconnect  = 5 * time.Second
	nameTimeout    = 3 * time.Second
)

// Wake implements store.Store.
func (s *Store) Wake() <-chan struct{} { return s.wake }

// Revived implements store.Store.
func (s *Store) Revived() <-chan string { return s.alive }

func (s *Store) wakeSelf() {
	select {
	case s.wake <- struct{}{}:
	default: // one is pending
	}
}

// channel is where the nodes on one schema notify each other.
func (s *Store) channel() string { return "mailxmppd_" + s.schema[:min(len(s.schema), 50)] }

// released is what the other nodes are told of a destination whose deliveries
// were made due, "" for any; s.node alone says that there is something to claim.
func (s *Store) released(destination string) string { return s.node + "\n" + destination }

func (s *Store) notify(ctx context.Context, tx pgx.Tx) error {
	_, err := tx.Exec(ctx, `SELECT pg_notify($1, $2)`, s.channel(), s.released(""))
	return err
}

// listener owns the connection on which other nodes' notifications arrive. An
// advisory lock on it holds the node's name: two processes of one name would
// release each other's leases.
type listener struct {
	store  *Store
	config *pgx.ConnConfig
	conn   *pgx.Conn
}

// connect waits for the name for a while: the server may not yet have noticed
// the end of a process that was killed.
func (l *listener) connect(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, commitTimeout)
	defer cancel()
	var err error
	if l.conn, err = pgx.ConnectConfig(ctx, l.config.Copy()); err != nil {
		return err
	}
	deadline := time.Now().Add(nameTimeout)
	for free := false; !free; {
		err := l.conn.QueryRow(ctx, `SELECT pg_try_advisory_lock($1)`, lockKey("node", l.store.schema, l.store.node)).Scan(&free)
		switch {
		case err != nil:
			return err
		case !free && time.Now().After(deadline):
			return fmt.Errorf("another process uses this store under the node name %q", l.store.node)
		case !free:
			time.Sleep(firstReconnect)
		}
	}
	_, err = l.conn.Exec(ctx, `LISTEN `+pgx.Identifier{l.store.channel()}.Sanitize())
	return err
}

func (l *listener) close() {
	if l.conn != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		l.conn.Close(ctx)
	}
}

// run passes notifications on until the context ends, and reconnects when the
// connection is lost.
func (l *listener) run(ctx context.Context) {
	defer l.close()
	wait := firstReconnect
	for {
		err := l.receive(ctx)
		if ctx.Err() != nil {
			return
		}
		l.store.log.Warn("store listener lost", "err", err)
		for err != nil {
			select {
			case <-ctx.Done():
				return
			case <-time.After(wait):
			}
			wait = min(2*wait, lastReconnect)
			l.close()
			if err = l.connect(ctx); err != nil && ctx.Err() == nil {
				l.store.log.Warn("store listener not reconnected", "err", err)
			}
		}
		wait = firstReconnect
		l.store.wakeSelf() // something may have been missed
	}
}

func (l *listener) receive(ctx context.Context) error {
	for {
		n, err := l.next(ctx)
		if err != nil {
			return err
		}
		node, destination, released := strings.Cut(n.Payload, "\n")
		if node == l.store.node {
			continue
		}
		if released {
			select {
			case l.store.alive <- destination:
			default: // nobody reads them: not worth a wait
			}
		}
		l.store.wakeSelf()
	}
}

// next waits for a notification, and now and then for a sign of life.
func (l *listener) next(ctx context.Context) (*pgconn.Notification, error) {
	for {
		wait, cancel := context.WithTimeout(ctx, quiet)
		n, err := l.conn.WaitForNotification(wait)
		ended := wait.Err() != nil
		cancel()
		if err == nil || !ended || ctx.Err() != nil || l.conn.IsClosed() {
			return n, err
		}
		ask, cancel := context.WithTimeout(ctx, connectTimeout)
		err = l.conn.Ping(ask)
		cancel()
		if err != nil {
			return nil, err
		}
	}
}
