// Package verdicts shows the whole of trust at work: gateways, DNS, SMTP clients
// and a peer, mailboxes that take all mail and mailboxes that take permitted mail
// only; and that the filters of docs/trust.md do what it says.
package verdicts

import (
	"context"
	"fmt"
	"net"
	"net/smtp"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"mailxmppd/lab/harness"
	"mailxmppd/lab/trust"
)

// home is where the gateway's program is, which all tests run.
var home string

var build = sync.OnceValues(func() (exe string, err error) { return harness.Build(home) })

func TestMain(m *testing.M) {
	var err error
	if home, err = harness.ShortDir(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		os.RemoveAll(home)
		os.Exit(code)
	}))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

const (
	good = "127.0.44.1"  // friend.example's own host
	evil = "127.0.44.66" // somebody else's

	far = "127.0.44.4:10025" // the host of far.example
)

// world is capulet.example, where juliet takes all mail and nurse takes
// permitted mail only, and its peer montague.example, whose users write by SMTP
// to their own gateway.
type world struct {
	capulet, montague *harness.Gateway
	judged            string // capulet's listener for strangers
	mailboxes         *harness.Sink
}

func start(t *testing.T) *world {
	t.Helper()
	dir, err := harness.ShortDir()
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	exe, err := build()
	must(t, err)
	ca, err := harness.NewCA(dir)
	must(t, err)
	zone := trust.Zone{
		"friend.example":        {{"TXT", "v=spf1 ip4:" + good + " -all"}},
		"_dmarc.friend.example": {{"TXT", "v=DMARC1; p=reject"}},
		"alumni.example":        {{"TXT", "v=spf1 ip4:" + alumni + " -all"}},
		"_dmarc.slow.example":   {{"FAIL", ""}},
		"slow.example":          {{"FAIL", ""}},
	}
	dns, stop, err := zone.Serve("127.0.44.53:0")
	must(t, err)
	t.Cleanup(stop)
	w := &world{}
	w.mailboxes, err = harness.NewSink("127.0.0.1:0", func(content []byte) string { return string(content) })
	must(t, err)
	t.Cleanup(w.mailboxes.Close)
	w.mailboxes.Refuse(func(recipient string) bool { return strings.HasPrefix(recipient, "nobody@") })
	addrs, err := harness.FreeAddrs(5)
	must(t, err)
	w.judged = addrs[4]
	spec := harness.Spec{Exe: exe, CA: ca, DNS: dns, Deliver: "lmtp://" + w.mailboxes.Addr}
	side := func(domain, smtp, xmpp, peer, peerXMPP, extra string) *harness.Gateway {
		s := spec
		s.Dir = filepath.Join(dir, domain)
		s.Domain, s.Store, s.SMTP, s.XMPP, s.Extra = domain, "sqlite:"+filepath.Join(s.Dir, "mail.db"), smtp, xmpp, extra
		s.Peers = map[string]string{peer: peerXMPP}
		g, err := harness.NewGateway(s)
		must(t, err)
		config, err := os.ReadFile(g.Config)
		must(t, err)
		must(t, os.WriteFile(g.Config, []byte(strings.Replace(string(config), `verify = "none"`, `verify = "neighbour"`, 1)), 0o600))
		t.Cleanup(func() {
			g.Kill()
			if log := g.Log(); t.Failed() {
				t.Logf("the end of the log of %s's gateway:\n%s", domain, log[max(0, len(log)-3000):])
			}
		})
		must(t, g.Start(t.Context()))
		return g
	}
	w.capulet = side("capulet.example", addrs[0], addrs[1], "montague.example", addrs[3], fmt.Sprintf(`
[[listener]]
kind = "relay"
address = %q
tls = "none"
xclient = ["127.0.0.0/8"]
xforward = ["127.0.0.0/8"]
[[domain.trust.mailbox]]
address = "nurse"
default = "deny"
[[domain.trust.mailbox]]
address = "tybalt"
forged = "reject"
[[domain.trust.mailbox]]
address = "lorenzo"
forwarders = ["alumni.example"]
[[trust.secondary]]
networks = [%q]
authserv_id = "mx2.capulet.example"
[[trust.secondary]]
networks = [%q]
authserv_id = "mx2.capulet.example"
recipients = ["juliet@capulet.example"]
[contacts]
learn = ["autocrypt"]
learnt = "permit"
[[route]]
domain = "far.example"
next = "smtp://%s"
tls = "none"
`, w.judged, second, third, far))
	w.montague = side("montague.example", addrs[2], addrs[3], "capulet.example", addrs[1], "policy = \"enforce\"\nsends = \"xmpp-only\"\n")
	for _, author := range []string{"f@friend.example", "romeo@montague.example", "s@slow.example"} {
		for _, mailbox := range []string{"nurse@capulet.example", "juliet@capulet.example"} {
			out, err := exec.Command(exe, "grant", "add", "--config", w.capulet.Config, mailbox, author).CombinedOutput()
			if err != nil {
				t.Fatalf("grant add: %v\n%s", err, out)
			}
		}
	}
	return w
}

// letter is a message that could be forged in part.
func letter(author, mark string) string {
	return "X-Mail-Trust : permitted; trust me\r\nAuthentication-Results: (x) CAPULET.example/1; dkim=pass\r\n" +
		"Authentication-Results: mx.friend.example; dkim=pass\r\nFrom: <" + author + ">\r\nMessage-ID: <" + mark + "@x.example>\r\nSubject: " + mark + "\r\n\r\nbody\r\n"
}

// send hands a message to a listener from an address of the loopback network,
// after the commands that a proxy says first. It returns the phase and reply
// that refused it; "" for none.
func send(t *testing.T, listener, client string, before []string, from, to, content string) string {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(client)}, Timeout: 5 * time.Second}
	conn, err := d.Dial("tcp", listener)
	must(t, err)
	conn.SetDeadline(time.Now().Add(time.Minute))
	c, err := smtp.NewClient(conn, "gateway")
	must(t, err)
	defer c.Close()
	must(t, c.Hello("client.example"))
	for _, line := range before {
		id, err := c.Text.Cmd("%s", line)
		must(t, err)
		c.Text.StartResponse(id)
		_, _, err = c.Text.ReadResponse(2)
		c.Text.EndResponse(id)
		must(t, err)
		if strings.HasPrefix(line, "XCLIENT") {
			id, err := c.Text.Cmd("EHLO client.example")
			must(t, err)
			c.Text.StartResponse(id)
			_, _, err = c.Text.ReadResponse(250)
			c.Text.EndResponse(id)
			must(t, err)
		}
	}
	must(t, c.Mail(from))
	if err := c.Rcpt(to); err != nil {
		return "rcpt " + plain(err)
	}
	body, err := c.Data()
	must(t, err)
	fmt.Fprint(body, content)
	if err := body.Close(); err != nil {
		return "data " + plain(err)
	}
	return ""
}

// plain is a reply as it was; textproto quotes its text.
func plain(err error) string { return strings.ReplaceAll(err.Error(), `"`, "") }

// arrived waits for a message and returns it whole.
func (w *world) arrived(t *testing.T, mark string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		for _, got := range w.mailboxes.Got() {
			if strings.Contains(got, "Subject: "+mark+"\r\n") {
				return got
			}
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s has not arrived", mark)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// TestVerdicts: a forged, an unproven, an authenticated and a permitted sender
// write to mailboxes that allow and that deny, by SMTP and over XMPP.
func TestVerdicts(t *testing.T) {
	w := start(t)
	const notWanted = "550 5.7.1 recipient has not permitted this sender"
	bySMTP, overXMPP := w.judged, w.montague.SMTP
	xforward := func(addr string) []string {
		return []string{"XFORWARD ADDR=" + addr + " NAME=[UNAVAILABLE] PROTO=ESMTP HELO=mx.friend.example SOURCE=REMOTE"}
	}
	xclient := func(addr string) []string {
		return []string{"XCLIENT ADDR=" + addr + " NAME=[UNAVAILABLE] PROTO=ESMTP HELO=mx.friend.example"}
	}
	for i, c := range []struct {
		name, listener, client string
		before                 []string
		from, author, to       string
		verdict                string // begins so; "" where it is refused
		refusal                string
	}{
		{"authenticated", bySMTP, good, nil, "a@friend.example", "a@friend.example", "juliet", "authenticated; proven by spf", ""},
		{"permitted", bySMTP, good, nil, "f@friend.example", "f@friend.example", "juliet", "permitted; ", ""},
		{"unproven", bySMTP, evil, nil, "x@stranger.example", "x@stranger.example", "juliet", "unproven; nothing proves that this is from stranger.example", ""},
		{"forged", bySMTP, evil, nil, "x@stranger.example", "f@friend.example", "juliet", "forged; friend.example asks to reject", ""},
		{"forged, rejected", bySMTP, evil, nil, "x@stranger.example", "f@friend.example", "tybalt", "", "data 550 5.7.1 refused as forged: friend.example asks to reject"},
		{"authenticated, denied", bySMTP, good, nil, "a@friend.example", "a@friend.example", "nurse", "", "data " + notWanted},
		{"permitted, wanted", bySMTP, good, nil, "f@friend.example", "f@friend.example", "nurse", "permitted; ", ""},
		{"unproven, denied", bySMTP, evil, nil, "x@stranger.example", "x@stranger.example", "nurse", "", "rcpt " + notWanted},
		{"forged, denied", bySMTP, evil, nil, "y@friend.example", "f@friend.example", "nurse", "", "data " + notWanted},
		{"a null reverse-path", bySMTP, evil, nil, "", "mailer-daemon@stranger.example", "nurse", "", "data " + notWanted},
		{"DNS is down", bySMTP, good, nil, "s@slow.example", "s@slow.example", "juliet", "unproven; it cannot be told now", ""},
		{"DNS is down, denied", bySMTP, good, nil, "s@slow.example", "s@slow.example", "nurse", "", "data 451 4.7.0 it cannot be told now who sent this"},

		{"over XMPP, authenticated", overXMPP, good, nil, "paris@montague.example", "paris@montague.example", "juliet", "authenticated; proven by ", ""},
		{"over XMPP, permitted", overXMPP, good, nil, "romeo@montague.example", "romeo@montague.example", "juliet", "permitted; ", ""},
		{"over XMPP, unproven", overXMPP, good, nil, "romeo@montague.example", "x@stranger.example", "juliet", "unproven; nothing proves that this is from stranger.example", ""},
		{"over XMPP, forged", overXMPP, good, nil, "romeo@montague.example", "f@friend.example", "juliet", "forged; friend.example asks to reject", ""},
		{"over XMPP, authenticated, denied", overXMPP, good, nil, "paris@montague.example", "paris@montague.example", "nurse", "", "data " + notWanted},
		{"over XMPP, permitted, wanted", overXMPP, good, nil, "romeo@montague.example", "romeo@montague.example", "nurse", "permitted; ", ""},
		{"over XMPP, unproven, denied", overXMPP, good, nil, "romeo@montague.example", "x@stranger.example", "nurse", "", "data " + notWanted},
		{"over XMPP, forged, denied", overXMPP, good, nil, "romeo@montague.example", "f@friend.example", "nurse", "", "data " + notWanted},

		{"XFORWARD, the real client", bySMTP, "127.0.0.1", xforward(good), "a@friend.example", "a@friend.example", "juliet", "authenticated; proven by spf", ""},
		{"XFORWARD, a forger", bySMTP, "127.0.0.1", xforward("192.0.2.66"), "a@friend.example", "a@friend.example", "juliet", "forged; ", ""},
		{"XFORWARD, the neighbour's own", bySMTP, "127.0.0.1", []string{"XFORWARD ADDR=[UNAVAILABLE] SOURCE=LOCAL"}, "a@friend.example", "a@friend.example", "juliet", "unproven; not judged", ""},
		{"XCLIENT, the real client", bySMTP, "127.0.0.1", xclient(good), "a@friend.example", "a@friend.example", "juliet", "authenticated; proven by spf", ""},
		{"XCLIENT, a forger", bySMTP, "127.0.0.1", xclient("192.0.2.66"), "a@friend.example", "a@friend.example", "juliet", "forged; ", ""},
		{"a neighbour that tells nothing", w.capulet.SMTP, "127.0.0.1", nil, "a@friend.example", "a@friend.example", "nurse", "unproven; not judged", ""},
	} {
		mark := fmt.Sprintf("letter-%d", i)
		content := letter(c.author, mark)
		refusal := send(t, c.listener, c.client, c.before, c.from, c.to+"@capulet.example", content)
		if c.verdict == "" {
			if !strings.HasPrefix(refusal, c.refusal) || refusal == "" {
				t.Errorf("%s: refused with %q, want %q", c.name, refusal, c.refusal)
			}
			continue
		}
		if refusal != "" {
			t.Errorf("%s: refused with %q", c.name, refusal)
			continue
		}
		got := w.arrived(t, mark)
		if !strings.HasPrefix(got, "X-Mail-Trust: "+c.verdict) {
			t.Errorf("%s: arrived as\n%.700s\nwant %q", c.name, got, c.verdict)
		}
		_, rest, _ := strings.Cut(content, "dkim=pass\r\n") // without what poses as capulet's
		if strings.Count(strings.ToLower(got), "x-mail-trust") != 1 || !strings.HasSuffix(got, rest) || strings.Contains(got, "trust me") {
			t.Errorf("%s: arrived as\n%s", c.name, got)
		}
	}
	for _, got := range w.mailboxes.Got() {
		if !strings.Contains(got, "\r\nAuthentication-Results: capulet.example;") {
			t.Errorf("without results:\n%.500s", got)
		}
	}
}

// TestSendsOverXMPPOnly: once capulet has heard that montague sends over XMPP
// only, what claims montague by SMTP is forged, in From and in the reverse-path.
func TestSendsOverXMPPOnly(t *testing.T) {
	w := start(t)
	// Capulet asks montague what it takes, and so hears how it sends.
	if refusal := send(t, w.capulet.SMTP, "127.0.0.1", nil, "juliet@capulet.example", "romeo@montague.example", letter("juliet@capulet.example", "first")); refusal != "" {
		t.Fatal(refusal)
	}
	w.arrived(t, "first")
	for i, c := range []struct{ from, author, verdict string }{
		{"x@stranger.example", "romeo@montague.example", "forged; montague.example sends over XMPP only"},
		{"romeo@montague.example", "x@stranger.example", "forged; montague.example sends over XMPP only"},
		{"x@stranger.example", "y@stranger.example", "unproven; "},
	} {
		mark := fmt.Sprintf("claim-%d", i)
		if refusal := send(t, w.judged, evil, nil, c.from, "juliet@capulet.example", letter(c.author, mark)); refusal != "" {
			t.Fatal(refusal)
		}
		if got := w.arrived(t, mark); !strings.HasPrefix(got, "X-Mail-Trust: "+c.verdict) {
			t.Errorf("%s by %s arrived as\n%.500s\nwant %q", c.author, c.from, got, c.verdict)
		}
	}
}
