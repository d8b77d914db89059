// Package signing follows the DKIM keys of a gateway from its first start through
// a rotation, with DNS as an operator keeps it and dkimpy as the receiver.
package signing

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"mailxmppd/lab/harness"
	"mailxmppd/lab/trust"
)

func TestMain(m *testing.M) {
	if err := trust.Installed(); err != nil {
		if os.Getenv("MAILXMPPD_LAB") == "optional" {
			fmt.Println("skipped:", err)
			return
		}
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// office is a gateway whose users' mail goes to the world by SMTP.
type office struct {
	t     *testing.T
	g     *harness.Gateway
	names *harness.Names
	zone  trust.Zone // what names has of keys
	world *harness.Sink
	sent  int
}

func newOffice(t *testing.T) *office {
	t.Helper()
	dir, err := harness.ShortDir()
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	exe, err := harness.Build(dir)
	must(t, err)
	ca, err := harness.NewCA(dir)
	must(t, err)
	o := &office{t: t, zone: trust.Zone{}}
	o.names, err = harness.NewNames()
	must(t, err)
	t.Cleanup(func() { o.names.Close() })
	o.world, err = harness.NewSink("127.0.0.1:0", func(content []byte) string { return string(content) })
	must(t, err)
	t.Cleanup(o.world.Close)
	addrs, err := harness.FreeAddrs(2)
	must(t, err)
	o.g, err = harness.NewGateway(harness.Spec{
		Exe: exe, Dir: filepath.Join(dir, "gw"), CA: ca, Domain: "capulet.example", SMTP: addrs[0], XMPP: addrs[1], DNS: o.names.Addr,
		Store: "sqlite://" + filepath.Join(dir, "mail.db"), Deliver: "lmtp://127.0.0.1:9", Route: "smtp://" + o.world.Addr,
		Extra: "[dkim]\nlisteners = [\"relay\"]\n",
	})
	must(t, err)
	t.Cleanup(func() {
		o.g.Kill()
		if log := o.g.Log(); t.Failed() {
			t.Logf("the end of the log:\n%s", log[max(0, len(log)-4000):])
		}
	})
	must(t, o.g.Start(t.Context()))
	return o
}

// keys runs `mailxmppd keys`.
func (o *office) keys(args ...string) string {
	o.t.Helper()
	out, err := exec.CommandContext(o.t.Context(), o.g.Exe, append(append([]string{"keys"}, args...), "--config", o.g.Config)...).Output()
	if err != nil {
		o.t.Fatalf("keys %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// publish does what the operator does with what keys dns prints. It returns the
// selectors that were not published before.
func (o *office) publish() (selectors []string) {
	o.t.Helper()
	for record := range strings.Lines(strings.ReplaceAll(o.keys("dns"), "\n\t", " ")) {
		name, rest, _ := strings.Cut(strings.TrimSpace(record), " ")
		name = strings.ToLower(strings.TrimSuffix(name, "."))
		if _, published := o.zone[name]; published {
			continue
		}
		must(o.t, o.names.Add(strings.TrimSpace(record)))
		value := ""
		for i, part := range strings.Split(rest, `"`) {
			if i%2 == 1 {
				value += part
			}
		}
		o.zone[name] = [][2]string{{"TXT", value}}
		selector, _, _ := strings.Cut(name, ".")
		selectors = append(selectors, selector)
	}
	slices.Sort(selectors)
	return selectors
}

// again starts the gateway anew: it looks at DNS then, and not for minutes
// otherwise.
func (o *office) again() {
	o.t.Helper()
	must(o.t, o.g.Stop())
	must(o.t, o.g.Start(o.t.Context()))
}

// write sends a message to the world and returns it as it arrives.
func (o *office) write() string {
	o.t.Helper()
	o.sent++
	subject := fmt.Sprintf("letter %d", o.sent)
	c, err := harness.Dial(o.g.SMTP)
	must(o.t, err)
	defer c.Close()
	content := "From: Juliet <juliet@capulet.example>\r\nTo: romeo@world.example\r\nSubject: " + subject + "\r\nDate: Mon, 23 Nov 2026 06:00:00 +0000\r\n" +
		"Message-ID: <" + fmt.Sprint(o.sent) + "@capulet.example>\r\n\r\nIt  is the east. \r\n"
	_, err = c.Send("juliet@capulet.example", []string{"romeo@world.example"}, harness.Stuff([]byte(content)))
	must(o.t, err)
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		for _, m := range o.world.Got() {
			if strings.Contains(m, "Subject: "+subject+"\r\n") {
				return m
			}
		}
	}
	o.t.Fatalf("%s has not arrived", subject)
	return ""
}

// selectors of the signatures of a message, each of which has to be right to
// dkimpy, and wrong once anything is changed.
func (o *office) selectors(message string) (out []string) {
	o.t.Helper()
	head, _, _ := strings.Cut(strings.ReplaceAll(message, "\r\n\t", " "), "\r\n\r\n")
	for line := range strings.SplitSeq(head, "\r\n") {
		tags, ok := strings.CutPrefix(line, "DKIM-Signature: ")
		if !ok {
			continue
		}
		for tag := range strings.SplitSeq(tags, ";") {
			if s, ok := strings.CutPrefix(strings.TrimSpace(tag), "s="); ok {
				out = append(out, s)
			}
		}
	}
	variants := [][]byte{
		[]byte(message),
		[]byte(strings.Replace(message, "the east", "the west", 1)),
		[]byte("From: mallory@evil.example\r\n" + message),
		[]byte("Subject: other\r\n" + message),
		[]byte(strings.Replace(message, "@capulet.example>\r\n\r\n", "@evil.example>\r\n\r\n", 1)),
	}
	said, err := trust.Signatures(o.t.Context(), o.zone, variants...)
	must(o.t, err)
	for i, results := range said {
		if len(results) != len(out) || slices.ContainsFunc(results, func(s string) bool { return (s == "pass") != (i == 0) }) {
			o.t.Errorf("dkimpy says %q of\n%s", results, variants[i])
		}
	}
	slices.Sort(out)
	return out
}

// TestLifeOfKeys: keys are there from the first start, and sign once DNS shows
// them. A rotation makes new ones, while the old go on signing until the new are
// in DNS; and what the old have signed before stays right.
func TestLifeOfKeys(t *testing.T) {
	o := newOffice(t)
	if m := o.write(); strings.Contains(m, "DKIM-Signature") {
		t.Errorf("signed with keys that nobody can look up:\n%s", m)
	}
	first := o.publish()
	if len(first) != 2 {
		t.Fatalf("keys %v, want one of RSA and one of Ed25519", first)
	}
	o.again()
	early := o.write()
	if got := o.selectors(early); !slices.Equal(got, first) {
		t.Errorf("signed by %v, want %v", got, first)
	}

	o.keys("rotate", "capulet.example")
	o.again()
	if got := o.selectors(o.write()); !slices.Equal(got, first) {
		t.Errorf("while the new keys are not in DNS: signed by %v, want %v", got, first)
	}
	second := o.publish()
	if len(second) != 2 || slices.ContainsFunc(second, func(s string) bool { return slices.Contains(first, s) }) {
		t.Fatalf("new keys %v after %v", second, first)
	}
	o.again()
	if got := o.selectors(o.write()); !slices.Equal(got, second) {
		t.Errorf("once the new keys are in DNS: signed by %v, want %v", got, second)
	}
	if got := o.selectors(early); !slices.Equal(got, first) {
		t.Errorf("what was signed before the rotation: signed by %v", got)
	}
}
