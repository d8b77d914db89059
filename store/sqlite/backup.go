package sqlite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"mailxmppd/schema"
	"mailxmppd/store"
)

// Backup writes what the store holds at one moment into a new file while the
// store is in use. It is checked and on the disk when Backup returns; a file
// that is there already is left alone.
func (s *Store) Backup(ctx context.Context, path string) (err error) {
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("backup %s: %w", path, os.ErrExist)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("backup %s: %w", path, err)
		}
	}()
	part, err := newPart(path)
	if err != nil {
		return err
	}
	defer os.Remove(part)
	select {
	case <-s.closing:
		return errClosed
	default:
	}
	// The log cannot be emptied while an old moment is read: trying to would
	// only keep the writer waiting.
	s.backups.Add(1)
	defer s.backups.Add(-1)
	return snapshotInto(ctx, s.path, part, path)
}

// BackupClosed is Backup of a store that nobody has open, as it is: its tables
// are not brought up to date.
func BackupClosed(ctx context.Context, path, file string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("backup %s: %w", file, err)
		}
	}()
	if _, err := os.Lstat(file); err == nil {
		return os.ErrExist
	}
	if _, err := os.Stat(path); err != nil {
		return err
	}
	held, err := lock(path + ".lock")
	if err != nil {
		return err
	}
	defer held.Close()
	part, err := newPart(file)
	if err != nil {
		return err
	}
	defer os.Remove(part)
	return snapshotInto(ctx, path, part, file)
}

// snapshotInto writes what is in a database into part, which becomes file.
func snapshotInto(ctx context.Context, path, part, file string) error {
	c, err := openConn(path, "busy_timeout=10000", "cache_size=-2048")
	if err != nil {
		return err
	}
	_, err = c.db.(driver.ExecerContext).ExecContext(ctx, "VACUUM INTO ?", []driver.NamedValue{{Ordinal: 1, Value: part}})
	if err = errors.Join(explain(err), c.close()); err != nil {
		return err
	}
	return intoPlace(ctx, part, file)
}

// Restore puts a backup to where a store is to be opened, which must be free:
// a store that is there is the operator's to move away. It is checked first,
// and on the disk when Restore returns.
func Restore(ctx context.Context, backup, path string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("restore %s: %w", path, err)
		}
	}()
	held, err := lock(path + ".lock")
	if err != nil {
		return err
	}
	defer held.Close()
	for _, name := range []string{path, path + "-wal", path + "-shm"} {
		if _, err := os.Lstat(name); err == nil {
			return fmt.Errorf("%s: %w", name, os.ErrExist)
		}
	}
	part, err := copyBeside(ctx, backup, path)
	if err != nil {
		return err
	}
	defer os.Remove(part)
	return intoPlace(ctx, part, path)
}

// copyBeside copies a backup to a new file beside path.
func copyBeside(ctx context.Context, backup, path string) (part string, err error) {
	if err := knownVersion(ctx, backup); err != nil {
		return "", err
	}
	from, err := os.Open(backup)
	if err != nil {
		return "", err
	}
	defer from.Close()
	if part, err = newPart(path); err != nil {
		return "", err
	}
	to, err := os.OpenFile(part, os.O_WRONLY, 0)
	if err == nil {
		_, err = io.Copy(to, from)
		err = explain(errors.Join(err, to.Close()))
	}
	if err != nil {
		os.Remove(part)
		return "", err
	}
	return part, nil
}

// newPart makes an empty file beside path, for nobody else to read.
func newPart(path string) (string, error) {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*.part")
	if err != nil {
		return "", err
	}
	return f.Name(), f.Close()
}

// intoPlace checks a file, has it on the disk and gives it its name.
func intoPlace(ctx context.Context, part, path string) error {
	if err := Check(ctx, part); err != nil {
		return err
	}
	for _, step := range []func() error{
		func() error { return flush(part) },
		func() error { return os.Link(part, path) }, // unlike a renaming it replaces nothing
		func() error { return flush(filepath.Dir(path)) },
	} {
		if err := step(); err != nil {
			return explain(err)
		}
	}
	return nil
}

func flush(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// knownVersion refuses what is no store of this program or an older one.
func knownVersion(ctx context.Context, path string) error {
	if _, err := os.Stat(path); err != nil {
		return err
	}
	has, knows, err := versions(ctx, "file:"+path+"?mode=ro&immutable=1")
	switch {
	case err != nil:
		return fmt.Errorf("%s is no store: %w", path, err)
	case has > knows:
		return fmt.Errorf("%s: %w: it has schema %d, this program knows %d", path, store.ErrNewer, has, knows)
	}
	return nil
}

// versions are that of a store's tables and the newest that we know.
func versions(ctx context.Context, dsn string) (has, knows int64, err error) {
	db, err := sql.Open("sqlite", dsn)
	if err != nil {
		return 0, 0, explain(err)
	}
	defer db.Close()
	return standing(ctx, db)
}

// standing compares the migrations of a database with ours; store.ErrNewer where
// one of another program was applied among them.
func standing(ctx context.Context, db *sql.DB) (has, knows int64, err error) {
	rows, err := db.QueryContext(ctx, "SELECT DISTINCT version_id FROM goose_db_version WHERE is_applied")
	if err != nil {
		return 0, 0, explain(err)
	}
	defer rows.Close()
	var applied []int64
	for rows.Next() {
		var v int64
		if err := rows.Scan(&v); err != nil {
			return 0, 0, explain(err)
		}
		applied = append(applied, v)
	}
	if err := rows.Err(); err != nil {
		return 0, 0, explain(err)
	}
	has, knows, unknown, err := schema.Standing(schema.SQLite(), applied)
	if err == nil && len(unknown) > 0 && has <= knows {
		err = fmt.Errorf("%w: it has schema %d, which this program does not know", store.ErrNewer, unknown[0])
	}
	return has, knows, err
}
