// Package postgres is the store on PostgreSQL, for one node or several that
// share a schema.
//
// Role: it fulfils store.Store. Nodes are alike and keep nothing durable of
// their own: deliveries are claimed with FOR UPDATE SKIP LOCKED under a lease
// with a fencing token, all times are the database's, and LISTEN and NOTIFY
// wake the other nodes.
//
// Invariants: what is acknowledged was committed with synchronous_commit on
// and fsync on, else Open refuses; a delivery is under at most one valid
// token; content is removed in the transaction that settles the last delivery
// of its message.
//
// Failure semantics: writes of concurrent callers are grouped into one
// transaction (see writer.go), and an error of the group makes each be tried
// alone, so that no caller fails for another's fault. A lost connection gives
// every caller concerned an error, and since the commit may have happened, all
// writes can be repeated: PutMessage by its id, Accept by its key and
// recipients, Settle by its token. The pool connects anew by itself.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// minConns is for the writer, a large content on its way in, and a reader:
// they must not wait for each other. The listener has one beside the pool.
const minConns = 3

// connectTimeout bounds the making of a connection; see bounds.go for what else
// is bounded.
const connectTimeout = 5 * time.Second

// Config says which database to use.
type Config struct {
	URL      string       // postgres://user@host/database?options
	Schema   string       // made if missing; "" means "mailxmppd"
	Node     string       // unique per process; "" makes a random one
	MaxConns int          // at most so many connections; 0 means 8
	Log      *slog.Logger // nil: slog.Default
}

// Store is a store.Store on PostgreSQL.
type Store struct {
	pool   *pgxpool.Pool
	node   string
	schema string
	log    *slog.Logger
	wake   chan struct{}
	alive  chan string // Revived
	ops    chan *op
	large  chan struct{}          // bounds the large contents on their way in
	walked atomic.Pointer[string] // the domain at which the last walk of a claim ended

	stop             context.CancelFunc // of the listener
	closing          chan struct{}
	once             sync.Once
	writer, listener sync.WaitGroup
}

var _ store.Store = (*Store)(nil)

var schemaName = regexp.MustCompile(`^[a-z_][a-z0-9_]{0,62}$`)

// Open connects, brings the schema up to date, frees what an earlier process
// of the same node name held, and starts the writer. The context bounds the
// opening only.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	pcfg, err := poolConfig(cfg)
	if err != nil {
		return nil, err
	}
	if err := migrate(ctx, pcfg.ConnConfig, cfg.Schema); err != nil {
		return nil, fmt.Errorf("open store: %w", failed(err))
	}
	return start(ctx, cfg, pcfg, silence)
}

// complete puts in what was left out.
func (cfg *Config) complete() error {
	if cfg.Schema == "" {
		cfg.Schema = "mailxmppd"
	}
	if !schemaName.MatchString(cfg.Schema) {
		return fmt.Errorf("schema name %q: want lower-case letters, digits and underscores, at most 63", cfg.Schema)
	}
	if cfg.Node == "" {
		cfg.Node = string(mail.NewID())
	}
	if cfg.MaxConns <= 0 {
		cfg.MaxConns = 8
	}
	cfg.MaxConns = max(cfg.MaxConns, minConns)
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	return nil
}

func start(ctx context.Context, cfg Config, pcfg *pgxpool.Config, silence time.Duration) (*Store, error) {
	pooled := pcfg.Copy()
	pooled.ConnConfig.DialFunc = patient(pcfg.ConnConfig.DialFunc, silence)
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	s := &Store{
		node: cfg.Node, schema: cfg.Schema, log: cfg.Log,
		wake: make(chan struct{}, 1), alive: make(chan string, 64), ops: make(chan *op), large: make(chan struct{}, cfg.MaxConns-minConns+1),
		stop: stop, closing: make(chan struct{}),
	}
	pooled.PrepareConn = s.usable
	var err error
	if s.pool, err = pgxpool.NewWithConfig(context.WithoutCancel(ctx), pooled); err != nil {
		stop()
		return nil, fmt.Errorf("open store: %w", err)
	}
	s.walked.Store(new(string))
	l := &listener{store: s, config: pcfg.ConnConfig}
	if err = l.connect(ctx); err == nil {
		err = refuseUnfinished(ctx, l.conn, cfg.Schema)
	}
	if err == nil {
		err = s.releaseOwn(ctx)
	}
	if err != nil {
		l.close()
		stop()
		s.pool.Close()
		return nil, fmt.Errorf("open store: %w", failed(err))
	}
	s.writer.Go(s.writeLoop)
	s.listener.Go(func() { l.run(background) })
	return s, nil
}

// Close ends the work in hand and closes the store.
func (s *Store) Close() error {
	s.once.Do(func() {
		close(s.closing)
		s.writer.Wait()
		s.stop()
		s.listener.Wait()
		s.pool.Close()
	})
	return nil
}

// errClosed answers calls after Close.
var errClosed = errors.New("store is closed")
