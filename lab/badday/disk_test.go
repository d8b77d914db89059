package badday

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// filler is the file that takes all room.
const filler = "filler"

// smallDisk mounts a file system of 32 MiB, which ends with the test.
func smallDisk(t *testing.T, dir string) {
	t.Helper()
	if os.Getuid() != 0 && os.Getenv("MAILXMPPD_LAB") == "optional" {
		t.Skip("only root may mount")
	}
	must(t, os.Mkdir(dir, 0o700))
	must(t, syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=32m,mode=0700"))
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

// fill takes all room on the disk of capulet.example.
func (l *lab) fill() {
	l.t.Helper()
	f, err := os.Create(filepath.Join(l.disk, filler))
	must(l.t, err)
	defer f.Close()
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	if !errors.Is(err, syscall.ENOSPC) {
		l.t.Fatal(err)
	}
}
