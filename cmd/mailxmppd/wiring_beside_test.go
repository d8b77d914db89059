package main

import (
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mailxmppd/config"
)

const lookupListener = `
[[listener]]
kind = "lookup"
address = "127.0.0.1:0"
answer = "lmtp:[127.0.0.1]:24"

[[peer]]
domain = "montague.example"

[[peer]]
domain = "verona.example"
policy = "never"

[[listener]]
kind = "submission"
address = "127.0.0.1:0"
`

// TestLookupListener: what the gateway rules of a domain reaches who asks.
func TestLookupListener(t *testing.T) {
	_, addrs := smtpSite(t, lookupListener)
	for key, want := range map[string]string{
		"montague.example": "OK lmtp:[127.0.0.1]:24\n",
		"verona.example":   "NOTFOUND\n",
		"capulet.example":  "NOTFOUND\n", // ours
		"nobody.example":   "NOTFOUND\n", // no records
	} {
		c, err := net.Dial("tcp", addrs[1])
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(20 * time.Second))
		io.WriteString(c, key+"\n")
		if got, err := io.ReadAll(c); err != nil || string(got) != want {
			t.Errorf("%s: got %q, %v, want %q", key, got, err, want)
		}
	}
}

// TestListenAt: a local socket may be used by whoever may enter its directory,
// and is made anew after a crash.
func TestListenAt(t *testing.T) {
	l := config.Listener{Address: config.ListenUnix + filepath.Join(newSite(t).dir, "beside", "s")}
	for range 2 {
		ln, err := listenAt(l)
		if err != nil {
			t.Fatal(err)
		}
		path, _ := l.UnixSocket()
		if c, err := net.Dial("unix", path); err != nil {
			t.Error(err)
		} else {
			c.Close()
		}
		if _, err := listenAt(l); err == nil {
			t.Error("taken twice")
		}
		ln.Close()
	}
}

// TestCheckBeside: check says what to tell Postfix, and finds an answer that
// leads nowhere.
func TestCheckBeside(t *testing.T) {
	for _, c := range []struct{ name, listeners, want string }{
		{"lookup", `[[listener]]
kind = "lookup"
address = "127.0.0.1:10027"
answer = "lmtp:[127.0.0.1]:2424"
[[listener]]
kind = "lmtp"
address = "127.0.0.1:2424"
tls = "none"
`, "transport_maps = socketmap:inet:127.0.0.1:10027:peers"},
		{"local socket", `[[listener]]
kind = "lookup"
address = "unix:lookup"
answer = "lmtp:[127.0.0.1]:2424"
`, "transport_maps = socketmap:unix:"},
		{"milter", `[[listener]]
kind = "milter"
address = "127.0.0.1:10028"
`, "smtpd_milters = inet:127.0.0.1:10028"},
		{"filter", `[[listener]]
kind = "filter"
address = "127.0.0.1:10025"
next = "smtp://127.0.0.1:10026"
`, "-o smtpd_proxy_filter=127.0.0.1:10025"},
		{"leads nowhere", `[[listener]]
kind = "lookup"
address = "127.0.0.1:0"
answer = "lmtp:[127.0.0.1]:2425"
`, `answer "lmtp:[127.0.0.1]:2425" names the port of none of our listeners`},
		{"peering only", `[[listener]]
kind = "lookup"
address = "127.0.0.1:0"
answer = "x"
`, "takes by SMTP is not judged here"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(t)
			s.more = c.listeners
			code, out, stderr := call(t, "check", "--config", s.write(t))
			if code != 0 || !strings.Contains(out, c.want) {
				t.Errorf("got %d %s%s, want %q", code, out, stderr, c.want)
			}
		})
	}
}

// TestFilterKeepsTheTimes: the limits hold for the neighbour's connections too.
func TestFilterKeepsTheTimes(t *testing.T) {
	s, addrs := smtpSite(t, `
[[listener]]
kind = "submission"
address = "127.0.0.1:0"
[[listener]]
kind = "filter"
address = "127.0.0.1:10025"
next = "smtp://127.0.0.1:9"
[limits]
command_timeout = "1s"
`)
	dialogue(t, s, addrs[len(addrs)-1], false, "|220", "|421 4.4.2", "|closed")
}
