package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	mdns "github.com/miekg/dns"

	"mailxmppd/admin"
	"mailxmppd/config"
	"mailxmppd/store"
	"mailxmppd/store/sqlite"
	"mailxmppd/store/storetest"
	"mailxmppd/trust/signing"
)

// site is a configuration in a directory of its own, with the pieces that a
// test may want to be otherwise.
type site struct {
	dir      string
	dns      string
	listener string // address
	xmpp     string // address
	store    string // lines of [store]
	more     string // further tables
}

// newSite makes a site at which check has nothing to complain about.
func newSite(t *testing.T) *site {
	t.Helper()
	dir, err := os.MkdirTemp("", "mailxmppd-check") // short: a socket goes there
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	ca := newAuthority(t)
	writeFile(t, filepath.Join(dir, "ca.pem"), ca.pem)
	certificate{names: []string{"capulet.example"}, after: 1000 * time.Hour, parent: ca}.write(t, dir)
	return &site{dir: dir, dns: nameServer(t, "_xmpps-mail._tcp.capulet.example. 60 IN SRV 0 0 5270 xmpp.capulet.example."),
		listener: "127.0.0.1:0", xmpp: "127.0.0.1:0", store: `url = "sqlite:mail.db"`}
}

func (s *site) write(t *testing.T) (file string) {
	t.Helper()
	file = filepath.Join(s.dir, "mailxmppd.toml")
	writeFile(t, file, fmt.Sprintf(`
[[domain]]
name = "capulet.example"
certificate = "cert.pem"
key = "key.pem"
deliver = "lmtp://127.0.0.1:24"

[[listener]]
kind = "relay"
address = %q
trusted = ["127.0.0.0/8"]

[store]
%s

[dns]
servers = [%q]
timeout = "200ms"

[tls]
roots = "ca.pem"

[xmpp]
listen = [%q]

[admin]
socket = "admin.sock"

%s`, s.listener, s.store, s.dns, s.xmpp, s.more))
	return file
}

// nameServer answers with these records on loopback; with none it says nothing
// at all.
func nameServer(t *testing.T, records ...string) (address string) {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &mdns.Server{PacketConn: conn, Handler: mdns.HandlerFunc(func(w mdns.ResponseWriter, q *mdns.Msg) {
		if len(records) == 0 {
			return
		}
		m := new(mdns.Msg).SetReply(q)
		for _, text := range records {
			rr, err := mdns.NewRR(text)
			if err == nil && rr.Header().Name == q.Question[0].Name && rr.Header().Rrtype == q.Question[0].Qtype {
				m.Answer = append(m.Answer, rr)
			}
		}
		w.WriteMsg(m)
	})}
	up, ended := make(chan struct{}), make(chan error, 1)
	server.NotifyStartedFunc = func() { close(up) }
	go func() { ended <- server.ActivateAndServe() }()
	<-up
	t.Cleanup(func() {
		server.Shutdown()
		<-ended
	})
	return conn.LocalAddr().String()
}

func TestCheck(t *testing.T) {
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	ca := newAuthority(t)
	const fine = "valid until"
	for _, c := range []struct {
		name   string
		change func(t *testing.T, s *site)
		code   int
		level  level
		says   string
	}{
		{"nothing wrong", func(*testing.T, *site) {}, 0, levelOK, fine},
		{"peers find us", func(*testing.T, *site) {}, 0, levelOK, "peers find capulet.example at xmpp.capulet.example port 5270"},
		{"mistake in the file", func(_ *testing.T, s *site) { s.more = "[log]\nlevel = \"loud\"" }, 1, levelError, "log.level: \"loud\" is not one of"},
		{"expired", func(t *testing.T, s *site) {
			certificate{names: []string{"capulet.example"}, after: -time.Hour}.write(t, s.dir)
		}, 1, levelError, "capulet.example: expired on"},
		{"expires soon", func(t *testing.T, s *site) {
			certificate{names: []string{"capulet.example"}, after: 100 * time.Hour}.write(t, s.dir)
		}, 0, levelWarning, "capulet.example: expires on"},
		{"another domain's certificate", func(t *testing.T, s *site) {
			certificate{names: []string{"montague.example"}, after: time.Hour}.write(t, s.dir)
		}, 1, levelError, "does not name capulet.example"},
		{"another CA's certificate", func(t *testing.T, s *site) {
			certificate{names: []string{"capulet.example"}, after: time.Hour, parent: ca}.write(t, s.dir)
		}, 0, levelWarning, "peers that trust the same CAs will refuse it"},
		{"busy port", func(_ *testing.T, s *site) { s.listener = busy.Addr().String() }, 1, levelError, "address already in use"},
		{"no such address here", func(_ *testing.T, s *site) { s.listener = "192.0.2.1:2525" }, 1, levelError, "cannot assign requested address"},
		{"DNS says nothing", func(t *testing.T, s *site) { s.dns = nameServer(t) }, 1, levelError, "no answer about _xmpps-mail._tcp.capulet.example"},
		{"DNS does not know us", func(t *testing.T, s *site) { s.dns = nameServer(t, "other.example. 60 IN A 192.0.2.1") }, 0, levelWarning, "no SRV record"},
		{"store will be made", func(*testing.T, *site) {}, 0, levelOK, "mail.db will be made"},
		{"store has no place", func(_ *testing.T, s *site) { s.store = `url = "sqlite:absent/mail.db"` }, 1, levelError, "cannot be made"},
		{"store is no store", func(t *testing.T, s *site) { writeFile(t, filepath.Join(s.dir, "mail.db"), "not a database") }, 1, levelError, "cannot be used: store "},
		{"store is there", makeStore, 0, levelOK, "mail.db is at schema version"},
		{"store is newer", func(t *testing.T, s *site) {
			makeStore(t, s)
			setVersion(t, filepath.Join(s.dir, "mail.db"), 999)
		}, 1, levelError, "a newer program wrote it"},
		{"database does not answer", func(_ *testing.T, s *site) {
			s.store = `url = "postgres://mail:hush@127.0.0.1:1/mail"`
		}, 1, levelError, "postgres://mail@127.0.0.1:1/mail:"},
		{"no signing keys yet", func(*testing.T, *site) {}, 0, levelOK, "mail of capulet.example is not signed yet"},
		{"signing keys without records", func(t *testing.T, s *site) { leaveKeys(t, s, "old") }, 0, levelWarning, "DNS does not show the rsa key old-rsa._domainkey.capulet.example: it does not sign mail of capulet.example until it does"},
		{"signing keys that sign anyway", func(t *testing.T, s *site) {
			s.more = "[dkim]\nsign = \"always\""
			leaveKeys(t, s, "old")
		}, 0, levelWarning, "which signs all the same: nobody can verify that"},
		{"signing keys with records", func(t *testing.T, s *site) {
			leaveKeys(t, s, "old")
			s.publish(t, leaveKeys(t, s, "new")) // the old ones are not there any more
		}, 0, levelOK, "DNS shows the rsa key new-rsa._domainkey.capulet.example"},
		{"signing keys with others' records", func(t *testing.T, s *site) {
			other := newSite(t)
			leaveKeys(t, s, "old")
			s.publish(t, leaveKeys(t, other, "old"))
		}, 0, levelWarning, "DNS does not show the ed25519 key old-ed2._domainkey.capulet.example"},
		{"nothing is signed", func(t *testing.T, s *site) {
			s.more = "[dkim]\nsign = \"never\""
			leaveKeys(t, s, "old")
		}, 0, levelOK, fine},
		{"key open to all", func(t *testing.T, s *site) {
			if err := os.Chmod(filepath.Join(s.dir, "key.pem"), 0o644); err != nil {
				t.Fatal(err)
			}
		}, 0, levelWarning, "is open to every user"},
		{"weak route", func(_ *testing.T, s *site) {
			s.more = "[[route]]\ndomain = \"*\"\nnext = \"smtp://smarthost.example:25\"\ntls = \"none\""
		}, 0, levelWarning, "mail to smarthost.example:25 goes in plain text"},
		{"no Dovecot", func(_ *testing.T, s *site) {
			s.more = "[[listener]]\nkind = \"submission\"\naddress = \"127.0.0.1:0\"\nauth = \"dovecot:absent\""
		}, 0, levelWarning, "absent: no such file or directory"},
		{"weak peer", func(_ *testing.T, s *site) {
			s.more = "[[peer]]\ndomain = \"montague.example\"\npolicy = \"preferred\""
		}, 0, levelWarning, "peer montague.example"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(t)
			c.change(t, s)
			code, stdout, stderr := call(t, "check", "--json", "--config", s.write(t))
			var out struct {
				OK       bool
				Findings []finding
			}
			if err := json.Unmarshal([]byte(stdout), &out); err != nil {
				t.Fatalf("%v in %s%s", err, stdout, stderr)
			}
			found := false
			for _, f := range out.Findings {
				found = found || f.Level == c.level && strings.Contains(f.Text, c.says)
				if f.Level == levelError && c.code == 0 || f.Level == levelWarning && c.level == levelOK {
					t.Errorf("not expected: %+v", f)
				}
			}
			if code != c.code || out.OK != (code == 0) || !found || stderr != "" || strings.Contains(stdout, "hush") {
				t.Errorf("got %d, stderr %q:\n%s", code, stderr, stdout)
			}
		})
	}
}

func TestCheckPostgres(t *testing.T) {
	s := newSite(t)
	s.store = fmt.Sprintf("url = %q\nschema = \"check_test\"", storetest.StartPostgres(t))
	expect := func(code int, says string) {
		t.Helper()
		got, stdout, stderr := call(t, "check", "--config", s.write(t))
		if got != code || stderr != "" || !strings.Contains(stdout, says) || !strings.Contains(stdout, "no synchronous standby") {
			t.Errorf("got %d %q:\n%s", got, stderr, stdout)
		}
	}
	expect(0, "schema check_test will be made in postgres://")
	expect(0, "schema check_test will be made in postgres://") // looking has made nothing
	makeStore(t, s)
	expect(0, "schema check_test in postgres://")
	cfg, err := config.Load(s.write(t))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(t.Context(), cfg.Store.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(t.Context(), `INSERT INTO check_test.goose_db_version (version_id, is_applied) VALUES (999, true)`); err != nil {
		t.Fatal(err)
	}
	expect(1, "a newer program wrote it")
	if code, _, stderr := call(t, "queue", "list", "--config", s.write(t)); code != 1 || !strings.Contains(stderr, "newer version") || strings.Count(stderr, "\n") != 1 {
		t.Errorf("got %d %q", code, stderr)
	}
}

// leaveKeys leaves a store with signing keys behind.
func leaveKeys(t *testing.T, s *site, selector string) []signing.Key {
	t.Helper()
	cfg, err := config.Load(s.write(t))
	if err != nil {
		t.Fatal(err)
	}
	st, err := openStore(t.Context(), cfg, quiet())
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	var stored []store.SigningKey
	var keys []signing.Key
	for _, kind := range signing.Kinds() {
		k, err := signing.Generate("capulet.example", selector+"-"+kind[:min(len(kind), 3)], kind)
		if err != nil {
			t.Fatal(err)
		}
		key, err := signing.Open(k)
		if err != nil {
			t.Fatal(err)
		}
		stored, keys = append(stored, k), append(keys, key)
	}
	if err := st.AddSigningKeys(t.Context(), stored, false); err != nil {
		t.Fatal(err)
	}
	return keys
}

// publish has DNS show the records of keys, beside what it showed before.
func (s *site) publish(t *testing.T, keys []signing.Key) {
	t.Helper()
	records := []string{"_xmpps-mail._tcp.capulet.example. 60 IN SRV 0 0 5270 xmpp.capulet.example."}
	for _, k := range keys {
		line, err := k.ZoneLine()
		if err != nil {
			t.Fatal(err)
		}
		records = append(records, strings.Replace(line, " IN TXT", " 60 IN TXT", 1))
	}
	s.dns = nameServer(t, records...)
}

// makeStore leaves a store at the newest schema behind.
func makeStore(t *testing.T, s *site) {
	t.Helper()
	cfg, err := config.Load(s.write(t))
	if err != nil {
		t.Fatal(err)
	}
	st, err := openStore(t.Context(), cfg, quiet())
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
}

// What --print writes is a configuration that loads, with the findings behind
// it as comments and without secrets.
func TestCheckPrint(t *testing.T) {
	s := newSite(t)
	writeFile(t, filepath.Join(s.dir, "password"), "hush\n")
	s.more = "[[route]]\ndomain = \"*\"\nnext = \"smtp://smarthost.example:587\"\nuser = \"u\"\npassword_file = \"password\""
	file := s.write(t)
	code, stdout, stderr := call(t, "check", "--print", "--config", file)
	if code != 0 || stderr != "" || strings.Contains(stdout, "hush") {
		t.Fatalf("got %d %q:\n%s", code, stderr, stdout)
	}
	printed := filepath.Join(s.dir, "printed.toml")
	writeFile(t, printed, stdout)
	cfg, err := config.Load(printed)
	if err != nil {
		t.Fatalf("%v in\n%s", err, stdout)
	}
	if cfg.Domains[0].Certificate != filepath.Join(s.dir, "cert.pem") || !strings.Contains(stdout, "# ok ") {
		t.Errorf("got\n%s", stdout)
	}
	code, stdout, _ = call(t, "check", "--print", "--json", "--config", file)
	var out struct {
		Config struct {
			Domain []struct{ Name string }
			Queue  struct{ Lifetime string }
		}
	}
	if err := json.Unmarshal([]byte(stdout), &out); code != 0 || err != nil || out.Config.Domain[0].Name != "capulet.example" || out.Config.Queue.Lifetime != "5d" {
		t.Errorf("got %d, %v:\n%s", code, err, stdout)
	}
}

// While the gateway runs its sockets are taken, which is no mistake.
func TestCheckWhileRunning(t *testing.T) {
	s := newSite(t)
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	s.listener = busy.Addr().String()
	file := s.write(t)
	cfg, err := config.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	serveAdmin(t, cfg)
	code, stdout, stderr := call(t, "check", "--config", file)
	if code != 0 || stderr != "" {
		t.Errorf("got %d %q", code, stderr)
	}
	for _, want := range []string{"is in use while the gateway runs", fmt.Sprintf("runs as process %d", os.Getpid()), "is at schema version"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("%q is not in\n%s", want, stdout)
		}
	}
}

// serveAdmin opens the site's store and serves its socket, as serve does.
func serveAdmin(t *testing.T, cfg *config.Config) {
	t.Helper()
	serveAdminStore(t, cfg)
}

// serveAdminStore is serveAdmin for a test that works on the store too.
func serveAdminStore(t *testing.T, cfg *config.Config) store.Store {
	t.Helper()
	st, err := openStore(t.Context(), cfg, quiet())
	if err != nil {
		t.Fatal(err)
	}
	ln, err := admin.Listen(cfg.Admin.Socket)
	if err != nil {
		st.Close()
		t.Fatal(err)
	}
	server := admin.New(st, slog.New(slog.DiscardHandler), func() {})
	server.Allow(admin.Operator{Fail: bounceInStore(st), Backup: st.(*sqlite.Store).Backup})
	served := make(chan error, 1)
	go func() { served <- server.Serve(ln) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := server.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	return st
}
