package interop

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"mailxmppd/dns"
	"mailxmppd/mail"
	"mailxmppd/store"
	"mailxmppd/store/sqlite"
	"mailxmppd/xmpp/peers"
	"mailxmppd/xmpp/transfer"
)

// office is the XMPP side of a gateway with its store, for one domain.
type office struct {
	domain    string
	service   string // the name of its service, where that is another
	store     *sqlite.Store
	server    *transfer.Server
	directory *peers.Directory
	sender    *transfer.Sender
}

func (s *site) office(t *testing.T, domain string) *office {
	t.Helper()
	st, err := sqlite.Open(t.Context(), sqlite.Config{Path: filepath.Join(t.TempDir(), "spool.db")})
	must(t, err)
	t.Cleanup(func() { st.Close() })
	o := &office{domain: domain, store: st}
	o.server = transfer.NewServer(transfer.ServerConfig{Receiver: receiver{st}, Transfers: st, Log: testLog(t)})
	return o
}

// over connects the office to its streams.
func (o *office) over(t *testing.T, s *site, streams peers.Streams) {
	t.Helper()
	resolver, err := dns.New([]string{s.names.Addr}, patience)
	must(t, err)
	services := map[string]string{}
	if o.service != "" {
		services[o.domain] = o.service
	}
	o.directory = peers.NewDirectory(peers.Config{
		DNS: resolver, Streams: streams, Store: o.store, Services: services, Timeout: patience, LinkTimeout: patience, Log: testLog(t),
	})
	t.Cleanup(o.directory.Close)
	o.sender = transfer.NewSender(transfer.SenderConfig{Links: o.directory, RequestTimeout: patience, Log: testLog(t)})
}

// disco is what the office announces.
func (o *office) disco(string, string) []byte {
	c := o.server.Capabilities()
	if o.service != "" {
		c.Serves = []string{o.domain}
	}
	b, err := c.DiscoInfo()
	if err != nil {
		return nil
	}
	return b
}

// Speaks makes an office a transfer.Services: its directory is made after its
// server.
func (o *office) Speaks(ctx context.Context, local, service, domain string) *mail.Failure {
	return o.directory.Speaks(ctx, local, service, domain)
}

// receiver accepts everything into a store.
type receiver struct{ store *sqlite.Store }

func (r receiver) Check(_ context.Context, _ mail.Binding, env mail.Envelope) []*mail.Failure {
	return make([]*mail.Failure, len(env.Recipients))
}

func (r receiver) Accept(ctx context.Context, k store.TransferKey, h store.ContentHash, _ mail.Binding, m *mail.Message) ([]mail.ID, []*mail.Failure) {
	m.ID = mail.NewID()
	n := len(m.Envelope.Recipients)
	ids, _, err := r.store.Accept(ctx, k, h, store.NewMessage{Message: *m, Transfer: k.ID, Lifetime: time.Hour})
	if err != nil {
		failures := make([]*mail.Failure, n)
		for i := range failures {
			failures[i] = mail.AsFailure(err)
		}
		return make([]mail.ID, n), failures
	}
	return ids, make([]*mail.Failure, n)
}

// attempt is a message of ours to another office.
func (o *office) attempt(to *office, content []byte) mail.Attempt {
	scan := mail.NewScanner()
	scan.Write(content)
	a := mail.Attempt{
		ID: mail.NewID(), Number: 1, Content: mail.Bytes(content), Facts: scan.Facts(), Domain: to.domain, Local: o.domain,
		Trace: []byte("Received: by mx." + o.domain + "; Tue, 24 Nov 2026 10:00:00 +0000\r\n"),
	}
	a.Envelope = mail.Envelope{
		Sender:     mail.Address{Local: "juliet", Domain: o.domain},
		Recipients: []mail.Recipient{{Address: mail.Address{Local: "romeo", Domain: to.domain}}},
		Body:       mail.Body8BitMIME,
	}
	a.Transfer = mail.TransferID(a.Envelope.Sender, a.Facts)
	return a
}

// letter is a message to exchange.
type letter struct {
	content []byte
	real    bool // of the corpus: there are many, and one way is enough
}

// exchange sends letters both ways, some at a time, and finds each in the
// other's store once, octet for octet, with the proof and the sender.
func exchange(t *testing.T, a, b *office, letters []letter, proof string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(16)
	var mu sync.Mutex
	taken := map[string]bool{}
	sent := map[*office]int{}
	for i, l := range letters {
		ways := [][2]*office{{a, b}, {b, a}}
		if l.real {
			ways = ways[i%2:][:1]
		}
		for _, way := range ways {
			sent[way[1]]++
			group.Go(func() error {
				id, err := way[0].deliver(ctx, way[1], l.content, proof)
				if err != nil {
					return fmt.Errorf("letter %d from %s: %w", i, way[0].domain, err)
				}
				mu.Lock()
				defer mu.Unlock()
				taken[id] = true
				return nil
			})
		}
	}
	must(t, group.Wait())
	if n := sent[a] + sent[b]; len(taken) != n {
		t.Errorf("%d letters under %d ids", n, len(taken))
	}
	for _, o := range []*office{a, b} {
		entries, err := o.store.List(t.Context(), store.Filter{Limit: 10 * len(letters)})
		must(t, err)
		if len(entries) != sent[o] {
			t.Errorf("%s holds %d messages of %d", o.domain, len(entries), sent[o])
		}
	}
}

// deliver sends one letter and looks at what arrived.
func (o *office) deliver(ctx context.Context, to *office, content []byte, proof string) (id string, err error) {
	out := o.sender.Deliver(ctx, o.attempt(to, content))
	if len(out) != 1 || !out[0].Delivered() {
		return "", fmt.Errorf("outcome %+v", out)
	}
	id = out[0].RemoteID
	rc, err := to.store.OpenContent(ctx, mail.ID(id))
	if err != nil {
		return "", err
	}
	defer rc.Close()
	got, err := io.ReadAll(rc)
	if err != nil {
		return "", err
	}
	r, err := to.store.Show(ctx, mail.ID(id))
	switch {
	case err != nil:
		return "", err
	case !bytes.Equal(got, content):
		return "", fmt.Errorf("%d octets arrived as %d others", len(content), len(got))
	case r.Origin.Proof != proof || r.Origin.Peer != o.domain || out[0].Proof != proof:
		return "", fmt.Errorf("origin %+v, outcome %+v", r.Origin, out[0])
	}
	return id, nil
}

// realMail is how many messages of the corpus a form of deployment carries.
const realMail = 200

// letters are the demo's samples, a message far above what a server takes in
// one stanza, and real messages, the same each time; all with CRLF line ends.
func letters(t *testing.T) []letter {
	t.Helper()
	samples, err := filepath.Glob("../../demo/samples/*.eml")
	must(t, err)
	real, err := filepath.Glob("../../.cache/spam-assassin/data/*/*.txt")
	must(t, err)
	if len(samples) == 0 {
		t.Fatal("no samples")
	}
	if len(real) < realMail {
		if os.Getenv("MAILXMPPD_LAB") == "optional" {
			t.Skip("the corpus is not there")
		}
		t.Fatalf("%d messages in the corpus; scripts/corpus fetches them", len(real))
	}
	out := []letter{{large(5 << 20), false}}
	for _, file := range samples {
		out = append(out, letter{readLetter(t, file), false})
	}
	slices.Sort(real)
	for i := range realMail {
		out = append(out, letter{readLetter(t, real[i*(len(real)/realMail)]), true})
	}
	return out
}

func readLetter(t *testing.T, file string) []byte {
	t.Helper()
	raw, err := os.ReadFile(file)
	must(t, err)
	for _, end := range []string{"\r\n", "\r"} {
		raw = bytes.ReplaceAll(raw, []byte(end), []byte("\n"))
	}
	return bytes.ReplaceAll(raw, []byte("\n"), []byte("\r\n"))
}

// large makes a message of n octets, no two lines the same.
func large(n int) []byte {
	b := []byte("Message-ID: <large@lab.example>\r\nSubject: large\r\n\r\n")
	for i := 0; len(b) < n; i++ {
		b = fmt.Appendf(b, "%d \xff\xfe <&>'\" ]]> %x\r\n", i, i*i*i)
	}
	return b
}
