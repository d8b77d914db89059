package demo

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"mailxmppd/store/storetest"
)

// executable is the program itself, built once for all tests that run it.
var executable = sync.OnceValues(func() (string, error) {
	file := filepath.Join(buildDir, "mailxmppd")
	out, err := exec.Command("go", "build", "-o", file, "mailxmppd/cmd/mailxmppd").CombinedOutput()
	if err != nil {
		os.Stderr.Write(out)
	}
	return file, err
})

// run plays the whole demo and returns its timeline, which o.Stdout gets too,
// and its index.
func run(t *testing.T, o Options) (string, []indexEntry, error) {
	t.Helper()
	also := o.Stdout
	exe, err := executable()
	if err != nil {
		t.Fatalf("building the program: %v", err)
	}
	var out bytes.Buffer
	o.Executable, o.Stderr, o.Out = exe, &out, t.TempDir()
	o.Stdout = &out
	if also != nil {
		o.Stdout = io.MultiWriter(&out, also)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	failed := Run(ctx, o)
	var index []indexEntry
	raw, err := os.ReadFile(filepath.Join(o.Out, "index.json"))
	if err == nil {
		err = json.Unmarshal(raw, &index)
	}
	if err != nil {
		t.Fatalf("index: %v; the run: %v\n%s", err, failed, &out)
	}
	for i := range index {
		index[i].File = filepath.Join(o.Out, index[i].File)
	}
	return out.String(), index, failed
}

// checkIndex looks at the files themselves: each of them is the given content
// after header fields, once on every path.
func checkIndex(t *testing.T, index []indexEntry, contents map[string][]byte) {
	t.Helper()
	seen := map[string]int{}
	for _, e := range index {
		seen[e.Source+" "+e.Path]++
		sent, known := contents[e.Source]
		if !known {
			t.Errorf("%s was not asked for", e.Source)
			continue
		}
		sum := sha256.Sum256(sent)
		got, err := os.ReadFile(e.File)
		if err != nil {
			t.Errorf("%s by %s: %v", e.Source, e.Path, err)
			continue
		}
		if !e.Identical || e.SentSHA256 != hex.EncodeToString(sum[:]) || !bytes.Equal(got[e.ContentOffset:], sent) {
			t.Errorf("%s by %s arrived altered: %+v", e.Source, e.Path, e)
		}
		if _, err := headerFields(got[:e.ContentOffset]); err != nil {
			t.Errorf("%s by %s: prepended: %v", e.Source, e.Path, err)
		}
		if want := map[string]string{pathAB: "xmpp", pathBA: "xmpp", pathLegacy: "smtp", pathQueued: "xmpp"}[e.Path]; e.Transport != want {
			t.Errorf("%s by %s: transport %q, want %q", e.Source, e.Path, e.Transport, want)
		}
	}
	for source := range contents {
		for _, path := range []string{pathAB, pathBA, pathLegacy, pathQueued} {
			if n := seen[source+" "+path]; n != 1 {
				t.Errorf("%s by %s: %d times", source, path, n)
			}
		}
	}
}

// The main job, end to end, with the shipped samples.
func TestDemo(t *testing.T) {
	timeline, index, err := run(t, Options{JSON: true})
	if err != nil {
		t.Fatalf("%v\n%s", err, timeline)
	}
	if len(index) != 4*7 {
		t.Errorf("%d entries in the index", len(index))
	}
	for _, e := range index {
		if !e.Identical {
			t.Errorf("not identical: %+v", e)
		}
	}
	lines := strings.Split(strings.TrimSpace(timeline), "\n")
	var end tally
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &end); err != nil {
		t.Fatal(err)
	}
	if want := (tally{Step: "end", T: end.T, OK: true, Sent: 29, Delivered: 29, Identical: 29, Held: mustBeRefused}); end != want {
		t.Errorf("end %+v", end)
	}
	steps := map[string]int{}
	for _, line := range lines[:len(lines)-1] {
		var e event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if !e.OK {
			t.Errorf("not as it must be: %s", line)
		}
		steps[e.Step]++
	}
	for step, n := range map[string]int{"sent": 29, "delivered": 29, "refused": 3, "stop": 1, "caught up": 1} {
		if steps[step] != n {
			t.Errorf("%d times %q, want %d", steps[step], step, n)
		}
	}
	if n := strings.Count(timeline, "dkim=pass"); n != 4 {
		t.Errorf("dkim=pass %d times", n)
	}
}

// Messages from files, along every path, octet for octet.
func TestDemoWithOddMessages(t *testing.T) {
	dir, contents := t.TempDir(), map[string][]byte{}
	var files []string
	give := func(name, raw, sent string) {
		file := filepath.Join(dir, strings.ReplaceAll(name, " ", "-")+".eml")
		if err := os.WriteFile(file, []byte(raw), 0o600); err != nil {
			t.Fatal(err)
		}
		files, contents[file] = append(files, file), []byte(sent)
	}
	for name, content := range oddContents() {
		give(name, content, content)
	}
	give("empty file", "", "\r\n")
	give("lf only", "Subject: x\n\n.\nline\n", "Subject: x\r\n\r\n.\r\nline\r\n")
	give("no last crlf", "Subject: x\r\n\r\nend", "Subject: x\r\n\r\nend\r\n")
	give("own trace", overXMPP+"From: x@y\r\n\r\n", overXMPP+"From: x@y\r\n\r\n")
	timeline, index, err := run(t, Options{Messages: files})
	if err != nil {
		t.Errorf("%v\n%s", err, timeline)
	}
	checkIndex(t, index, contents)
}

func TestDemoRefusesMixedLineEnds(t *testing.T) {
	file := filepath.Join(t.TempDir(), "mixed.eml")
	if err := os.WriteFile(file, []byte("a: b\r\n\r\nc\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	err := Run(t.Context(), Options{Messages: []string{file}, Executable: os.Args[0], Stdout: &out})
	if err == nil || !strings.Contains(err.Error(), file+": mixed line ends: line 3") {
		t.Errorf("got %v", err)
	}
	if out.Len() != 0 {
		t.Errorf("something was started: %s", &out)
	}
}

// A program that fails ends the run with its own words and leaves the
// files of the run where the error says.
func TestDemoTellsWhyAGatewayDoesNotStart(t *testing.T) {
	var told bytes.Buffer
	err := Run(t.Context(), Options{Executable: "/bin/false", Stderr: &told})
	if err == nil || !strings.Contains(err.Error(), "user juliet was not made: exit status 1") || strings.Contains(err.Error(), "\n") {
		t.Fatalf("got %v", err)
	}
	_, dir, found := strings.Cut(strings.TrimSpace(told.String()), "logs: ")
	if _, err := os.Stat(filepath.Join(dir, capulet, "gateway.log")); !found || err != nil {
		t.Errorf("the log: %v", err)
	}
	os.RemoveAll(dir)
}

// Under Keep the network stands, with its endpoints, until the context ends,
// and leaves nothing behind.
func TestDemoKeepsTheNetworkUp(t *testing.T) {
	exe, err := executable()
	if err != nil {
		t.Fatalf("building the program: %v", err)
	}
	message := filepath.Join(t.TempDir(), "m.eml")
	if err := os.WriteFile(message, []byte("Subject: x\r\n\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	found, waiting := make(chan struct{}), make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	o := Options{Messages: []string{message}, Keep: true, Executable: exe, Stdout: &onText{want: "everything stays up", do: func() { close(found) }}, Endpoints: filepath.Join(t.TempDir(), "e.json")}
	go func() { waiting <- Run(ctx, o) }()
	select {
	case <-found:
	case err := <-waiting:
		t.Fatalf("ended before its end: %v", err)
	case <-time.After(3 * time.Minute):
		t.Fatal("never came to its end")
	}
	var e endpoints
	raw, err := os.ReadFile(o.Endpoints)
	if err == nil {
		err = json.Unmarshal(raw, &e)
	}
	if err != nil || len(e.Domains) != 3 {
		t.Fatalf("endpoints: %v, %+v", err, e)
	}
	for _, d := range e.Domains[:2] {
		if err := greets(t.Context(), d.SMTP); err != nil {
			t.Errorf("%s: %v", d.Name, err)
		}
		if err := syscall.Kill(d.PID, 0); err != nil {
			t.Errorf("%s: process %d: %v", d.Name, d.PID, err)
		}
		checkLogins(t, d, e.CA)
	}
	cancel()
	if err := <-waiting; err != nil {
		t.Errorf("the verdict: %v", err)
	}
	if _, err := os.Stat(e.CA); !os.IsNotExist(err) {
		t.Errorf("files of the run are left: %v", err)
	}
	for _, d := range e.Domains[:2] {
		if syscall.Kill(d.PID, 0) == nil {
			t.Errorf("%s: process %d is left", d.Name, d.PID)
		}
	}
}

// With a database, each gateway has a schema of its own there while the run
// lasts.
func TestDemoOnPostgres(t *testing.T) {
	url := storetest.StartPostgres(t)
	message := filepath.Join(t.TempDir(), "m.eml")
	if err := os.WriteFile(message, []byte("Subject: x\r\n\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	db, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close(context.Background())
	schemas := func() (n int) {
		if err := db.QueryRow(t.Context(), "SELECT count(*) FROM information_schema.schemata WHERE schema_name LIKE 'demo\\_%'").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	during := 0
	look := &onText{want: "caught up", do: func() { during = schemas() }}
	timeline, index, err := run(t, Options{Messages: []string{message}, Store: url, Stdout: look})
	if err != nil {
		t.Fatalf("%v\n%s", err, timeline)
	}
	checkIndex(t, index, map[string][]byte{message: []byte("Subject: x\r\n\r\n")})
	if after := schemas(); during != 2 || after != 0 {
		t.Errorf("%d schemas during the run and %d after it, want 2 and 0", during, after)
	}
}

// onText is an output that does something when a text comes by.
type onText struct {
	want string
	do   func()
	done bool
	buf  bytes.Buffer
}

func (w *onText) Write(p []byte) (int, error) {
	w.buf.Write(p)
	if !w.done && bytes.Contains(w.buf.Bytes(), []byte(w.want)) {
		w.done = true
		w.do()
	}
	return len(p), nil
}
