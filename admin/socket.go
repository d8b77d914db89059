package admin

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"
)

// Listen makes the socket at path, for this user alone. The last directory of
// path is made where it is missing. A socket that a dead process left behind
// is replaced; one that somebody still listens on is an error, and so is any
// other file. Closing the listener removes the socket.
func Listen(path string) (net.Listener, error) {
	if err := os.Mkdir(filepath.Dir(path), 0o750); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("admin socket: %w", err)
	}
	if err := vacant(path); err != nil {
		return nil, fmt.Errorf("admin socket %s: %w", path, err)
	}
	// Made inside a directory that nobody else may enter, and moved once its
	// mode is right, so that there is no moment at which others could connect.
	private, err := os.MkdirTemp(filepath.Dir(path), ".a")
	if err != nil {
		return nil, fmt.Errorf("admin socket: %w", err)
	}
	defer os.RemoveAll(private)
	first := filepath.Join(private, "s")
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: first, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("admin socket: %w", err)
	}
	ln.SetUnlinkOnClose(false)
	if err = os.Chmod(first, 0o600); err == nil {
		err = os.Rename(first, path)
	}
	if err != nil {
		ln.Close()
		return nil, fmt.Errorf("admin socket: %w", err)
	}
	return &listener{UnixListener: ln, path: path}, nil
}

// vacant tells why path cannot be taken; nil when it can.
func vacant(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return errors.New("another file is in its place")
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		conn.Close()
		return errors.New("in use by another process")
	}
	return nil
}

// listener removes its socket when it is closed.
type listener struct {
	*net.UnixListener
	path string
}

// Close stops listening.
func (l *listener) Close() error {
	err := l.UnixListener.Close()
	if err == nil { // a second Close must not remove a successor's socket
		os.Remove(l.path)
	}
	return err
}
