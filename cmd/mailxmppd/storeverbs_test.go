package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"mailxmppd/config"
	"mailxmppd/mail"
	"mailxmppd/schema"
	"mailxmppd/store"
	"mailxmppd/store/postgres"
	"mailxmppd/store/storetest"
)

// storeVerb runs a store command that must succeed and say nothing on standard
// error.
func storeVerb(t *testing.T, file string, args ...string) string {
	t.Helper()
	code, stdout, stderr := call(t, append(append([]string{"store"}, args...), "--config", file)...)
	if code != 0 || stderr != "" {
		t.Fatalf("%v: got %d %q", args, code, stderr)
	}
	return stdout
}

// shape leaves of an output what is the same each time.
func shape(s string) string {
	s = regexp.MustCompile(`\d{8}T\d{6}\.\d{3}Z`).ReplaceAllString(s, "TIME")
	s = regexp.MustCompile(`(octets +)\d+|\d+( octets)`).ReplaceAllString(s, "${1}N$2")
	s = regexp.MustCompile(`/tmp/[^/ ]+/`).ReplaceAllString(s, "DIR/")
	return regexp.MustCompile(` {2,}`).ReplaceAllString(s, "  ")
}

// TestStoreVerbs goes through a store's life: checked, backed up while mail
// comes in, lost, restored.
func TestStoreVerbs(t *testing.T) {
	for _, running := range []bool{true, false} {
		t.Run(fmt.Sprintf("running=%v", running), func(t *testing.T) {
			s := newSite(t)
			file := s.write(t)
			cfg, err := config.Load(file)
			if err != nil {
				t.Fatal(err)
			}
			before := []mail.ID{spool(t, cfg), spool(t, cfg)}
			backup := filepath.Join(s.dir, "backup.db")
			t.Run("backup", func(t *testing.T) {
				if running {
					before = append(before, backupUnderLoad(t, cfg, file, backup)...)
				} else if got := shape(storeVerb(t, file, "backup", backup)); got != "DIR/backup.db written and checked, N octets\n" {
					t.Errorf("got %q", got)
				}
			})
			code, _, stderr := call(t, "store", "backup", backup, "--config", file)
			if code != 1 || !strings.Contains(stderr, "file already exists") {
				t.Errorf("over a file: %d %q", code, stderr)
			}
			after := spool(t, cfg) // not in the backup

			want := "the store that was there is kept as DIR/mail.db.replaced-TIME\n"
			got := storeVerb(t, file, "restore", backup)
			if shape(got) != "DIR/mail.db is what the backup held\n"+want {
				t.Errorf("got %q", got)
			}
			held := heldBy(t, file)
			for _, id := range before {
				if !held[id] {
					t.Errorf("%s was acknowledged before the backup and is not in it", id)
				}
			}
			if held[after] {
				t.Error("the backup has what came after it")
			}
			// What was there is not lost: it can be put back.
			aside := strings.TrimSpace(strings.Split(got, "kept as ")[1])
			storeVerb(t, file, "restore", "--json", aside)
			if !heldBy(t, file)[after] {
				t.Error("what was set aside cannot be put back")
			}
		})
	}
}

// heldBy are the messages in the store.
func heldBy(t *testing.T, file string) map[mail.ID]bool {
	t.Helper()
	code, stdout, stderr := call(t, "queue", "list", "--json", "--limit", fmt.Sprint(maxListed), "--config", file)
	var entries []store.Entry
	if err := json.Unmarshal([]byte(stdout), &entries); code != 0 || err != nil {
		t.Fatalf("%d %q %v", code, stderr, err)
	}
	held := map[mail.ID]bool{}
	for _, e := range entries {
		held[e.ID] = true
	}
	return held
}

// backupUnderLoad takes a backup through the socket while messages come in, and
// returns those acknowledged before it began.
func backupUnderLoad(t *testing.T, cfg *config.Config, file, backup string) (before []mail.ID) {
	st := serveAdminStore(t, cfg)
	var mu sync.Mutex
	stop, some := make(chan struct{}), make(chan struct{})
	var writers sync.WaitGroup
	for range 4 {
		writers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				id := put(t, st)
				mu.Lock()
				if before = append(before, id); len(before) == 50 {
					close(some)
				}
				mu.Unlock()
			}
		})
	}
	<-some
	mu.Lock()
	known := before[:len(before):len(before)]
	mu.Unlock()
	storeVerb(t, file, "backup", "--json", backup)
	close(stop)
	writers.Wait()
	code, _, stderr := call(t, "store", "restore", backup, "--config", file)
	if code != 1 || !strings.Contains(stderr, "store is in use by another process") {
		t.Errorf("restored under a running gateway: %d %q", code, stderr)
	}
	return known
}

func TestStoreCheck(t *testing.T) {
	s := newSite(t)
	file := s.write(t)
	cfg, err := config.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	code, stdout, stderr := call(t, "store", "check", "--config", file)
	if code != 1 || !strings.Contains(stdout, "no such file") {
		t.Errorf("without a store: %d %q %q", code, stdout, stderr)
	}
	spool(t, cfg)
	newest, err := schema.Newest(schema.SQLite())
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("store  sqlite, DIR/mail.db\noctets  N\nmessages  1\ndeliveries due  3\nacceptances  0\nopen transfers  0\nusers  0\n"+
		"ok  every page and index is sound\nok  schema version %d\n", newest)
	if got := shape(storeVerb(t, file, "check")); got != want {
		t.Errorf("got\n%s", got)
	}
	if got := storeVerb(t, file, "migrate"); got != fmt.Sprintf("schema version %d is up to date\n", newest) {
		t.Errorf("got %q", got)
	}
	var r storeReport
	if err := json.Unmarshal([]byte(storeVerb(t, file, "check", "--json")), &r); err != nil || !r.OK || r.Deliveries[store.Due] != 3 || r.Kind != "sqlite" || r.Octets == 0 {
		t.Errorf("got %+v, %v", r, err)
	}
	path := filepath.Join(s.dir, "mail.db")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	bad := spool(t, cfg)
	unread(t, path, bad)
	code, stdout, _ = call(t, "store", "check", "--config", file)
	if code != 1 || !strings.Contains(stdout, fmt.Sprintf("message %s: stored message cannot be read", bad)) || strings.Count(stdout, "error") != 1 {
		t.Errorf("unreadable: %d %q", code, stdout)
	}
	setVersion(t, path, 999)
	code, stdout, _ = call(t, "store", "check", "--config", file)
	if code != 1 || !strings.Contains(stdout, "a newer program wrote it") {
		t.Errorf("newer: %d %q", code, stdout)
	}
	if code, _, stderr := call(t, "store", "migrate", "--config", file); code != 1 || !strings.Contains(stderr, "newer version of this program") {
		t.Errorf("newer: %d %q", code, stderr)
	}
	for i := len(whole) / 2; i < len(whole)/2+3*8192; i++ {
		whole[i] = 0xa5
	}
	writeFile(t, path, string(whole))
	code, stdout, _ = call(t, "store", "check", "--config", file)
	if code != 1 || !strings.Contains(stdout, "error") {
		t.Errorf("damaged: %d %q", code, stdout)
	}
	backup := filepath.Join(s.dir, "damaged.db")
	writeFile(t, backup, string(whole))
	if code, _, stderr := call(t, "store", "restore", backup, "--config", file); code != 1 || strings.Count(stderr, "\n") < 1 {
		t.Errorf("damaged backup: %d %q", code, stderr)
	}
	if now, err := os.ReadFile(path); err != nil || string(now) != string(whole) {
		t.Error("a refused restore changed the store")
	}
}

func TestStorePostgres(t *testing.T) {
	url := storetest.StartPostgres(t)
	s := newSite(t)
	s.store = fmt.Sprintf("url = %q", url)
	file := s.write(t)
	cfg, err := config.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	all, err := schema.Migrations(schema.Postgres(), 0)
	if err != nil {
		t.Fatal(err)
	}
	if got := storeVerb(t, file, "migrate", "--dry-run"); !strings.HasPrefix(got, "0001 spool to be applied\n") || strings.Count(got, "\n") != len(all)+1 {
		t.Errorf("got %q", got)
	}
	var m migration
	if err := json.Unmarshal([]byte(storeVerb(t, file, "migrate", "--json")), &m); err != nil || !m.Done || m.From != 0 || len(m.Pending) != len(all) {
		t.Errorf("got %+v, %v", m, err)
	}
	spool(t, cfg)
	got := storeVerb(t, file, "check")
	for _, line := range []string{"store           postgres, schema mailxmppd in postgres://postgres@127.0.0.1", "deliveries due  3\n",
		"warning         no synchronous standby: a fail-over of the database would lose the newest mail\n", "ok              schema version "} {
		if !strings.Contains(got, line) {
			t.Errorf("no %q in\n%s", line, got)
		}
	}
	// A store that was moved is found out by all that only look.
	old := newSite(t)
	oldFile := old.write(t)
	oldCfg, err := config.Load(oldFile)
	if err != nil {
		t.Fatal(err)
	}
	spool(t, oldCfg)
	if code, _, stderr := call(t, "store", "move", "--to", url, "--schema", "other", "--json", "--config", oldFile); code != 0 {
		t.Fatal(stderr)
	}
	for _, args := range []string{"store check", "check", "store migrate", "queue list"} {
		code, stdout, stderr := call(t, append(strings.Fields(args), "--config", oldFile)...)
		if code != 1 || !strings.Contains(stdout+stderr, "was moved to") {
			t.Errorf("%s of a moved store: %d %q %q", args, code, stdout, stderr)
		}
	}
	for _, args := range []string{"backup " + filepath.Join(s.dir, "x"), "restore " + file} {
		if code, _, stderr := call(t, append(append([]string{"store"}, strings.Fields(args)...), "--config", file)...); code != 1 || !strings.Contains(stderr, "pg_dump") {
			t.Errorf("%s: %d %q", args, code, stderr)
		}
	}
}

// put stores one message with a delivery that waits.
func put(t *testing.T, st store.Store) mail.ID {
	m := mail.Message{ID: mail.NewID(), Content: mail.Bytes("Subject: x\r\n\r\nx\r\n"), Origin: mail.Origin{Transport: "smtp", Received: time.Now()}}
	m.Envelope = mail.Envelope{Recipients: []mail.Recipient{{Address: address(t, "romeo@montague.example")}}}
	m.Facts.Size = m.Content.Size()
	if _, err := st.PutMessage(t.Context(), store.NewMessage{Message: m, Transfer: string(m.ID), Lifetime: time.Hour, First: []store.First{{Delay: time.Hour}}}); err != nil {
		t.Error(err)
	}
	return m.ID
}

// TestUnsafe: what check and store check say of a server's promises.
func TestUnsafe(t *testing.T) {
	for _, c := range []struct {
		d    postgres.Durability
		want string
	}{
		{postgres.Durability{Commit: "on", Fsync: "on", Required: "*", Standbys: 1, Waited: 1}, ""},
		{postgres.Durability{Commit: "on", Fsync: "on", Required: "*", Standbys: 1, Hidden: true}, ""},
		{postgres.Durability{Commit: "off", Fsync: "on", Required: "*", Waited: 1}, "error synchronous_commit is off"},
		{postgres.Durability{Commit: "on", Fsync: "off"}, "error synchronous_commit is on and fsync is off"},
		{postgres.Durability{Commit: "on", Fsync: "on", Standbys: 2}, "warning no synchronous standby"},
		{postgres.Durability{Commit: "local", Fsync: "on", Required: "*", Standbys: 1, Waited: 1}, "warning synchronous_commit is local"},
		{postgres.Durability{Commit: "on", Fsync: "on", Required: "b"}, "warning synchronous_standby_names is \"b\" but no such standby streams"},
	} {
		got := ""
		for _, f := range unsafe(c.d) {
			got += string(f.Level) + " " + f.Text
		}
		if !strings.HasPrefix(got, c.want) || (got == "") != (c.want == "") {
			t.Errorf("%+v: got %q", c.d, got)
		}
	}
}
