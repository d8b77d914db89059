package beside

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"mailxmppd/lab/harness"
	"mailxmppd/lab/postfix"
	"mailxmppd/mail"
	"mailxmppd/smtpbridge"
)

// witness is a judge that keeps what it was shown, and marks it.
type witness struct {
	mu       sync.Mutex
	arrivals []smtpbridge.Arrival
	contents []string
}

func (w *witness) Recipient(_ context.Context, _ mail.Client, _ mail.Envelope, r mail.Recipient) *mail.Failure {
	if r.Address.Local == "nobody" {
		return mail.Fail(mail.NoSuchMailbox, "no such mailbox, 100% sure", nil)
	}
	return nil
}

func (w *witness) Content(_ context.Context, a smtpbridge.Arrival) (smtpbridge.Finding, *mail.Failure) {
	in, err := a.Content.Open()
	if err != nil {
		return smtpbridge.Finding{}, mail.AsFailure(err)
	}
	b, err := io.ReadAll(in)
	if err != nil {
		return smtpbridge.Finding{}, mail.AsFailure(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.arrivals, w.contents = append(w.arrivals, a), append(w.contents, string(b))
	found := smtpbridge.Finding{Fields: []smtpbridge.HeaderField{{Name: "Authentication-Results", Value: "ours.example;\r\n\tspf=pass"}, {Name: "X-Second", Value: "b"}}}
	for i, r := range a.Envelope.Recipients {
		if strings.EqualFold(r.Address.Local, "strict") {
			found.Refused = append(found.Refused, i)
		}
	}
	return found, nil
}

func (w *witness) Poses(name, _ string) bool { return strings.EqualFold(name, "X-Poses") }

func (w *witness) Clean(content mail.Content) (mail.Content, error) { return content, nil }

// TestMilterOctets: what Postfix tells a milter is what its client sent, octet
// for octet, or no signature over it could be verified; and what the milter
// inserts stands before all that the client sent, in its order.
func TestMilterOctets(t *testing.T) {
	const ip = "127.0.41.11"
	w := &witness{}
	m, err := smtpbridge.NewMilter(smtpbridge.MilterConfig{
		Judge: w, Limits: smtpbridge.DefaultLimits(), Connections: 10, TempDir: t.TempDir(),
		Trusted: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
	})
	must(t, err)
	ln, err := net.Listen("tcp", ip+":10028")
	must(t, err)
	served := make(chan error, 1)
	go func() { served <- m.Serve(ln) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		m.Shutdown(ctx) // Postfix may hold a connection
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	sink, err := harness.NewSink(ip+":10024", func(content []byte) string { return string(content) })
	must(t, err)
	t.Cleanup(sink.Close)
	s := &site{ip: ip}
	p := s.runPostfix(t, postfix.Spec{
		Listen: ip + ":25", Domains: []string{ours}, Sink: sink.Addr,
		Extra: s.here(block(t, "main.cf", withMilter)) + "smtp_line_length_limit = 0\n",
	})

	c, err := harness.Dial(ip + ":25")
	must(t, err)
	defer c.Close()
	letters := []string{
		"From: a@x.example\r\nSubject: one\r\n\r\nbody\r\n",
		"From:no space\r\nSubject:   three spaces\r\nX-Empty:\r\nX-Blank: \r\nX-Folded: a\r\n\t b\r\n  c\r\nX-8bit: caf\xc3\xa9 \xff\r\n\r\n.\r\n..\r\ntrailing \r\n" + strings.Repeat("long", 1000) + "\r\n\r\n\r\n",
		"Subject: no end of line at the end, and no body\r\n\r\n",
		"X-Long: " + strings.Repeat("w", 2000) + "\r\n\r\n" + strings.Repeat(strings.Repeat("line", 19)+"\r\n", 5000),
	}
	for i, letter := range letters {
		if reply, err := c.Send("a@x.example", []string{"nobody@" + ours}, nil); !strings.HasPrefix(reply, "550 5.1.1 no such mailbox, 100 sure") {
			t.Fatalf("%q, %v\n%s", reply, err, p.Log())
		}
		c.Close()
		c, err = harness.Dial(ip + ":25")
		must(t, err)
		// Who must not get it is taken out, however Postfix's client wrote him.
		reply, err := c.Send("a@x.example", []string{"Strict@" + strings.ToUpper(ours), fmt.Sprintf("b%d@%s", i, ours)}, harness.Stuff([]byte(letter)))
		if err != nil {
			t.Fatalf("%q, %v\n%s", reply, err, p.Log())
		}
		w.mu.Lock()
		got, a := w.contents[i], w.arrivals[i]
		w.mu.Unlock()
		if got != letter {
			t.Errorf("letter %d:\nshown %.300q\nsent  %.300q", i, got, letter)
		}
		if a.Client.Addr.Addr() != netip.MustParseAddr("127.0.0.1") || a.Client.Helo != "load.example" || a.ID == "" {
			t.Errorf("letter %d: client %+v, id %q", i, a.Client, a.ID)
		}
	}
	if counts := m.Counts(); counts.Messages != uint64(len(letters)) || counts.BrokenOff != 0 {
		t.Errorf("counts %+v", counts)
	}
	for deadline := time.Now().Add(20 * time.Second); sink.Count() < len(letters); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("letters have not arrived")
		}
	}
	if log := strings.ToLower(p.Log()); strings.Contains(log, "to=<strict@") || !strings.Contains(log, "to=<b0@") {
		t.Errorf("who must not get it was delivered to\n%s", log)
	}
	for _, got := range sink.Got() {
		before, _, ok := strings.Cut(got, "Authentication-Results: ours.example;\r\n\tspf=pass\r\nX-Second: b\r\n")
		if !ok || strings.Contains(before, "X-") || strings.Contains(before, "Subject:") {
			t.Errorf("arrived as %.600q", got)
		}
	}
}
