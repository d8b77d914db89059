package trust

import (
	"net/netip"
	"strings"
	"testing"

	"mailxmppd/mail"
	"mailxmppd/trust/authres"
	"mailxmppd/trust/dmarc"
)

// montague is a domain that does everything right.
func montague(t testing.TB) []string {
	return []string{
		txt("montague.example", "v=spf1 ip4:192.0.2.1 -all"),
		txt("mx.montague.example", "v=spf1 a -all"),
		"mx.montague.example. 60 IN A 192.0.2.1",
		"1.2.0.192.in-addr.arpa. 60 IN PTR mx.montague.example.",
		txt("_dmarc.montague.example", "v=DMARC1; p=reject"),
		txt("s1._domainkey.montague.example", keyRecord(t, keys().rsa)),
		txt("s2._domainkey.montague.example", keyRecord(t, keys().ed25519)),
	}
}

// sender is a reverse-path, "" the null one.
func sender(s string) (a mail.Address) {
	if err := a.UnmarshalText([]byte(s)); err != nil {
		panic(err)
	}
	return a
}

func bySMTP(message, from string) Input {
	return Input{
		Arrival: BySMTP, Client: netip.MustParseAddr("192.0.2.1"), Helo: "mx.montague.example",
		Sender: sender(from), Content: mail.Bytes(message),
	}
}

func TestEvaluate(t *testing.T) {
	s := startDNS(t, montague(t)...)
	e := New(Config{DNS: s.resolver(t), Hostname: "gw.capulet.example"})
	message := sign(t, sign(t, plain, "montague.example", "s1", keys().rsa), "montague.example", "s2", keys().ed25519)
	ev := e.Evaluate(t.Context(), bySMTP(message, "romeo@montague.example"))

	if ev.MailFrom.Result != authres.Pass || ev.Helo.Result != authres.Pass || ev.IPRev.Result != authres.Pass {
		t.Errorf("mailfrom %+v, helo %+v, iprev %+v", ev.MailFrom, ev.Helo, ev.IPRev)
	}
	if len(ev.DKIM) != 2 {
		t.Fatalf("%d signatures", len(ev.DKIM))
	}
	for i, bits := range []int{256, 2048} {
		if s := ev.DKIM[i]; s.Result != authres.Pass || s.KeyBits != bits || s.Domain != "montague.example" {
			t.Errorf("signature %d: %+v", i, s)
		}
	}
	if len(ev.DMARC) != 1 || ev.DMARC[0].Result != authres.Pass || ev.DMARC[0].Policy != dmarc.PolicyReject ||
		strings.Join(ev.DMARC[0].Aligned, " ") != "dkim spf" {
		t.Errorf("dmarc %+v", ev.DMARC)
	}
	if ev.Relation.SenderToFrom != SameDomain || ev.Relation.BoundToFrom != NotThere {
		t.Errorf("relation %+v", ev.Relation)
	}
	if by, ok := ev.Proven(); !ok || by != "dkim" {
		t.Errorf("proven by %q, %v", by, ok)
	}
	if by, ok := ev.ForwardedBy("montague.example"); !ok || by != "spf" {
		t.Errorf("forwarded by %q, %v", by, ok)
	}
	field := e.AuthenticationResults(ev)
	if !strings.HasPrefix(field, "Authentication-Results: gw.capulet.example;\r\n\t") || strings.Count(field, "dkim=pass") != 2 ||
		!strings.Contains(field, "dmarc=pass") {
		t.Errorf("field %s", field)
	}
	id, methods, err := authres.Parse(strings.TrimPrefix(field, "Authentication-Results:"))
	if err != nil || id != "gw.capulet.example" || len(methods) != 7 {
		t.Errorf("read back: %q, %d methods, %v", id, len(methods), err)
	}
}
