package smtpbridge

import (
	"context"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"mailxmppd/mail"
)

// keeper is a Handler that takes everything and remembers it.
type keeper struct {
	mu       sync.Mutex
	messages []kept
}

type kept struct {
	envelope mail.Envelope
	content  string
	tls      string
}

func (k *keeper) Sender(context.Context, mail.Client, mail.Envelope) *mail.Failure { return nil }

func (k *keeper) Recipient(context.Context, mail.Client, mail.Envelope, mail.Recipient) *mail.Failure {
	return nil
}

func (k *keeper) Accept(_ context.Context, c mail.Client, m *mail.Message, _ bool) []mail.Verdict {
	in, err := m.Content.Open()
	if err != nil {
		return []mail.Verdict{{Failure: mail.AsFailure(err)}}
	}
	defer in.Close()
	content, err := io.ReadAll(in)
	if err != nil {
		return []mail.Verdict{{Failure: mail.AsFailure(err)}}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.messages = append(k.messages, kept{m.Envelope, string(content), c.TLS})
	return []mail.Verdict{{}}
}

// TestEnvelopeSurvives: what our client says and our own server understands is
// the same, for the extensions that no packaged peer offers: REQUIRETLS,
// DELIVERBY, MT-PRIORITY and BINARYMIME, over STARTTLS with a verified name.
func TestEnvelopeSurvives(t *testing.T) {
	ca := newTestCA(t)
	keep := &keeper{}
	srv, err := NewServer(ServerConfig{
		Kind: KindRelay, Hostname: "mx.example", TLS: ca.issue(t, "mx.example"), Limits: DefaultLimits(), Handler: keep,
		Extensions: ServerExtensions{RequireTLS: true, Priority: true, DeliverBy: true, BinaryMIME: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		srv.Serve(ln)
	}()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		srv.Shutdown(ctx)
		<-served
	})
	client := newTestClient(t, func(cfg *ClientConfig) { cfg.Roots = ca.pool })
	hop := Hop{Protocol: ProtocolSMTP, Addrs: []string{ln.Addr().String()}, TLS: TLSOpportunistic, ServerName: "mx.example"}

	for name, content := range map[string]string{
		"binary": "Subject: b\r\n\r\n\x00\n\r\xff\r\n.\r\nno end", "large": "Subject: l\r\n\r\n" + strings.Repeat("a line of ordinary length, as most are\r\n", 100_000),
	} {
		a := attemptOf(t, content, "a@dest.example", `"odd name"@dest.example`)
		a.Envelope.RequireTLS, a.Envelope.Priority = true, new(-9)
		a.Envelope.DeliverBy = by(3600_000, 'R', true)
		a.Envelope.Return, a.Envelope.EnvelopeID = "HDRS", "id +="
		a.Envelope.Recipients[0].Notify = mail.NotifySuccess
		a.Envelope.Recipients[1].Original = "rfc822;odd name@dest.example"
		a.Envelope.Body = mail.Body8BitMIME
		a.Facts.EightBit = true
		if name == "binary" {
			a.Envelope.Body = mail.BodyBinaryMIME
		}
		got := client.Deliver(t.Context(), hop, a)
		if v := verdictsOf(got); !slices.Equal(v, []string{"delivered", "delivered"}) || got[0].Proof != "pkix" || got[0].Relayed || got[0].Undated {
			t.Fatalf("%s: %q, %+v", name, v, got)
		}
		keep.mu.Lock()
		m := keep.messages[len(keep.messages)-1]
		keep.mu.Unlock()
		env := m.envelope
		if m.content != content || m.tls == "" {
			t.Errorf("%s: %d octets over %q", name, len(m.content), m.tls)
		}
		if !env.RequireTLS || env.Priority == nil || *env.Priority != -9 || env.Return != "HDRS" || env.EnvelopeID != "id +=" || env.Body != a.Envelope.Body {
			t.Errorf("%s: %+v", name, env)
		}
		if d := env.DeliverBy; d == nil || d.Mode != 'R' || !d.Trace || d.Deadline.After(a.Envelope.DeliverBy.Deadline.Add(time.Minute)) || d.Deadline.Before(a.Envelope.DeliverBy.Deadline.Add(-time.Minute)) {
			t.Errorf("%s: %+v", name, d)
		}
		if !slices.Equal(env.Recipients, a.Envelope.Recipients) {
			t.Errorf("%s: %+v", name, env.Recipients)
		}
	}
}
