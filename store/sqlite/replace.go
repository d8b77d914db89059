package sqlite

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// sideFiles are what belongs to a database beside its own file.
func sideFiles() [2]string { return [2]string{"-wal", "-shm"} }

// Replace puts a backup in the place of the store at path, which nobody may
// have open and which is kept under the name that is returned ("" where there
// was none). At every moment the file at path is the whole old store or the
// whole new one. It is checked first, and on the disk when Replace returns.
func Replace(ctx context.Context, backup, path string) (aside string, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("restore %s: %w", path, err)
		}
	}()
	held, err := lock(path + ".lock")
	if err != nil {
		return "", err
	}
	defer held.Close()
	part, err := copyBeside(ctx, backup, path)
	if err != nil {
		return "", err
	}
	defer os.Remove(part)
	if err := errors.Join(Check(ctx, part), sameOwner(part, path), flush(part)); err != nil {
		return "", err
	}
	if aside, err = linkAside(path); err != nil {
		return "", err
	}
	// What is left beside a damaged database would be taken for the new one's.
	for _, side := range sideFiles() {
		if err := os.Remove(path + side); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
	}
	return aside, errors.Join(os.Rename(part, path), flush(filepath.Dir(path)))
}

// sameOwner gives part to whom path belongs, so that the gateway's user can open
// what another has restored.
func sameOwner(part, path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return nil // there is none
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && os.Geteuid() == 0 {
		return os.Chown(part, int(st.Uid), int(st.Gid))
	}
	return nil
}

// linkAside gives the store at path a second name, its log included where it
// cannot be folded into the database because that is damaged.
func linkAside(path string) (aside string, err error) {
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if c, err := openConn(path, "busy_timeout=10000"); err == nil {
		c.pragma("wal_checkpoint(TRUNCATE)") // the files are kept if it fails
		c.close()
	}
	aside = fmt.Sprintf("%s.replaced-%s", path, time.Now().UTC().Format("20060102T150405.000Z"))
	for _, side := range []string{"", sideFiles()[0], sideFiles()[1]} {
		if err := os.Link(path+side, aside+side); err != nil && !(side != "" && errors.Is(err, fs.ErrNotExist)) {
			return "", err
		}
	}
	return aside, flush(filepath.Dir(path))
}
