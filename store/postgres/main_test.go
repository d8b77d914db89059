package postgres

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"mailxmppd/mail"
	"mailxmppd/store"
	"mailxmppd/store/storetest"
)

// server is the one PostgreSQL of this package's tests; each test has a schema
// of its own.
var server *storetest.Server

func TestMain(m *testing.M) {
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	var err error
	server, err = storetest.Start("")
	if errors.Is(err, storetest.ErrNoServer) && os.Getenv("MAILXMPPD_LAB") == "optional" {
		fmt.Fprintln(os.Stderr, "not tested:", err)
		return 0
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	// The tests wait for the server rather than for a processor.
	flag.Parse()
	if err := flag.Set("test.parallel", "8"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	if err := server.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	return code
}

var schemas atomic.Int64

// newSchema names a schema that no other test uses.
func newSchema() string { return fmt.Sprintf("test_%d", schemas.Add(1)) }

// node opens the store on a schema and closes it with the test.
func node(t testing.TB, schema, name string) *Store {
	t.Helper()
	return nodeOn(t, server, schema, name)
}

func nodeOn(t testing.TB, server *storetest.Server, schema, name string) *Store {
	t.Helper()
	s, err := Open(context.Background(), Config{URL: server.URL, Schema: schema, Node: name, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// newMessage is a message with one recipient per address, content not shared.
func newMessage(t testing.TB, size int, rcpts ...string) store.NewMessage {
	t.Helper()
	body := make([]byte, size)
	for i := range body {
		body[i] = byte('a' + i%23)
	}
	m := store.NewMessage{
		Message: mail.Message{
			ID:       mail.NewID(),
			Envelope: mail.Envelope{Sender: mail.Address{Local: "juliet", Domain: "capulet.example"}},
			Content:  mail.Bytes(body),
			Facts:    mail.Facts{Size: int64(size), HasID: true, Received: 2},
			Trace:    []byte("Received: by capulet.example\r\n"),
			Origin:   mail.Origin{Transport: "smtp", Remote: "127.0.0.1:4711"},
		},
		Transfer: "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
		Lifetime: 5 * 24 * time.Hour,
	}
	for _, r := range rcpts {
		a, err := mail.ParseAddress(r)
		if err != nil {
			t.Fatal(err)
		}
		m.Envelope.Recipients = append(m.Envelope.Recipients, mail.Recipient{Address: a})
	}
	return m
}
