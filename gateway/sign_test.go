package gateway

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"strings"
	"testing"

	"mailxmppd/mail"
)

// stamp signs what is from home.example, as package trust/signing does.
type stamp struct{ err error }

func (s stamp) Sign(_ context.Context, content mail.Content) (string, error) {
	rc, err := content.Open()
	if err != nil {
		return "", err
	}
	defer rc.Close()
	b, err := io.ReadAll(rc)
	if err != nil || !strings.Contains(string(b), "@home.example") {
		return "", err
	}
	return "DKIM-Signature: v=1\r\n", s.err
}

// TestSigned: mail of ours is signed where the listener says so and the client
// may relay, in the trace; who may not relay gets nothing signed by writing our
// name into From.
func TestSigned(t *testing.T) {
	neighbour := mail.Client{Addr: netip.MustParseAddrPort("127.0.0.1:1")}
	stranger := mail.Client{Addr: netip.MustParseAddrPort("192.0.2.1:1")}
	tells := func(source string) mail.Client {
		c := neighbour
		c.Forwarded = &mail.Forwarded{Addr: stranger.Addr, Source: source}
		return c
	}
	const ours, foreign = "From: a@home.example\r\nReceived: x\r\n\r\nx\r\n", "From: a@far.example\r\nReceived: x\r\n\r\nx\r\n"
	for name, c := range map[string]struct {
		client  mail.Client
		sender  string
		sign    bool
		content string
		want    bool
	}{
		"ours":                       {neighbour, "a@home.example", true, ours, true},
		"foreign":                    {neighbour, "a@home.example", true, foreign, false},
		"another listener":           {neighbour, "a@home.example", false, ours, false},
		"a stranger's word":          {stranger, "a@home.example", true, ours, false},
		"forwarded by the neighbour": {neighbour, "a@far.example", true, ours, false},
		"a bounce that is forwarded": {neighbour, "", true, ours, false},
		"the neighbour's own users":  {tells("LOCAL"), "a@home.example", true, ours, true},
		"the neighbour's client":     {tells("REMOTE"), "a@home.example", true, ours, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, func(c *Config) { c.Signer = stamp{} })
			w.entrance.Sign, w.entrance.Trusted = c.sign, []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
			if v := w.entrance.Accept(t.Context(), c.client, w.message(c.content, c.sender, "juliet@home.example"), false); v[0].Failure != nil {
				t.Fatal(v[0].Failure)
			}
			until(t, "delivered", func() bool { return len(w.local.deliveries()) == 1 })
			got := w.local.deliveries()[0]
			if strings.Contains(got.content, "DKIM-Signature:") != c.want || strings.Contains(string(got.attempt.Trace), "DKIM-Signature:") != c.want ||
				!strings.HasSuffix(got.content, c.content) {
				t.Errorf("got %q", got.content)
			}
		})
	}
}

// TestSignedNotices: what we write ourselves is signed.
func TestSignedNotices(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Signer = stamp{} })
	w.legacy.set(func(n *next) {
		n.answer = func(a mail.Attempt) []mail.Outcome {
			if a.Envelope.Sender.IsNull() {
				return []mail.Outcome{{}}
			}
			return []mail.Outcome{refuse(mail.NoSuchMailbox)}
		}
	})
	w.send(w.message(sample, "a@far.example", "b@other.example"), false)
	until(t, "the dsn", func() bool { return len(w.legacy.deliveries()) == 1 })
	if got := w.legacy.deliveries()[0].content; !strings.HasPrefix(got, "DKIM-Signature:") {
		t.Errorf("got %.200q", got)
	}
}

// TestNotSigned: mail that cannot be signed now comes again; a notice goes
// without.
func TestNotSigned(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Signer = stamp{errors.New("no entropy")} })
	w.entrance.Sign = true
	client := mail.Client{Addr: netip.MustParseAddrPort("127.0.0.1:1")}
	v := w.entrance.Accept(t.Context(), client, w.message("From: a@home.example\r\n\r\n", "a@home.example", "juliet@home.example"), false)
	if v[0].Failure == nil || v[0].Failure.Class != mail.Temporary {
		t.Errorf("got %+v", v)
	}
	if got := w.signedNotice(mail.Bytes("From: a@home.example\r\n\r\n")); strings.Contains(string(got), "X") {
		t.Errorf("got %q", got)
	}
}
