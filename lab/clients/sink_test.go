package clients

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"mailxmppd/lab/harness"
	"mailxmppd/mail"
	"mailxmppd/smtpbridge"
)

// TestToSMTPSink hands mail to Postfix's smtp-sink, told to be well or to fail
// at each command in each of its ways. Other peers: Postfix with TLS and its
// policies in lab/postfix, Dovecot with the user's Sieve filter in lab/dovecot,
// go-smtp's server beside our client. REQUIRETLS, DELIVERBY and MT-PRIORITY are
// offered by no server that Debian has: for these our client meets our own
// server, beside it as well.
func TestToSMTPSink(t *testing.T) {
	sink := program(t, "smtp-sink")
	const well = "delivered"
	for _, c := range []struct {
		name string
		args []string
		lmtp bool
		want string
	}{
		{"as it is", nil, false, well},
		{"without PIPELINING", []string{"-p"}, false, well},
		{"HELO alone", []string{"-e"}, false, well},
		{"LMTP", []string{"-L"}, true, well},
		{"slow to answer DATA", []string{"-w", "1"}, false, well},
		{"MAIL refused", []string{"-f", "mail"}, false, "500 5.3.0"},
		{"RCPT refused", []string{"-f", "rcpt"}, false, "500 5.3.0"},
		{"DATA refused", []string{"-f", "data"}, false, "500 5.3.0"},
		{"content refused", []string{"-f", "."}, false, "500 5.3.0"},
		{"EHLO and HELO refused", []string{"-f", "ehlo,helo"}, false, "500 5.3.0"},
		{"MAIL deferred", []string{"-r", "mail"}, false, "450 4.3.0"},
		{"RCPT deferred", []string{"-r", "rcpt"}, false, "450 4.3.0"},
		{"DATA deferred", []string{"-r", "data"}, false, "450 4.3.0"},
		{"content deferred", []string{"-r", "."}, false, "450 4.3.0"},
		{"closes at the greeting", []string{"-q", "connect"}, false, "451 4.4.2"},
		{"closes at EHLO", []string{"-q", "ehlo"}, false, "451 4.4.2"},
		{"closes at MAIL", []string{"-q", "mail"}, false, "451 4.4.2"},
		{"closes at RCPT", []string{"-q", "rcpt"}, false, "451 4.4.2"},
		{"closes at DATA", []string{"-q", "data"}, false, "451 4.4.2"},
		{"closes at the end of the content", []string{"-q", "."}, false, "doubt"},
		{"421 at MAIL", []string{"-Q", "mail"}, false, "451 4.0.0"},
		{"421 at RCPT", []string{"-Q", "rcpt"}, false, "451 4.0.0"},
		{"421 at DATA", []string{"-Q", "data"}, false, "451 4.0.0"},
		{"421 at the end of the content", []string{"-Q", "."}, false, "451 4.0.0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir, err := os.MkdirTemp("/tmp", "ss")
			must(t, err)
			t.Cleanup(func() { os.RemoveAll(dir) })
			must(t, os.Chmod(dir, 0o777))
			addrs, err := harness.FreeAddrs(1)
			must(t, err)
			args := append(slices.Clone(c.args), "-D", filepath.Join(dir, "m."), addrs[0], "16")
			if os.Getuid() == 0 {
				args = append([]string{"-u", "nobody"}, args...)
			}
			daemon, err := harness.StartDaemon(exec.Command(sink, args...), filepath.Join(dir, "log"), addrs[0])
			must(t, err)
			t.Cleanup(daemon.Stop)
			client := smtpbridge.NewClient(smtpbridge.ClientConfig{Hostname: "gw.example"})
			t.Cleanup(client.Close)
			hop := smtpbridge.Hop{Protocol: smtpbridge.ProtocolSMTP, Addrs: addrs, TLS: smtpbridge.TLSNone}
			if c.lmtp {
				hop.Protocol = smtpbridge.ProtocolLMTP
			}
			var content strings.Builder
			for line := range strings.Lines(message(c.name)) {
				if isASCII(line) { // what offers nothing takes nothing else
					content.WriteString(line)
				}
			}
			outcomes := client.Deliver(t.Context(), hop, attempt(t, crlf(content.String()), "a@dest.example", `"b c"@dest.example`))
			for _, o := range outcomes {
				if got := verdict(o); got != c.want {
					t.Errorf("%q, want %q: %v", got, c.want, o.Failure)
				}
			}
			dumps, err := filepath.Glob(filepath.Join(dir, "m.*"))
			must(t, err)
			n := 0
			for _, d := range dumps {
				b, err := os.ReadFile(d)
				must(t, err)
				// It dumps lines with LF, behind fields of its own.
				if strings.HasSuffix(strings.TrimSuffix(string(b), "\n"), content.String()) {
					n++
				}
			}
			// What it refuses after the content is dumped all the same.
			if whole := c.want == well || slices.Contains(c.args, "."); whole != (n == 1) || n > 1 {
				t.Errorf("%d messages, of %d files", n, len(dumps))
			}
		})
	}
}

func isASCII(s string) bool { return strings.IndexFunc(s, func(r rune) bool { return r >= 0x80 }) < 0 }

func attempt(t *testing.T, content string, rcpts ...string) mail.Attempt {
	t.Helper()
	b := mail.NewBuffer(t.TempDir())
	t.Cleanup(func() { b.Close() })
	_, err := b.Write([]byte(content))
	must(t, err)
	a := mail.Attempt{Content: b, Facts: b.Facts(), Domain: "dest.example"}
	a.Envelope.Sender = mail.Address{Local: "juliet", Domain: ours}
	for _, r := range rcpts {
		address, err := mail.ParseAddress(r)
		must(t, err)
		a.Envelope.Recipients = append(a.Envelope.Recipients, mail.Recipient{Address: address})
	}
	return a
}

// verdict writes an outcome briefly.
func verdict(o mail.Outcome) string {
	switch {
	case o.Failure == nil:
		return "delivered"
	case o.Failure.Class == mail.InDoubt:
		return "doubt"
	}
	return fmt.Sprint(o.Failure.Code, " ", o.Failure.Status())
}
