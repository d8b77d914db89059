// Package forwarding sends mail of a domain with a strict DMARC policy through
// a forwarder to a third party, which either trusts the forwarder's seal or does
// not: gateways, by SMTP and over XMPP, and another program that judges by itself.
// And it holds our rewritten addresses against those of another program.
package forwarding

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	other "github.com/emersion/go-msgauth/dkim"
	"go.uber.org/goleak"

	"mailxmppd/dns"
	"mailxmppd/gateway"
	"mailxmppd/lab/harness"
	"mailxmppd/mail"
)

func TestMain(m *testing.M) {
	if _, err := exec.LookPath("srs"); err != nil {
		if os.Getenv("MAILXMPPD_LAB") == "optional" {
			fmt.Println("skipped: srs is not installed")
			return
		}
		fmt.Fprintln(os.Stderr, "srs is not installed; scripts/deps installs it")
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// author signs as the domain of the strict policy does.
type author struct{ key crypto.Signer }

func (a author) kind() string {
	if _, ok := a.key.(ed25519.PrivateKey); ok {
		return "ed25519"
	}
	return "rsa"
}

// public is the key as a record has it (RFC 6376 section 3.6.1, RFC 8463 section 4).
func (a author) public(t *testing.T) string {
	t.Helper()
	if k, ok := a.key.Public().(ed25519.PublicKey); ok {
		return base64.StdEncoding.EncodeToString(k)
	}
	der, err := x509.MarshalPKIXPublicKey(a.key.Public())
	must(t, err)
	return base64.StdEncoding.EncodeToString(der)
}

// letter is a message of author.example, signed or not.
func (a author) letter(t *testing.T, subject string, signed bool) string {
	t.Helper()
	text := "From: Ann <ann@author.example>\r\nTo: sales@forwarder.example\r\nSubject: " + subject + "\r\n" +
		"Date: Mon, 23 Nov 2026 06:00:00 +0000\r\nMessage-ID: <" + subject + "@author.example>\r\n\r\nTwo  spaces, \r\nand an end.\r\n\r\n"
	if !signed {
		return text
	}
	var out strings.Builder
	must(t, other.Sign(&out, strings.NewReader(text), &other.SignOptions{Domain: "author.example", Selector: "a", Signer: a.key,
		HeaderCanonicalization: "simple", BodyCanonicalization: "simple"}))
	return out.String()
}

// lab is a forwarder and those whom it forwards to.
type lab struct {
	exe, dir  string
	ca        *harness.CA
	names     *harness.Names
	forwarder *harness.Gateway
	open      string        // the forwarder's port for the world
	bounced   *harness.Sink // the author's own host
}

func newLab(t *testing.T, a author) *lab {
	t.Helper()
	dir, err := harness.ShortDir()
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	exe, err := harness.Build(dir)
	must(t, err)
	ca, err := harness.NewCA(dir)
	must(t, err)
	names, err := harness.NewNames(
		`author.example. 60 IN TXT "v=spf1 ip4:127.0.0.1 -all"`,
		`_dmarc.author.example. 60 IN TXT "v=DMARC1; p=reject; adkim=s; aspf=s"`,
		`a._domainkey.author.example. 60 IN TXT "v=DKIM1; k=`+a.kind()+`; p=`+a.public(t)+`"`,
		`forwarder.example. 60 IN TXT "v=spf1 ip4:127.0.0.1 -all"`,
	)
	must(t, err)
	t.Cleanup(func() { names.Close() })
	return &lab{exe: exe, dir: dir, ca: ca, names: names, bounced: box(t)}
}

// box is a mailbox server.
func box(t *testing.T) *harness.Sink {
	t.Helper()
	s, err := harness.NewSink("127.0.0.1:0", func(content []byte) string { return string(content) })
	must(t, err)
	t.Cleanup(s.Close)
	return s
}

// site is where a gateway is.
type site struct {
	domain           string
	smtp, xmpp, open string // for neighbours, for peers, for the world
}

func newSite(t *testing.T, domain string) site {
	t.Helper()
	addrs, err := harness.FreeAddrs(3)
	must(t, err)
	return site{domain, addrs[0], addrs[1], addrs[2]}
}

// start runs a gateway that knows some others as peers.
func (l *lab) start(t *testing.T, s site, sink *harness.Sink, extra string, peers ...site) *harness.Gateway {
	t.Helper()
	known := map[string]string{}
	for _, p := range peers {
		known[p.domain] = p.xmpp
	}
	g, err := harness.NewGateway(harness.Spec{
		Exe: l.exe, Dir: filepath.Join(l.dir, s.domain), CA: l.ca, Domain: s.domain, SMTP: s.smtp, XMPP: s.xmpp, DNS: l.names.Addr, Peers: known,
		Store: "sqlite://" + filepath.Join(l.dir, s.domain+".db"), Deliver: "lmtp://" + sink.Addr,
		Extra: fmt.Sprintf("[[listener]]\nkind = \"relay\"\naddress = %q\ntls = \"none\"\n[queue]\nretry_first = \"1s\"\nretry_max = \"2s\"\n%s", s.open, extra),
	})
	must(t, err)
	t.Cleanup(func() {
		g.Kill()
		if log := g.Log(); t.Failed() {
			t.Logf("the end of the log of %s:\n%s", s.domain, log[max(0, len(log)-4000):])
		}
	})
	must(t, g.Start(t.Context()))
	return g
}

// forward starts the forwarder, whose alias leads to carol at each of domains.
func (l *lab) forward(t *testing.T, s site, domains []string, extra string, peers ...site) {
	t.Helper()
	var to []string
	for _, d := range domains {
		to = append(to, fmt.Sprintf("%q", "carol@"+d))
	}
	l.open = s.open
	l.forwarder = l.start(t, s, box(t), "[domain.trust]\nforged = \"tag\"\n[dkim]\nsign = \"always\"\n"+
		"[[alias]]\naddress = \"sales@forwarder.example\"\nto = ["+strings.Join(to, ", ")+"]\n"+extra+route("author.example", l.bounced.Addr), peers...)
	for _, record := range l.keys(t) {
		must(t, l.names.Add(record))
	}
}

func route(domain, to string) string {
	return fmt.Sprintf("[[route]]\ndomain = %q\nnext = \"smtp://%s\"\ntls = \"none\"\n", domain, to)
}

// keys are the records that keys dns prints, as they are.
func (l *lab) keys(t *testing.T) []string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), l.exe, "keys", "dns", "--config", l.forwarder.Config).Output()
	must(t, err)
	return strings.Split(strings.TrimSpace(strings.ReplaceAll(string(out), "\n\t", " ")), "\n")
}

// send hands a message to the forwarder as the world does.
func (l *lab) send(t *testing.T, message string) {
	t.Helper()
	c, err := harness.Dial(l.open)
	must(t, err)
	defer c.Close()
	_, err = c.Send("ann@author.example", []string{"sales@forwarder.example"}, harness.Stuff([]byte(message)))
	must(t, err)
}

// arrived waits for a message with a subject.
func arrived(t *testing.T, s *harness.Sink, subject string) string {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		for _, m := range s.Got() {
			if strings.Contains(m, "Subject: "+subject+"\r\n") {
				return m
			}
		}
	}
	t.Fatalf("%s has not arrived", subject)
	return ""
}

// verifies shows a message to an independent verifier, which asks the name
// server for the keys: both of its signatures have to be right.
func (l *lab) verifies(t *testing.T, message string) {
	t.Helper()
	resolver, err := dns.New([]string{l.names.Addr}, 5*time.Second)
	must(t, err)
	sigs, err := other.VerifyWithOptions(strings.NewReader(message), &other.VerifyOptions{LookupTXT: func(name string) ([]string, error) {
		return resolver.TXT(t.Context(), name).Records, nil
	}})
	must(t, err)
	if len(sigs) != 2 || sigs[0].Err != nil || sigs[1].Err != nil || sigs[0].Domain != "forwarder.example" {
		t.Errorf("signatures %+v of\n%s", sigs, message)
	}
}

func unfolded(header string) string { return strings.ReplaceAll(header, "\r\n\t", " ") }

// TestStrictPolicy: mail of a domain that asks to reject what it has not signed
// goes through a forwarder, by SMTP and over XMPP. Its own signature gets it
// everywhere. Without one it has lost its only proof, the client's address, and
// is refused by whoever does not trust the forwarder's word; who does takes it by
// the evidence that the forwarder has sealed, and only by that.
func TestStrictPolicy(t *testing.T) {
	for _, over := range []string{"SMTP", "XMPP"} {
		t.Run(over, func(t *testing.T) { strictPolicy(t, over == "XMPP") })
	}
}

func strictPolicy(t *testing.T, peers bool) {
	_, key, err := ed25519.GenerateKey(nil)
	must(t, err)
	a := author{key}
	l := newLab(t, a)
	wary, trusting := box(t), box(t)
	atWary, atTrusting, atForwarder := newSite(t, "wary.example"), newSite(t, "trusting.example"), newSite(t, "forwarder.example")
	var known, others []site
	routes := route("wary.example", atWary.open) + route("trusting.example", atTrusting.open)
	arrivedBy := "spf=pass reason=\"the domain lists the client\" smtp.mailfrom=forwarder.example"
	if peers {
		known, others, routes = []site{atForwarder}, []site{atWary, atTrusting}, ""
		arrivedBy = "x-xmpp=pass (pkix) policy.domain=forwarder.example"
	}
	l.start(t, atWary, wary, "[domain.trust]\nforged = \"reject\"\n", known...)
	l.start(t, atTrusting, trusting, "[domain.trust]\nforged = \"reject\"\n[trust]\nsealers = [\"forwarder.example\"]\n", known...)
	l.forward(t, atForwarder, []string{"wary.example", "trusting.example"}, routes, others...)

	// What the forwarder has found goes along, sealed.
	const carried = "ARC-Authentication-Results: i=1; forwarder.example; "
	const found = "spf=pass reason=\"the domain lists the client\" smtp.mailfrom=author.example"
	signed := a.letter(t, "signed", true)
	l.send(t, signed)
	for name, s := range map[string]*harness.Sink{"wary": wary, "trusting": trusting} {
		got := arrived(t, s, "signed")
		head, content, _ := strings.Cut(got, "DKIM-Signature: ")
		head = unfolded(head)
		if "DKIM-Signature: "+content != signed {
			t.Errorf("%s: the content is another:\n%s", name, got)
		}
		results, _, _ := strings.Cut(head[strings.Index(head, "Authentication-Results: "+name+".example;"):], "\r\n")
		_, sealed, _ := strings.Cut(head, carried)
		sealed, _, _ = strings.Cut(sealed, "\r\n")
		if !strings.HasPrefix(got, "X-Mail-Trust: authenticated;") || !strings.Contains(head, "ARC-Seal: i=1;") ||
			!strings.Contains(results, arrivedBy) || !strings.Contains(results, "arc=pass") || !strings.Contains(sealed, found) || !strings.Contains(sealed, "dkim=pass") {
			t.Errorf("%s: the evidence is\n%s", name, head)
		}
	}

	l.send(t, a.letter(t, "unsigned", false))
	got := arrived(t, trusting, "unsigned")
	if !strings.HasPrefix(unfolded(got), "X-Mail-Trust: authenticated; as forwarder.example, which is trusted, has found") || !strings.Contains(got, "arc=pass") || !strings.Contains(unfolded(got), carried) {
		t.Errorf("trusting: %s", got)
	}
	// The wary one says no, of which the author hears.
	if dsn := arrived(t, l.bounced, "Undelivered mail returned to sender"); !strings.Contains(dsn, "Final-Recipient: rfc822; carol@wary.example\r\n") ||
		!strings.Contains(dsn, "Original-Recipient: rfc822;sales@forwarder.example\r\n") || !strings.Contains(dsn, "refused as forged") || !strings.Contains(dsn, "DKIM-Signature: v=1;") {
		t.Errorf("the author hears\n%s", dsn)
	}
	l.verifies(t, arrived(t, l.bounced, "Undelivered mail returned to sender"))
	for _, m := range wary.Got() {
		if strings.Contains(m, "Subject: unsigned\r\n") {
			t.Errorf("wary took\n%s", m)
		}
	}

	// What was forged when it came to the forwarder does not go on at all.
	c, err := harness.Dial(l.open)
	must(t, err)
	defer c.Close()
	forged := strings.ReplaceAll(a.letter(t, "forged", false), "Message-ID", "X-ID")
	if _, err := c.Send("mallory@elsewhere.example", []string{"sales@forwarder.example"}, harness.Stuff([]byte(forged))); err == nil || !strings.Contains(err.Error(), "550 5.7.1") {
		t.Errorf("forged: %v", err)
	}
}

// TestSRSProgram: Debian's srs and we rewrite each other's addresses, and each
// finds the way back to the other's, which only the other can go on.
func TestSRSProgram(t *testing.T) {
	ours, err := gateway.NewSRS([][]byte{[]byte("0123456789abcdef")}, "ours.example")
	must(t, err)
	for _, from := range []string{"romeo@verona.example", "romeo+a=b@verona.example"} {
		a, err := mail.ParseAddress(from)
		must(t, err)
		first, err := ours.Forward(a)
		must(t, err)
		theirs := srs(t, "--alias=theirs.example", "--forward", first.String())
		if !strings.HasPrefix(theirs, "SRS1=") || !strings.HasSuffix(theirs, "@theirs.example") {
			t.Errorf("%s became %s", first, theirs)
		}
		if back := srs(t, "--reverse", theirs); back != first.String() {
			t.Errorf("%s came back as %s, want %s", theirs, back, first)
		}
		if back, err := ours.Reverse(first); err != nil || back != a {
			t.Errorf("%s came back as %s, %v", first, back, err)
		}
	}

	theirs, err := mail.ParseAddress(srs(t, "--alias=theirs.example", "--forward", "romeo@verona.example"))
	must(t, err)
	second, err := ours.Forward(theirs)
	must(t, err)
	if !strings.HasPrefix(second.Local, "SRS1=") {
		t.Errorf("%s became %s", theirs, second)
	}
	// A third forwarder cuts our part out, and leads to theirs.
	if third := srs(t, "--alias=third.example", "--forward", second.String()); !strings.Contains(third, "=theirs.example==") || strings.Contains(third, "ours.example") {
		t.Errorf("%s became %s", second, third)
	}
	back, err := ours.Reverse(second)
	if err != nil || back != theirs {
		t.Errorf("%s came back as %s, %v, want %s", second, back, err, theirs)
	}
	if home := srs(t, "--reverse", back.String()); home != "romeo@verona.example" {
		t.Errorf("%s came back as %s", back, home)
	}
}

// srs asks the program, whose secret nobody else has.
func srs(t *testing.T, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "srs", append([]string{"--secret=tybalt"}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("srs: %v: %s", err, out)
	}
	return strings.TrimSpace(string(out))
}
