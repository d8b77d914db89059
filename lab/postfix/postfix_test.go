package postfix

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"mailxmppd/mail"
	"mailxmppd/smtpbridge"
)

var byMX = smtpbridge.Hop{Protocol: smtpbridge.ProtocolSMTP, TLS: smtpbridge.TLSOpportunistic}

// attempt makes a message for recipients, with something in it to tell it by.
func attempt(t *testing.T, mark, body string, rcpts ...string) mail.Attempt {
	t.Helper()
	b := mail.NewBuffer(t.TempDir())
	fmt.Fprintf(b, "From: romeo@montague.example\r\nSubject: %s\r\n\r\n%s", mark, body)
	t.Cleanup(func() { b.Close() })
	a := mail.Attempt{Content: b, Facts: b.Facts(), Domain: "dest.example"}
	a.Envelope.Sender = mail.Address{Local: "romeo", Domain: "montague.example"}
	for _, r := range rcpts {
		address, err := mail.ParseAddress(r)
		if err != nil {
			t.Fatal(err)
		}
		a.Envelope.Recipients = append(a.Envelope.Recipients, mail.Recipient{Address: address})
	}
	return a
}

// arrived waits for the message that holds mark and returns it.
func (n *network) arrived(t *testing.T, mark string) string {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		for _, m := range n.sink.Got() {
			if strings.Contains(m, "Subject: "+mark+"\r\n") {
				return m
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("%q has not arrived\n%s", mark, n.postfix.Log())
		}
	}
}

// logged waits for words of Postfix's log.
func (n *network) logged(t *testing.T, words string) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !strings.Contains(n.postfix.Log(), words); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%q is not in the log\n%s", words, n.postfix.Log())
		}
	}
}

// verdict writes an outcome briefly.
func verdict(o mail.Outcome) string {
	if o.Failure == nil {
		return strings.TrimSpace("delivered " + o.Proof)
	}
	return fmt.Sprint(o.Failure.Code, " ", o.Failure.Status())
}

func content(t *testing.T, a mail.Attempt) string {
	t.Helper()
	in, err := a.Content.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	b, err := io.ReadAll(in)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestPostfix sends to one real Postfix what a gateway sends.
func TestPostfix(t *testing.T) {
	n := startNetwork(t)
	t.Run("verified TLS, content and verdicts", n.testDelivery)
	t.Run("DANE", n.testDANE)
	t.Run("MTA-STS", n.testMTASTS)
	t.Run("TLS-Required: No", n.testWaiver)
	t.Run("REQUIRETLS is not offered by Postfix", n.testRequireTLS)
}

// testDelivery: octets arrive as they are, large ones by BDAT, and each
// recipient has its own verdict.
func (n *network) testDelivery(t *testing.T) {
	c := n.client(t, nil)
	hop := smtpbridge.Hop{Protocol: smtpbridge.ProtocolSMTP, Addrs: []string{n.postfix.Addr}, TLS: smtpbridge.TLSVerified, ServerName: host}
	line := strings.Repeat("x", 900) + "\r\n"
	for name, body := range map[string]string{
		"plain": "hello\r\n", "dots": ".\r\n..\r\n.a\r\n...\r\nQUIT\r\n", "8-bit": "\xff\xfe caf\xc3\xa9\r\n", "large": strings.Repeat(line, 5000) + ".\r\n\xff\r\n",
	} {
		a := attempt(t, "delivery "+name, body, "a@dest.example", "no@dest.example", "b@elsewhere.example", `"odd name"@dest.example`)
		a.Envelope.Recipients[0].Notify = mail.NotifyFailure
		got := c.Deliver(t.Context(), hop, a)
		want := []string{"delivered pkix", "554 5.7.1", "554 5.7.1", "delivered pkix"}
		for i, o := range got {
			if verdict(o) != want[i] {
				t.Errorf("%s, recipient %d: %s, want %s (%v)", name, i, verdict(o), want[i], o.Failure)
			}
		}
		if o := got[0]; o.RemoteID == "" || !strings.HasPrefix(o.TLS, "TLS1.3 ") || o.Relayed {
			t.Errorf("%s: %+v", name, o)
		}
		if m := n.arrived(t, "delivery "+name); !strings.HasSuffix(m, content(t, a)) {
			t.Errorf("%s: arrived changed, %d octets", name, len(m))
		}
	}
	if log := n.postfix.Log(); strings.Contains(log, "too many errors") || strings.Contains(log, "improper command pipelining") {
		t.Errorf("postfix complains:\n%s", log)
	}
	c.Close()
	n.logged(t, " bdat=") // how many, told at the end of the session
	c = n.client(t, nil)
	hop.ServerName = "other.example"
	o := c.Deliver(t.Context(), hop, attempt(t, "wrong name", "x\r\n", "a@dest.example"))[0]
	if verdict(o) != "451 4.7.5" || o.Failure.Text != "certificate of "+postfixIP+" is not for other.example but for mx.dest.example" {
		t.Errorf("wrong name: %s, %v", verdict(o), o.Failure)
	}
}

func (n *network) testDANE(t *testing.T) {
	ca := readCert(t, n.ca.File)
	book := smtpbridge.NewReportBook()
	for _, c := range []struct {
		name   string
		tlsa   []string
		signed bool
		want   string
	}{
		{"DANE-EE", []string{n.tlsaRecord(3, 1, n.leaf.RawSubjectPublicKeyInfo)}, true, "delivered dane"},
		{"DANE-TA", []string{n.tlsaRecord(2, 0, ca.Raw)}, true, "delivered dane"},
		{"one of two", []string{n.tlsaRecord(3, 1, ca.Raw), n.tlsaRecord(3, 0, n.leaf.Raw)}, true, "delivered dane"},
		{"wrong", []string{n.tlsaRecord(3, 1, []byte("another key"))}, true, "451 4.7.5"},
		{"wrong, not signed", []string{n.tlsaRecord(3, 1, []byte("another key"))}, false, "delivered"},
		{"none", nil, true, "delivered"},
	} {
		n.zone.set(t, c.signed, n.records(c.tlsa...)...)
		client := n.client(t, func(cfg *smtpbridge.ClientConfig) { cfg.Reports, cfg.Roots = book, nil })
		o := client.Deliver(t.Context(), byMX, attempt(t, "DANE "+c.name, "x\r\n", "a@dest.example"))[0]
		if verdict(o) != c.want {
			t.Errorf("%s: %s, want %s (%v)", c.name, verdict(o), c.want, o.Failure)
		}
		if o.Failure == nil {
			n.arrived(t, "DANE "+c.name)
		}
	}
	n.zone.fail("TLSA")
	o := n.client(t, nil).Deliver(t.Context(), byMX, attempt(t, "bogus", "x\r\n", "a@dest.example"))[0]
	if verdict(o) != "451 4.7.5" {
		t.Errorf("bogus TLSA: %s", verdict(o))
	}
	for _, m := range n.sink.Got() {
		if strings.Contains(m, "Subject: DANE wrong\r\n") || strings.Contains(m, "Subject: bogus\r\n") {
			t.Error("a message went out against DANE")
		}
	}
	var ok, failed int64
	for _, d := range book.Take(time.Time{}) {
		for _, p := range d.Policies {
			ok, failed = ok+p.Successes, failed+p.Failures
		}
	}
	if ok != 5 || failed != 1 {
		t.Errorf("reported %d successes and %d failures", ok, failed)
	}
}

func (n *network) testMTASTS(t *testing.T) {
	for _, c := range []struct{ name, policy, want string }{
		{"enforced", "version: STSv1\r\nmode: enforce\r\nmax_age: 86400\r\nmx: *.dest.example\r\n", "delivered mta-sts"},
		{"another host enforced", "version: STSv1\r\nmode: enforce\r\nmax_age: 86400\r\nmx: mail.dest.example\r\n", "451 4.7.5"},
		{"another host tested", "version: STSv1\r\nmode: testing\r\nmax_age: 86400\r\nmx: mail.dest.example\r\n", "delivered"},
		{"none", "version: STSv1\r\nmode: none\r\nmax_age: 86400\r\n", "delivered"},
	} {
		policies := n.startPolicyHost(t, c.policy)
		n.zone.set(t, false, n.records(`_mta-sts.dest.example. 60 IN TXT "v=STSv1; id=1;"`)...)
		client := n.client(t, func(cfg *smtpbridge.ClientConfig) {
			cfg.MTASTS = true
			cfg.PolicyDial = func(ctx context.Context, network, addr string) (net.Conn, error) {
				if addr != "mta-sts.dest.example:443" {
					t.Errorf("asked %s for a policy", addr)
				}
				return new(net.Dialer).DialContext(ctx, network, policies.Listener.Addr().String())
			}
		})
		o := client.Deliver(t.Context(), byMX, attempt(t, "STS "+c.name, "x\r\n", "a@dest.example"))[0]
		if verdict(o) != c.want {
			t.Errorf("%s: %s, want %s (%v)", c.name, verdict(o), c.want, o.Failure)
		}
		if o.Failure == nil {
			n.arrived(t, "STS "+c.name)
		}
	}
}

func (n *network) testWaiver(t *testing.T) {
	n.zone.set(t, true, n.records(n.tlsaRecord(3, 1, []byte("another key")))...)
	a := attempt(t, "waiver\r\nTLS-Required: No", "x\r\n", "a@dest.example")
	if o := n.client(t, nil).Deliver(t.Context(), byMX, a)[0]; verdict(o) != "delivered" {
		t.Errorf("%s (%v)", verdict(o), o.Failure)
	}
	n.arrived(t, "waiver")
}

func (n *network) testRequireTLS(t *testing.T) {
	n.zone.set(t, true, n.records()...)
	a := attempt(t, "required", "x\r\n", "a@dest.example")
	a.Envelope.RequireTLS = true
	if o := n.client(t, nil).Deliver(t.Context(), byMX, a)[0]; verdict(o) != "550 5.7.30" {
		t.Errorf("%s (%v)", verdict(o), o.Failure)
	}
}
