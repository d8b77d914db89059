package contacts

import (
	"context"
	"io"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"mailxmppd/dns"
	"mailxmppd/mail"
	"mailxmppd/store"
	"mailxmppd/trust"
)

// nothing is a DNS that has no records.
type nothing struct{}

func (nothing) TXT(context.Context, string) dns.Answer[string] {
	return dns.Answer[string]{Status: dns.NoDomain}
}
func (nothing) MX(context.Context, string) dns.Answer[dns.MX] {
	return dns.Answer[dns.MX]{Status: dns.NoDomain}
}
func (nothing) Family(context.Context, string, bool) dns.Answer[netip.Addr] {
	return dns.Answer[netip.Addr]{Status: dns.NoDomain}
}
func (nothing) PTR(context.Context, netip.Addr) dns.Answer[string] {
	return dns.Answer[string]{Status: dns.NoDomain}
}

// opened counts how often content is read.
type opened struct {
	mail.Bytes
	times int
}

func (o *opened) Open() (io.ReadCloser, error) {
	o.times++
	return o.Bytes.Open()
}

// TestVerdict: into a mailbox that denies mail a known key's signature leads,
// whatever else is not proven, and nothing else does.
func TestVerdict(t *testing.T) {
	part := parts["protected headers"]
	signed := pgpMessage(part, pgp.detach(t, part, "romeo"))
	id := newIdentity(t, romeo, "ec")
	own, cert := pgp.key(t, "romeo"), contact(id.certificate(t))
	own.Owner = "nurse@capulet.example"
	ownCert := cert
	ownCert.Owner = own.Owner
	b := book(t, Config{}, pgp.key(t, "romeo"), own, cert, ownCert)
	l := NewLearner(LearnConfig{Store: b.conf.Store, Autocrypt: true, Log: slog.New(slog.DiscardHandler)})
	keys := NewKeys(b)
	judge := trust.NewJudge(trust.JudgeConfig{
		Evaluator: trust.New(trust.Config{DNS: nothing{}, Hostname: "gw.capulet.example"}),
		Domains: map[string]trust.DomainPolicy{
			"capulet.example": {Policy: trust.Policy{Deny: true}}, "verona.example": {Policy: trust.Policy{Deny: true}}},
		Keys: []trust.Permits{keys}, Attester: keys, Learner: l,
	})
	src := mail.Source{Client: mail.Client{Addr: netip.MustParseAddrPort("192.0.2.1:25"), Helo: "mx.example"}}
	rcpt := func(s string) mail.Recipient { return mail.Recipient{Address: address(t, s)} }

	for to, want := range map[string]bool{juliet: true, "nobody@capulet.example": true, "x@verona.example": false} {
		undecided, refusal := judge.Recipient(t.Context(), src, address(t, "x@evil.example"), rcpt(to), nil)
		if undecided != want || (refusal == nil) != want {
			t.Errorf("before the content, to %s: undecided %v, %v", to, undecided, refusal)
		}
	}
	print := "body.x-fingerprint=" + own.Fingerprint
	const nobody = "unproven; nothing proves that this is from montague.example"
	for _, c := range []struct{ name, content, verdict, results string }{
		{"signed", signed, "permitted; signed with the OpenPGP key of romeo@montague.example", "x-openpgp=pass body.x-identifier=romeo@montague.example " + print},
		{"changed", strings.Replace(signed, "<p>", "<b>", 1), nobody + ", the signature is wrong: the message was changed, or is not from them",
			`x-openpgp=fail reason="the signature is wrong: the message was changed, or is not from them" body.x-identifier=romeo@montague.example ` + print},
		{"by S/MIME", id.sign(t, part), "permitted; signed with the S/MIME key of romeo@montague.example", "smime=pass body.smime-identifier=romeo@montague.example"},
		{"by S/MIME, without a time", id.sign(t, part, "-noattr"), nobody + ", " + undatedGood, `smime=policy reason="` + undatedGood + `" body.smime-identifier=romeo@montague.example`},
		{"by another's S/MIME", newIdentity(t, romeo, "ec").sign(t, part), nobody + ", not signed with the usual key", `smime=neutral reason="not signed with the usual key"`},
		{"not signed", head + "\r\nhello\r\n", nobody + ", the usual signature is missing", ""},
		{"of another author", strings.Replace(signed, "From: Romeo <romeo@", "From: Paris <paris@", 1), nobody, ""},
	} {
		m := &mail.Message{Content: mail.Bytes(c.content), Envelope: mail.Envelope{Sender: address(t, "list@verona.example"),
			Recipients: []mail.Recipient{rcpt(juliet), rcpt("nurse@capulet.example")}}}
		for i, r := range judge.Message(t.Context(), src, m, make([]*mail.Failure, 2)).Recipients {
			if r.Verdict != c.verdict || (r.Refusal == nil) != strings.HasPrefix(c.verdict, "permitted") {
				t.Errorf("%s, recipient %d: got %q, %v; want %q", c.name, i, r.Verdict, r.Refusal, c.verdict)
			}
			want := ""
			if c.results != "" {
				want = "Authentication-Results: gw.capulet.example; " + c.results
			}
			if got := strings.Join(strings.Fields(r.Results), " "); got != want {
				t.Errorf("%s, recipient %d: got %q, want %q", c.name, i, got, want)
			}
		}
	}
	if k, err := b.conf.Store.ContactKeys(t.Context(), juliet, romeo); err != nil || len(k) != 2 || k[0].Origin != store.Imported || k[0].Signed.IsZero() {
		t.Errorf("got %+v, %v", k, err)
	}
}

// TestOneVerification: what is found for one recipient is not looked for again.
func TestOneVerification(t *testing.T) {
	part := parts["plain"]
	content := &opened{Bytes: mail.Bytes(pgpMessage(part, pgp.detach(t, part, "romeo")))}
	var known []store.ContactKey
	to := []string{juliet, "nurse@capulet.example", "tybalt@capulet.example"}
	for _, owner := range to {
		k := pgp.key(t, "romeo")
		k.Owner = owner
		known = append(known, k)
	}
	keys := NewKeys(book(t, Config{}, known...))
	ev := &trust.Evidence{Message: trust.Input{Content: content}}
	var first int
	for i, owner := range to {
		reason, ok, err := keys.Permits(t.Context(), address(t, owner), address(t, romeo), ev)
		if err != nil || !ok {
			t.Fatalf("%s: %q, %v", owner, reason, err)
		}
		if i == 0 {
			first = content.times
		}
	}
	if content.times != first {
		t.Errorf("read %d times for one recipient, %d for three", first, content.times)
	}
}
