package storetest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// Crash ends the server's first process by SIGKILL, which it cannot notice; the
// others notice and end. Run recovers, once they are gone.
func (s *Server) Crash() error { return s.end(syscall.SIGKILL) }

// Recover is Run after Crash: a server does not start while processes of the
// one before still have its shared memory.
func (s *Server) Recover() error {
	for end := time.Now().Add(serverTimeout); ; time.Sleep(serverPoll) {
		if err := s.Run(); err == nil || time.Now().After(end) {
			return err
		}
	}
}

// Standby makes a copy of the running server in a new folder within dir and
// starts it as its hot standby.
func (s *Server) Standby(dir string) (*Server, error) {
	b := &Server{bin: s.bin, settings: s.settings, attr: &syscall.SysProcAttr{Pdeathsig: syscall.SIGQUIT}}
	var err error
	if b.root, err = os.MkdirTemp(dir, "mailxmppd-postgres-*"); err != nil {
		return nil, err
	}
	if err = b.copyOf(s); err == nil {
		err = b.Run()
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(b.root))
	}
	return b, nil
}

// copyOf makes the cluster out of another server's.
func (s *Server) copyOf(primary *Server) error {
	if err := s.folders("run", "data"); err != nil {
		return err
	}
	out, err := s.command("pg_basebackup", "-d", primary.URL, "-D", filepath.Join(s.root, "data"), "-R", "-X", "stream", "-c", "fast", "--no-sync").CombinedOutput()
	if err != nil {
		return fmt.Errorf("pg_basebackup: %w: %s", err, lastLines(out))
	}
	return nil
}

// Synchronous has every commit wait for the standby from now on; it returns
// once the standby keeps up.
func (s *Server) Synchronous(ctx context.Context) error {
	if err := s.Exec(ctx, `ALTER SYSTEM SET synchronous_standby_names = '*'`, `SELECT pg_reload_conf()`); err != nil {
		return err
	}
	c, err := pgx.Connect(ctx, s.URL)
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	for end := time.Now().Add(serverTimeout); ; time.Sleep(serverPoll) {
		var n int
		err := c.QueryRow(ctx, `SELECT count(*) FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum')`).Scan(&n)
		if err != nil || n > 0 {
			return err
		}
		if time.Now().After(end) {
			return errors.New("the standby does not become a synchronous one")
		}
	}
}

// Promote makes a standby the primary.
func (s *Server) Promote(ctx context.Context) error {
	return s.Exec(ctx, `SELECT pg_promote(true, 60)`)
}

// MoveLog moves the write-ahead log into a folder, such as one on a disk of its
// own. The server is restarted.
func (s *Server) MoveLog(dir string) error {
	if err := s.Halt(); err != nil {
		return err
	}
	from, to := filepath.Join(s.root, "data", "pg_wal"), filepath.Join(dir, "pg_wal")
	if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		return fmt.Errorf("moving the log: %w: %s", err, out)
	}
	if err := os.RemoveAll(from); err != nil {
		return err
	}
	if err := os.Symlink(to, from); err != nil {
		return err
	}
	return s.Run()
}

// Own gives a folder to the user that the server runs as.
func (s *Server) Own(path string) error {
	uid, gid, err := s.runAs()
	if err != nil {
		return err
	}
	return os.Chown(path, uid, gid)
}

// Exec runs statements as the superuser, each in a transaction of its own.
func (s *Server) Exec(ctx context.Context, statements ...string) error {
	c, err := pgx.Connect(ctx, s.URL)
	if err != nil {
		return err
	}
	defer c.Close(context.WithoutCancel(ctx))
	for _, sql := range statements {
		if _, err := c.Exec(ctx, sql); err != nil {
			return fmt.Errorf("%s: %w", sql, err)
		}
	}
	return nil
}
