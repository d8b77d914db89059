package faults

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mailxmppd/store/storetest"
)

// TestLogFull: the disk of PostgreSQL's write-ahead log is full, at which the
// server panics and starts anew, or ends where even its recovery finds no room;
// then the test does what a supervisor does. Mail is refused meanwhile, and
// flows by itself when there is room.
func TestLogFull(t *testing.T) {
	t.Parallel()
	disk := smallDisk(t, 80)
	server := startServer(t, "min_wal_size=32MB", "max_wal_size=32MB")
	must(t, os.Chmod(filepath.Dir(disk), 0o711))
	must(t, server.MoveLog(disk))
	s := newSite(t, "postgres: disk of its log full", postgresAt(server.URL, "a.example", "wal"), postgresAt(server.URL, "b.example", "wal"), shortLease)
	s.start()
	stop := s.load(20)
	s.flows(10)
	s.blow()
	release := fill(t, disk)
	s.eventually("the server panics for want of room", func() bool {
		// What is left of the log's files is used up.
		err := server.Exec(t.Context(), `SELECT txid_current()`, `SELECT pg_switch_wal()`)
		said, logged := server.Log()
		must(t, logged)
		return err != nil && strings.Contains(said, "PANIC:") && strings.Contains(said, "No space left on device")
	})
	refused := s.refusedFor(3 * time.Second)
	stop()
	release()
	s.supervise(server)
	s.nothingOf(refused)
	s.recovers()
	s.judge()
	if len(refused) == 0 {
		t.Error("nothing was refused")
	}
}

// supervise starts a server that has ended.
func (s *site) supervise(server *storetest.Server) {
	s.Helper()
	if server.Ended() {
		s.Log("the server has ended and is started")
		must(s, server.Recover())
	}
	s.eventually("the server answers", func() bool { return server.Exec(s.Context(), `SELECT 1`) == nil })
}

// refusedFor sends for a while and returns the ids of what was not taken. The
// replies must be temporary ones that speak of the store.
func (s *site) refusedFor(d time.Duration) (refused []string) {
	s.Helper()
	never := make(chan struct{})
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		id, err := s.peer.Make("y@b.example", 20)
		must(s, err)
		err = s.peer.Send(s.pair.A.SMTP, id, never)
		switch {
		case err == nil:
			s.Error("a message was taken without a database")
		case strings.Contains(err.Error(), `answered "451 4.3.`), strings.Contains(err.Error(), `answered "452 4.3.1 `):
			refused = append(refused, id)
		default:
			s.Fatalf("without a database: %v", err)
		}
	}
	return refused
}
