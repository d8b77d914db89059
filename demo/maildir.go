package demo

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"
)

// maildir is a Maildir folder: a message is written under tmp and renamed into
// new, so that whoever looks into new sees whole messages only.
type maildir struct {
	path string
	next atomic.Int64
}

func newMaildir(path string) (*maildir, error) {
	for _, sub := range []string{"tmp", "new", "cur"} {
		if err := os.MkdirAll(filepath.Join(path, sub), 0o700); err != nil {
			return nil, err
		}
	}
	return &maildir{path: path}, nil
}

// letterbox is a message on its way into a maildir.
type letterbox struct {
	dir  *maildir
	file *os.File
}

// receive writes r into tmp, octet for octet.
func (m *maildir) receive(r io.Reader) (*letterbox, error) {
	f, err := os.CreateTemp(filepath.Join(m.path, "tmp"), "arriving-*")
	if err != nil {
		return nil, err
	}
	b := &letterbox{dir: m, file: f}
	if _, err := io.Copy(f, r); err != nil {
		b.discard()
		return nil, err
	}
	if err := f.Close(); err != nil {
		os.Remove(f.Name())
		return nil, err
	}
	return b, nil
}

// deliver puts one copy into new and returns its path. Links, not renames, so
// that several recipients of one message each get a file.
func (b *letterbox) deliver() (string, error) {
	name := fmt.Sprintf("%08d.demo", b.dir.next.Add(1))
	path := filepath.Join(b.dir.path, "new", name)
	return path, os.Link(b.file.Name(), path)
}

// discard removes what is left in tmp.
func (b *letterbox) discard() {
	b.file.Close()
	os.Remove(b.file.Name())
}
