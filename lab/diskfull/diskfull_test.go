// Package diskfull gives a gateway less room than it needs, on a real file
// system that is full, and counts what it has taken and what it has kept.
package diskfull

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"mailxmppd/lab/harness"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// smallDisk mounts a file system of so many octets.
func smallDisk(t *testing.T, size int) string {
	t.Helper()
	dir, err := harness.ShortDir()
	must(t, err)
	t.Cleanup(func() { os.Remove(dir) })
	err = syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0700", size))
	if err != nil && os.Getenv("MAILXMPPD_LAB") == "optional" {
		t.Skipf("mounting is not permitted: %v", err)
	}
	must(t, err)
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// lab is a gateway whose only mailbox is the sink.
type lab struct {
	gateway *harness.Gateway
	sink    *harness.Sink
	exe     string
}

// newLab starts a gateway with its temporary files and its store in these
// folders.
func newLab(t *testing.T, exe, temp, store string) *lab {
	t.Helper()
	dir, err := harness.ShortDir()
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	ca, err := harness.NewCA(dir)
	must(t, err)
	addrs, err := harness.FreeAddrs(2)
	must(t, err)
	l := &lab{exe: exe}
	l.sink, err = harness.NewSink("127.0.0.1:0", func(b []byte) string { return subjectOf(b) })
	must(t, err)
	t.Cleanup(l.sink.Close)
	l.gateway, err = harness.NewGateway(harness.Spec{
		Exe: exe, Dir: filepath.Join(dir, "gw"), CA: ca, Domain: "home.example", SMTP: addrs[0], XMPP: addrs[1],
		Store: "sqlite://" + filepath.Join(store, "mail.db"), Deliver: "lmtp://" + l.sink.Addr,
		Extra: "[queue]\nretry_first = \"1s\"\nretry_max = \"2s\"\n",
	})
	must(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(l.gateway.Log())
		}
		l.gateway.Kill()
	})
	must(t, l.gateway.Start(t.Context(), "TMPDIR="+temp))
	return l
}

func subjectOf(b []byte) string {
	_, rest, _ := strings.Cut(string(b), "\r\nSubject: ")
	subject, _, _ := strings.Cut(rest, "\r\n")
	return subject
}

// send hands over a message of about so many octets and returns the reply to its
// content.
func (l *lab) send(t *testing.T, subject string, size int) string {
	t.Helper()
	c, err := harness.Dial(l.gateway.SMTP)
	must(t, err)
	defer c.Close()
	var b bytes.Buffer
	fmt.Fprintf(&b, "From: a@far.example\r\nSubject: %s\r\n\r\n", subject)
	for b.Len() < size {
		b.WriteString(strings.Repeat("x", 70) + "\r\n")
	}
	said, err := c.Send("a@far.example", []string{"romeo@home.example"}, harness.Stuff(b.Bytes()))
	if said == "" {
		t.Fatalf("%s: %v", subject, err)
	}
	return said
}

// refused checks the reply for want of room.
func (l *lab) refused(t *testing.T, subject string, size int) {
	t.Helper()
	if said := l.send(t, subject, size); !strings.HasPrefix(said, "452 4.3.1 ") {
		t.Errorf("%s: %q", subject, said)
	}
}

// only checks that nothing arrives but what was taken, each message once, and
// that the queue is empty then.
func (l *lab) only(t *testing.T, want ...string) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); l.sink.Count() < len(want); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("arrived: %q, want %q", l.sink.Got(), want)
		}
	}
	var left []byte
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		out, err := exec.Command(l.exe, "queue", "list", "--json", "--config", l.gateway.Config).CombinedOutput()
		must(t, err)
		if left = bytes.TrimSpace(out); string(left) == "[]" || time.Now().After(end) {
			break
		}
	}
	if string(left) != "[]" {
		t.Errorf("left in the queue: %s", left)
	}
	got := l.sink.Got()
	slices.Sort(got) // attempts overtake each other
	if !slices.Equal(got, slices.Sorted(slices.Values(want))) {
		t.Errorf("arrived: %q, want %q", got, want)
	}
}

// files lists what is on a disk.
func files(t *testing.T, dir string) []string {
	t.Helper()
	list, err := os.ReadDir(dir)
	must(t, err)
	var names []string
	for _, f := range list {
		names = append(names, f.Name())
	}
	return names
}

// room is how many octets of a disk are free.
func room(t *testing.T, dir string) int64 {
	t.Helper()
	var s syscall.Statfs_t
	must(t, syscall.Statfs(dir, &s))
	return int64(s.Bavail) * s.Bsize
}

// TestTemporaryFiles: a message too large for the disk of temporary files is
// refused with 452, leaves nothing there, and the next one is taken.
func TestTemporaryFiles(t *testing.T) {
	exe, err := harness.Build(t.TempDir())
	must(t, err)
	disk := smallDisk(t, 2<<20)
	l := newLab(t, exe, disk, t.TempDir())
	free := room(t, disk)
	for i := range 3 {
		l.refused(t, fmt.Sprint("too large ", i), 5<<20)
		if now := room(t, disk); now != free || len(files(t, disk)) != 0 {
			t.Errorf("%d octets free, %d before; files %q", now, free, files(t, disk))
		}
	}
	for _, m := range []struct {
		subject string
		size    int
	}{{"small", 1000}, {"by a file", 1 << 20}} {
		if said := l.send(t, m.subject, m.size); !strings.HasPrefix(said, "250 ") {
			t.Errorf("%s: %q", m.subject, said)
		}
	}
	l.only(t, "small", "by a file")
}

// TestStore: what the store has no room for is refused with 452 and not kept in
// part; with room again mail goes on, without a restart, and after one.
func TestStore(t *testing.T) {
	exe, err := harness.Build(t.TempDir())
	must(t, err)
	disk := smallDisk(t, 16<<20)
	l := newLab(t, exe, t.TempDir(), disk)
	filler := filepath.Join(disk, "filler")
	fill := func(leave int64) {
		t.Helper()
		must(t, os.WriteFile(filler, make([]byte, room(t, disk)-leave), 0o600))
	}
	var want []string
	take := func(subject string, size int) {
		t.Helper()
		if said := l.send(t, subject, size); !strings.HasPrefix(said, "250 ") {
			t.Errorf("%s: %q", subject, said)
		}
		want = append(want, subject)
	}
	take("before", 1000)
	l.only(t, want...)
	fill(1 << 20)
	for i := range 3 {
		l.refused(t, fmt.Sprint("too large ", i), 6<<20)
	}
	must(t, os.Remove(filler))
	take("with room again", 1000)
	l.only(t, want...)

	fill(0)
	// Some may still fit into what the store has: who gets 250 is delivered to.
	for i := range 40 {
		subject := fmt.Sprint("nearly no room ", i)
		switch said := l.send(t, subject, 100_000); {
		case strings.HasPrefix(said, "250 "):
			want = append(want, subject)
		case !strings.HasPrefix(said, "452 4.3.1 "):
			t.Errorf("%s: %q", subject, said)
		}
	}
	if len(want) == 42 {
		t.Error("a full disk refused nothing")
	}
	must(t, os.Remove(filler))
	take("at the end", 1000)
	l.only(t, want...)
	must(t, l.gateway.Stop())
	must(t, l.gateway.Start(t.Context()))
	take("after a restart", 1000)
	l.only(t, want...)
}
