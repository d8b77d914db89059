package badday

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"mailxmppd/lab/harness"
	"mailxmppd/store"
	"mailxmppd/store/storetest"
)

// happen makes an event of the page come true.
func (l *lab) happen(s step) {
	l.t.Helper()
	what, rest := s.event[0], s.event[1:]
	switch {
	case what == "start":
		must(l.t, l.gateways[rest[0]].Start(l.t.Context()))
	case what == "stop":
		must(l.t, l.gateways[rest[0]].Stop())
	case what == "crash": // in the middle of an attempt, and starts again
		l.await(s, func(e []store.Entry) bool {
			return slices.ContainsFunc(e, func(e store.Entry) bool { return e.State == store.Leased && e.Attempts > 0 })
		})
		must(l.t, l.gateways[rest[0]].Kill())
		must(l.t, l.gateways[rest[0]].Start(l.t.Context()))
	case what == "refuse": // all mail, of a recipient that it does not know
		l.setVerify(rest[0], "none", "neighbour")
		l.boxes[rest[0]].Refuse(func(string) bool { return true })
	case what == "accept":
		l.setVerify(rest[0], "neighbour", "none")
		l.boxes[rest[0]].Refuse(nil)
	case what == "hang": // at RCPT
		l.hung = make(chan struct{})
		until := l.hung
		l.t.Cleanup(sync.OnceFunc(func() { l.answer(until) }))
		l.boxes[rest[0]].Refuse(func(string) bool { <-until; return false })
	case what == "answer":
		l.boxes[rest[0]].Refuse(nil)
		l.answer(l.hung)
	case what == "fill":
		l.fill()
	case what == "room":
		must(l.t, os.Remove(filepath.Join(l.disk, filler)))
	case what == "send":
		if said, err := l.send(rest[0], rest[1]); err != nil {
			l.t.Fatalf("line %d: %v %s", s.line+1, err, said)
		}
	case what == "refused": // with this reply
		if said, err := l.send(rest[0], rest[1]); err == nil || !strings.HasPrefix(said, strings.Join(rest[2:], " ")) {
			l.t.Errorf("line %d: answered %q", s.line+1, said)
		}
	case what == "box": // has so many messages, and no more
		if n := l.boxes[rest[0]].Count(); n != number(l.t, rest[1]) {
			l.t.Errorf("line %d: %s got %d messages", s.line+1, rest[0], n)
		}
	case what == "await" && rest[0] == "waiting":
		l.await(s, func(e []store.Entry) bool {
			return len(e) == number(l.t, rest[1]) && !slices.ContainsFunc(e, func(e store.Entry) bool { return e.State != store.Deferred || e.Attempts == 0 })
		})
	case what == "await" && rest[0] == "held":
		l.await(s, func(e []store.Entry) bool {
			return len(e) == number(l.t, rest[1]) && !slices.ContainsFunc(e, func(e store.Entry) bool { return e.State != store.Held })
		})
	case what == "await" && rest[0] == "empty":
		l.await(s, func(e []store.Entry) bool { return len(e) == 0 })
	case what == "await" && rest[0] == "box":
		l.until(s, func() bool { return l.boxes[rest[1]].Count() >= number(l.t, rest[2]) })
	case what == "await" && rest[0] == "dsn": // to the sender, with these words
		words := strings.Join(rest[2:], " ")
		l.until(s, func() bool {
			return slices.ContainsFunc(l.boxes["capulet"].Got(), func(c string) bool {
				return strings.Contains(c, "Action: "+rest[1]) && strings.Contains(c, words)
			})
		})
	case what == "use" && rest[0] == "postgres":
		l.replaceInConfig("capulet", "sqlite://"+filepath.Join(l.dir, "capulet", "mail.db"), l.server())
	case what == "use" && rest[0] == "restored":
		l.replaceInConfig("capulet", l.server(), l.restored())
	default:
		l.t.Fatalf("line %d: no such event: %v", s.line+1, s.event)
	}
}

// replaceInConfig edits a gateway's configuration.
func (l *lab) replaceInConfig(name, old, new string) {
	l.t.Helper()
	file := l.gateways[name].Config
	config, err := os.ReadFile(file)
	must(l.t, err)
	if !bytes.Contains(config, []byte(old)) {
		l.t.Fatalf("no %q in the configuration of %s", old, name)
	}
	must(l.t, os.WriteFile(file, bytes.Replace(config, []byte(old), []byte(new), 1), 0o600))
}

// setVerify says how a gateway is to find out who exists, from its next start
// on.
func (l *lab) setVerify(name, was, is string) {
	l.t.Helper()
	l.replaceInConfig(name, fmt.Sprintf("verify = %q", was), fmt.Sprintf("verify = %q", is))
}

// answer has the relay answer again, once.
func (l *lab) answer(hung chan struct{}) {
	select {
	case <-hung:
	default:
		close(hung)
	}
}

func number(t *testing.T, s string) int {
	n, err := strconv.Atoi(s)
	must(t, err)
	return n
}

// server is a PostgreSQL of its own, started when the page comes to it.
func (l *lab) server() string {
	if l.postgres == "" {
		l.postgres = storetest.StartPostgres(l.t)
	}
	return l.postgres
}

// restored is the URL of the database into which the page restores.
func (l *lab) restored() string { return strings.Replace(l.server(), "/postgres?", "/mail2?", 1) }

// send hands one message to the gateway of capulet.example and returns its last
// reply.
func (l *lab) send(from, to string) (string, error) {
	c, err := harness.Dial(l.gateways["capulet"].SMTP)
	must(l.t, err)
	defer c.Close()
	l.sent++
	content := fmt.Sprintf("From: %s\r\nSubject: %d\r\nMessage-ID: <%d@capulet.example>\r\n\r\nhello\r\n", from, l.sent, l.sent)
	return c.Send(from, []string{to}, harness.Stuff([]byte(content)))
}

func (l *lab) await(s step, done func([]store.Entry) bool) {
	l.until(s, func() bool {
		out, err := l.run("mailxmppd", "queue", "list", "--json", "-c", pageConfig)
		var entries []store.Entry
		return err == nil && json.Unmarshal([]byte(out), &entries) == nil && done(entries)
	})
}

func (l *lab) until(s step, done func() bool) {
	l.t.Helper()
	for end := time.Now().Add(60 * time.Second); !done(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			out, _ := l.run("mailxmppd", "queue", "list", "-c", pageConfig)
			l.t.Fatalf("line %d: %v does not come true\n%s", s.line+1, s.event, out)
		}
	}
}
