package clients

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestDiskFull: where the disk for content is full, a message is refused for
// now, by DATA and by BDAT, nothing of it is kept, and the same session sends
// what there is room for. The disk is a small one of the gateway's own.
func TestDiskFull(t *testing.T) {
	program(t, "unshare")
	if os.Getuid() != 0 && os.Getenv("MAILXMPPD_LAB") == "optional" {
		t.Skip("only root can mount a disk")
	}
	var disk string
	s := newSiteUnder(t, func(dir string) (wrap, env []string) {
		disk = filepath.Join(dir, "disk")
		must(t, os.Mkdir(disk, 0o700))
		script := "mount -t tmpfs -o size=1m tmpfs " + disk + ` && exec "$0" "$@"`
		return []string{"unshare", "-m", "sh", "-c", script}, []string{"TMPDIR=" + disk}
	})
	line := strings.Repeat("x", 98) + "\r\n"
	large := "Subject: large\r\n\r\n" + strings.Repeat(line, 30_000)
	d := open(t, s.relay)
	d.say("EHLO client.example")
	for _, way := range []string{"DATA", "BDAT"} {
		for _, command := range []string{"MAIL FROM:<a@far.example>", "RCPT TO:<romeo@" + ours + ">"} {
			if reply := d.say(command); !strings.HasPrefix(reply, "250") {
				t.Fatalf("%s: %q", command, reply)
			}
		}
		var reply string
		if way == "DATA" {
			d.say("DATA")
			reply = d.say(large + ".")
		} else {
			// The CRLF that follows belongs to the content.
			reply = d.say(fmt.Sprintf("BDAT %d LAST\r\n%s", len(large)+2, large))
		}
		if !strings.HasPrefix(reply, "452 4.3.1") {
			t.Errorf("%s: %q", way, reply)
		}
		left, err := os.ReadDir(filepath.Join("/proc", fmt.Sprint(s.gateway.PID()), "root", disk))
		if err != nil || len(left) != 0 {
			t.Errorf("%s: %v left on the disk, %v", way, left, err)
		}
		mark := "small after " + way
		for _, command := range []string{"MAIL FROM:<a@far.example>", "RCPT TO:<romeo@" + ours + ">"} {
			d.say(command)
		}
		d.say("DATA")
		if reply := d.say("Subject: " + mark + "\r\n\r\n" + strings.Repeat(line, 4000) + "."); !strings.HasPrefix(reply, "250") {
			t.Errorf("%s: %q", mark, reply)
		}
		s.arrived(t, mark)
	}
	for _, m := range s.mailboxes.Got() {
		if strings.Contains(m, "Subject: large") {
			t.Error("a refused message arrived")
		}
	}
}
