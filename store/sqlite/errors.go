package sqlite

import (
	"errors"
	"fmt"
	"syscall"

	driversqlite "modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"mailxmppd/store"
)

// errClosed answers calls that come after Close.
var errClosed = errors.New("store is closed")

// explain gives an error of SQLite its meaning in the store's contract.
func explain(err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w: %w", store.ErrFull, err)
	}
	var e *driversqlite.Error
	if !errors.As(err, &e) {
		return err
	}
	switch {
	case e.Code()&0xff == sqlite3.SQLITE_FULL, e.Code() == sqlite3.SQLITE_IOERR_SHMSIZE:
		// The shared-memory file cannot grow for want of room only.
		return fmt.Errorf("%w: %w", store.ErrFull, err)
	case e.Code()&0xff == sqlite3.SQLITE_CORRUPT, e.Code()&0xff == sqlite3.SQLITE_NOTADB:
		return fmt.Errorf("database is damaged, or not one: %w", err)
	case e.Code()&0xff == sqlite3.SQLITE_READONLY:
		return fmt.Errorf("database cannot be written to, is its file system read-only? %w", err)
	case e.Code()&0xff == sqlite3.SQLITE_IOERR:
		return fmt.Errorf("the disk of the database fails: %w", err)
	}
	return err
}
