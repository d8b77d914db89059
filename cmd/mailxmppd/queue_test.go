package main

import (
	"database/sql"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mailxmppd/config"
	"mailxmppd/mail"
	"mailxmppd/store"
)

// setVersion makes a store look as if a program with that schema had written it.
func setVersion(t *testing.T, path string, version int) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(`INSERT INTO goose_db_version (version_id, is_applied) VALUES (?, 1)`, version); err != nil {
		t.Fatal(err)
	}
}

// unread makes a stored message one that cannot be read.
func unread(t *testing.T, path string, id mail.ID) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(`UPDATE messages SET envelope = '{' WHERE id = ?`, string(id)); err != nil {
		t.Fatal(err)
	}
}

// spool puts one message with two waiting deliveries to montague.example and
// one to verona.example into the site's store.
func spool(t *testing.T, cfg *config.Config) mail.ID {
	t.Helper()
	st, err := openStore(t.Context(), cfg, quiet())
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	content := mail.NewBuffer("")
	defer content.Close()
	if _, err := content.Write([]byte("Subject: x\r\n\r\nx\r\n")); err != nil {
		t.Fatal(err)
	}
	env := mail.Envelope{Sender: address(t, "juliet@capulet.example")}
	for _, rcpt := range []string{"romeo@montague.example", "benvolio@montague.example", "prince@verona.example"} {
		env.Recipients = append(env.Recipients, mail.Recipient{Address: address(t, rcpt)})
	}
	m := mail.Message{ID: mail.NewID(), Envelope: env, Content: content, Facts: content.Facts(),
		Trace: []byte("Received: by capulet.example\r\n"), Origin: mail.Origin{Transport: "smtp", Remote: "192.0.2.1:1024", Received: time.Now()}}
	first := make([]store.First, len(env.Recipients))
	for i := range first {
		first[i].Delay = time.Hour
	}
	if _, err := st.PutMessage(t.Context(), store.NewMessage{Message: m, Transfer: mail.TransferID(env.Sender, m.Facts), Lifetime: 48 * time.Hour, First: first}); err != nil {
		t.Fatal(err)
	}
	return m.ID
}

func address(t *testing.T, s string) mail.Address {
	t.Helper()
	a, err := mail.ParseAddress(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// Looking at a queue never makes a store.
func TestQueueWithoutStore(t *testing.T) {
	s := newSite(t)
	code, stdout, stderr := call(t, "queue", "list", "--config", s.write(t))
	if code != 1 || stdout != "" || !strings.Contains(stderr, "there is no store at "+filepath.Join(s.dir, "mail.db")) {
		t.Errorf("got %d %q %q", code, stdout, stderr)
	}
	if left, err := filepath.Glob(filepath.Join(s.dir, "mail.db*")); err != nil || len(left) != 0 {
		t.Errorf("made %v, %v", left, err)
	}
}

func TestPrintRecord(t *testing.T) {
	began := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	r := store.Record{
		ID: "01JDX2V9N0000000000000000A", Transfer: "ab", Size: 42, Trace: "Received: a\r\n\tb\r\nX: y\r\n",
		Envelope: mail.Envelope{}, Origin: mail.Origin{Transport: "xmpp", Peer: "montague.example", Proof: "pkix", Received: began},
		Deliveries: []store.Entry{{ID: "01JDX2V9N0000000000000000A", State: store.Deferred, Rcpt: "a@capulet.example", AgeSecs: 90061, DueSecs: -5, Attempts: 1, InDoubt: true,
			Last: "451 4.4.2 \x1b[31m" + strings.Repeat("x", 100)}},
		Attempts: []store.Try{
			{N: 0, Number: 1, Began: began, Ended: began.Add(1500 * time.Millisecond), Result: store.Deferred, Status: "4.4.2", Remote: "mx.example", Text: "lost"},
			{N: 0, Number: 2, Began: began.Add(time.Hour)},
		},
		Events: []store.Event{{N: -1, At: began, Verb: "redirect", By: "ann", Detail: "mx"}, {N: 0, At: began, Verb: "hold", By: "bob"}},
	}
	var b strings.Builder
	if err := printRecord(&b, r); err != nil {
		t.Fatal(err)
	}
	want := `id         01JDX2V9N0000000000000000A
transfer   ab
from       <>
size       42
received   2026-11-01T12:00:00Z
transport  xmpp
peer       montague.example
proof      pkix
trace      Received: a
trace      b
trace      X: y

DELIVERY                      STATE      AGE   DUE  ATTEMPTS  FROM  RCPT                 LAST
01JDX2V9N0000000000000000A.0  deferred?  1d1h  now  1         <>    <a@capulet.example>  451 4.4.2 [31m` + strings.Repeat("x", 55) + `...

N  ATTEMPT  BEGAN                 TOOK  RESULT      STATUS  REMOTE      REMOTE ID  PROOF  TLS  TEXT
0  1        2026-11-01T12:00:00Z  1.5s  deferred    4.4.2   mx.example  -          -      -    lost
0  2        2026-11-01T13:00:00Z  -     unfinished  -       -           -          -      -    ` + `

N    AT                    VERB      BY   DETAIL
all  2026-11-01T12:00:00Z  redirect  ann  mx
0    2026-11-01T12:00:00Z  hold      bob  -
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}

func TestAge(t *testing.T) {
	for secs, want := range map[int64]string{0: "0s", 59: "59s", 61: "1m1s", 3600: "1h0m", 90061: "1d1h", 864000: "10d0h"} {
		if got := age(secs); got != want {
			t.Errorf("%d: got %s, want %s", secs, got, want)
		}
	}
}
