// Package sqlite is the store in one SQLite database beside the process: the
// default, for one node.
//
// Role: it fulfils store.Store with the pure Go build of SQLite. All writing
// goes through one goroutine that commits in groups (writer.go); reading has a
// few connections of its own.
//
// Invariants: one process owns the database (lock.go). A delivery is open
// exactly while its due column is set; what is due may be claimed, whatever
// its state, so that a lease that runs out needs nobody to notice. Content is
// referred to by one message or one transfer, or is listed in the table loose
// and on its way out. Numbers of messages and contents are never used twice
// while anything still bears them.
//
// Failure: a call's error means that nothing was done; only when the flush
// itself fails may it have been done whole. A full disk gives store.ErrFull
// and leaves everything as it was; calls succeed again once there is room.
package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pressly/goose/v3"

	"mailxmppd/schema"
	"mailxmppd/store"
)

// Config says where the store is.
type Config struct {
	Path string           // of the database; its folder must exist
	Log  *slog.Logger     // nil: none
	Now  func() time.Time // the store's clock; nil: the system's as it is at the opening, carried on steadily
}

// Store is a store.Store.
type Store struct {
	log  *slog.Logger
	now  func() int64 // milliseconds
	path string
	lock *os.File
	wake chan struct{}

	writer  *writer
	readers chan *conn
	gate    sync.RWMutex // readers hold it while they read, the writer to empty the log
	groups  int          // since the log's size was looked at; the writer's goroutine only
	emptied time.Time    // when the log was last emptied for want of room; the writer's too
	maxLog  int64        // octets of write-ahead log at which it is emptied by force; the writer's too
	closing chan struct{}
	closed  sync.Once
	err     error // of closing

	num     atomic.Int64           // last number drawn for a message or content
	staging sync.Map               // contents being written that nothing refers to yet
	large   chan struct{}          // taken by each call that writes content in pieces
	mover   bool                   // open to be moved
	walked  atomic.Pointer[string] // the domain at which the last walk of a claim ended
	backups atomic.Int64           // running
	traces  atomic.Int64           // where Maintain's walk over finished messages stands
}

var _ store.Store = (*Store)(nil)

const (
	pageSize = 8192
	nReaders = 4
	nLarge   = 16       // contents of many pieces written at once: each holds one in memory
	maxLog   = 64 << 20 // of the log: twice where SQLite starts it anew by itself
)

// Open opens the store, makes or migrates its tables, and releases what a
// dead process held. ErrNewer if a newer program wrote it.
func Open(ctx context.Context, cfg Config) (*Store, error) { return openFor(ctx, cfg, false) }

func openFor(ctx context.Context, cfg Config, mover bool) (*Store, error) {
	s := &Store{
		log: cfg.Log, path: cfg.Path, mover: mover,
		wake: make(chan struct{}, 1), readers: make(chan *conn, nReaders), closing: make(chan struct{}),
		large: make(chan struct{}, nLarge), maxLog: maxLog,
	}
	s.walked.Store(new(string))
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = steadyClock(systemTime, elapsed)
	}
	s.now = func() int64 { return cfg.Now().UnixMilli() }
	if err := s.open(ctx); err != nil {
		return nil, fmt.Errorf("store %s: %w", cfg.Path, err)
	}
	return s, nil
}

func (s *Store) open(ctx context.Context) (err error) {
	if info, err := os.Stat(filepath.Dir(s.path)); err != nil {
		return fmt.Errorf("folder of the database: %w", err)
	} else if !info.IsDir() {
		return errors.New("folder of the database is not a folder")
	}
	if s.lock, err = lock(s.path + ".lock"); err != nil {
		return err
	}
	c, err := s.openWriter(ctx)
	if err != nil {
		s.lock.Close()
		return err
	}
	for range nReaders {
		r, err := openConn(s.path, "busy_timeout=10000", "query_only=1", "cache_size=-2048", "temp_store=MEMORY")
		if err != nil {
			s.closeReaders(len(s.readers))
			c.close()
			s.lock.Close()
			return err
		}
		s.readers <- r
	}
	s.writer = startWriter(c, s.takesMore, s.keepLogSmall)
	return nil
}

// openWriter makes the database ready: file, settings, tables, then what the
// last owner left.
func (s *Store) openWriter(ctx context.Context) (*conn, error) {
	// Made here so that mail is nobody else's to read: SQLite's own files
	// take the mode of the database.
	f, err := os.OpenFile(s.path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, explain(err)
	}
	f.Close()
	// The page size must be set before the log is, and counts for new files.
	// auto_vacuum stays off: pages freed by one message serve the next.
	c, err := openConn(s.path, "busy_timeout=10000", fmt.Sprintf("page_size=%d", pageSize), "journal_mode=WAL",
		"cache_size=-16384", "temp_store=MEMORY", fmt.Sprintf("journal_size_limit=%d", maxLog), "wal_autocheckpoint=4000")
	if err != nil {
		return nil, err
	}
	if err = s.checkStart(ctx, c); err == nil {
		err = s.migrate(ctx)
	}
	if err == nil {
		err = refuseMoved(c, s.mover)
	}
	if err == nil {
		err = s.notBefore(c)
	}
	if err == nil {
		err = s.takeOver(c)
	}
	if err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

// migrate brings the tables to this program's version.
func (s *Store) migrate(ctx context.Context) error {
	db, err := sql.Open("sqlite", s.path)
	if err != nil {
		return explain(err)
	}
	defer db.Close()
	p, err := goose.NewProvider(goose.DialectSQLite3, db, schema.SQLite(),
		goose.WithDisableGlobalRegistry(true), goose.WithLogger(goose.NopLogger()), goose.WithAllowOutofOrder(true))
	if err != nil {
		return err
	}
	if _, err := p.GetDBVersion(ctx); err != nil { // which makes its table
		return explain(err)
	}
	have, want, err := standing(ctx, db)
	if err != nil {
		return err
	}
	if have > want {
		return fmt.Errorf("%w: it has schema %d, this program knows %d", store.ErrNewer, have, want)
	}
	done, err := p.Up(ctx)
	for _, m := range done {
		s.log.Info("schema migrated", "version", m.Source.Version)
	}
	return explain(err)
}

// The back-off of a delivery whose attempts are cut short again and again:
// none for the first in a row, then twice as long each time. A message that
// crashes us thus cannot have us hammer its peer.
const releaseLeases = `
UPDATE deliveries SET
	state = CASE WHEN attempt = 0 THEN 0 ELSE 1 END,
	due = ? + CASE WHEN cut < 2 THEN 0 WHEN cut > 8 THEN 300000 ELSE 1000 << cut END,
	in_doubt = CASE WHEN began > 0 AND ended = 0 THEN 1 ELSE in_doubt END,
	doubt_way = CASE WHEN began > 0 AND ended = 0 AND doubt_way <> 'xmpp' THEN way ELSE doubt_way END,
	ended = CASE WHEN began > 0 AND ended = 0 THEN -1 ELSE ended END
WHERE due IS NOT NULL AND state = 2`

// takeOver releases the leases of the process that had the store before, and
// finds the highest number in use.
func (s *Store) takeOver(c *conn) error {
	if _, err := c.exec("BEGIN IMMEDIATE"); err != nil {
		return err
	}
	released, err := c.exec(releaseLeases, s.now())
	if err != nil {
		return err
	}
	if _, err := c.exec("COMMIT"); err != nil {
		return err
	}
	if released > 0 {
		s.log.Info("leases of an ended process released", "deliveries", released)
	}
	r, err := c.first(`SELECT max(
		(SELECT coalesce(max(num), 0) FROM messages),
		(SELECT coalesce(max(key) >> 24, 0) FROM content),
		(SELECT coalesce(max(delivery) >> 16, 0) FROM acceptances),
		(SELECT coalesce(max(content), 0) FROM loose),
		(SELECT coalesce(max(content), 0) FROM transfers))`)
	if err != nil {
		return err
	}
	s.num.Store(r.int(0))
	return nil
}

// read borrows a reading connection. What it reads is the state of one moment
// only if it is one statement, or within read's own transaction.
func (s *Store) read(ctx context.Context, do func(*conn) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case <-s.closing:
		return errClosed
	default:
	}
	select {
	case c := <-s.readers:
		defer func() { s.readers <- c }()
		s.gate.RLock()
		defer s.gate.RUnlock()
		return do(c)
	case <-s.closing:
		return errClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

// snapshot is read within one transaction.
func (s *Store) snapshot(ctx context.Context, do func(*conn) error) error {
	return s.read(ctx, func(c *conn) error {
		if _, err := c.exec("BEGIN"); err != nil {
			return err
		}
		err := do(c)
		_, end := c.exec("ROLLBACK")
		return errors.Join(err, end)
	})
}

// Wake implements store.Store.
func (s *Store) Wake() <-chan struct{} { return s.wake }

// Revived implements store.Store: there is no other node.
func (s *Store) Revived() <-chan string { return nil }

// signal tells who listens to Wake, if nobody has yet.
func (s *Store) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Close implements store.Store.
func (s *Store) Close() error {
	s.closed.Do(func() {
		close(s.closing)
		s.err = errors.Join(s.closeReaders(nReaders), s.writer.close(), s.lock.Close())
	})
	return s.err
}

// closeReaders waits for n reading connections to come back and closes them.
func (s *Store) closeReaders(n int) error {
	var err error
	for range n {
		err = errors.Join(err, (<-s.readers).close())
	}
	return err
}
