package trust

import (
	"fmt"
	"io"
	"strings"
	"testing"

	"mailxmppd/trust/authres"
)

// changing is content that is another at each reading.
type changing struct {
	first, later string
	opened       int
}

func (c *changing) Size() int64 { return int64(len(c.first)) }
func (c *changing) Open() (io.ReadCloser, error) {
	c.opened++
	if c.opened == 1 {
		return io.NopCloser(strings.NewReader(c.first)), nil
	}
	return io.NopCloser(strings.NewReader(c.later)), nil
}

// claim is a signature that nobody made.
func claim(selector, domain, more string) string {
	return "DKIM-Signature: v=1; a=rsa-sha256; d=" + domain + "; s=" + selector + "; h=from; " + more + "bh=AAAA; b=AAAA\r\n"
}

// TestBadInput: what strangers can send and publish costs a bounded number of
// lookups, all within one budget of time, and bounded memory, and is named.
func TestBadInput(t *testing.T) {
	signed := sign(t, plain, "montague.example", "s1", keys().rsa)
	many := func(n int, make func(int) string) string {
		var b strings.Builder
		for i := range n {
			b.WriteString(make(i))
		}
		return b.String()
	}
	key := keyRecord(t, keys().rsa)
	for _, c := range []struct {
		name    string
		records []string // added to montague's; "-" first: instead of them
		in      Input
		want    string // a part of Methods, with the reasons
		queries int32  // at most
	}{
		{"key: garbage", []string{"g._domainkey.evil.example GARBAGE"}, bySMTP(claim("g", "evil.example", "")+plain, "romeo@montague.example"),
			"dkim=temperror (the key cannot be had: DNS does not answer)", 30},
		{"key: text that is no key", []string{txt("g._domainkey.evil.example", "\x00\xff;;=;\\")}, bySMTP(claim("g", "evil.example", "")+plain, "romeo@montague.example"),
			"dkim=permerror (key record:", 30},
		{"key: huge TXT", []string{txt("h._domainkey.evil.example", "v=DKIM1; p="+strings.Repeat("A", 60000))}, bySMTP(claim("h", "evil.example", "")+plain, "romeo@montague.example"),
			"dkim=permerror (the key record is too long)", 30},
		{"key: hundreds of TXT", strings.Split(strings.TrimSpace(many(300, func(i int) string {
			return txt("m._domainkey.evil.example", fmt.Sprintf("v=DKIM1; n=%d; p=AAAA", i)) + "\n"
		})), "\n"), bySMTP(claim("m", "evil.example", "")+plain, "romeo@montague.example"), "dkim=permerror (key record:", 30},
		{"key: CNAME loop", []string{"l._domainkey.evil.example. 60 IN CNAME k._domainkey.evil.example.", "k._domainkey.evil.example. 60 IN CNAME l._domainkey.evil.example."},
			bySMTP(claim("l", "evil.example", "")+plain, "romeo@montague.example"), "dkim=temperror (the key cannot be had", 30},
		{"key: a name that is too long", nil, bySMTP(claim(strings.Repeat(strings.Repeat("l", 63)+".", 3)+strings.Repeat("l", 34), "montague.example", "")+plain, "x@evil.example"),
			"dmarc=fail", 30},
		{"HELO: a name that is too long", nil, Input{Arrival: BySMTP, Client: bySMTP("", "").Client, Helo: strings.Repeat(strings.Repeat("l", 63)+".", 3) + strings.Repeat("l", 46) + ".montague.example", Content: bySMTP(plain, "").Content},
			"dmarc=fail", 30},
		{"NXDOMAIN storm", []string{"-"}, bySMTP(many(50, func(i int) string {
			return claim(fmt.Sprintf("s%d", i), fmt.Sprintf("a%d.b.c.d.e.f.g.h.i.j.evil.example", i), "")
		})+plain,
			"x@a.b.c.d.e.f.g.h.evil.example"), "dkim=permerror (there is no key)", 40},
		{"SERVFAIL storm", []string{"-", ". SERVFAIL"}, bySMTP(many(50, func(i int) string { return claim(fmt.Sprintf("s%d", i), fmt.Sprintf("a%d.evil.example", i), "") })+plain,
			"x@a.b.c.d.e.f.g.h.evil.example"), "dkim=temperror (the key cannot be had", 40},
		{"50 signatures", nil, bySMTP(many(50, func(i int) string { return claim("s1", "montague.example", "") })+plain, "romeo@montague.example"),
			"dkim=policy (40 more signatures not looked at)", 30},
		{"50 signatures, the real one last", nil, bySMTP(many(50, func(i int) string { return claim("s1", "montague.example", "") })+signed, "x@evil.example"),
			"dmarc=fail", 30},
		{"expired signature", nil, bySMTP(claim("s1", "montague.example", "x=1000000000; ")+plain, "romeo@montague.example"), "dkim=fail (signature: expired 2001-09-09)", 30},
		{"signature of the future", nil, bySMTP(claim("s1", "montague.example", "t=9000000000; ")+plain, "romeo@montague.example"), "dkim=fail (signature: made in the future", 30},
		{"1,000 header fields", nil, bySMTP(many(994, func(i int) string { return "X: y\r\n" })+signed, "romeo@montague.example"), "dkim=pass ()", 30},
		{"1,001 header fields", nil, bySMTP(many(1000, func(i int) string { return "X: y\r\n" })+signed, "romeo@montague.example"), "dkim=permerror (header too large", 30},
		{"one endless field", nil, Input{Arrival: BySMTP, Sender: sender("romeo@montague.example"), Content: bigContent{"X: y\r\n", 25 << 20, " \r\n"}}, "dkim=permerror (header too large", 30},
		{"1,000 fields signed 10 times", nil, bySMTP(many(10, func(i int) string {
			return claim("s1", "montague.example", "z=; h2=; ")
		})+many(980, func(i int) string { return "X: " + strings.Repeat("y ", 200) + "\r\n" })+plain, "romeo@montague.example"), "dkim=fail (the body is not what was signed)", 30},
		{"a body that changes", nil, Input{Arrival: BySMTP, Sender: sender("romeo@montague.example"), Content: &changing{first: signed, later: strings.Replace(signed, "east", "west", 1)}},
			"dkim=pass ()", 30},
		{"SPF: eleven lookups", []string{txt("evil.example", "v=spf1 "+many(11, func(i int) string { return "a:montague.example " })+"+all"), "montague.example. 60 IN A 198.51.100.1"},
			bySMTP(plain, "x@evil.example"), "spf=permerror (the record is wrong: lookup limit reached)", 30},
		{"SPF: ten lookups, which are allowed", []string{txt("evil.example", "v=spf1 "+many(10, func(i int) string { return "a:montague.example " })+"+all"), "montague.example. 60 IN A 198.51.100.1"},
			bySMTP(plain, "x@evil.example"), "spf=pass", 30},
		{"SPF: two voids, which are allowed", []string{txt("evil.example", "v=spf1 a:v1.evil.example a:v2.evil.example +all")},
			bySMTP(plain, "x@evil.example"), "spf=pass", 30},
		{"SPF: three voids", []string{txt("evil.example", "v=spf1 a:v1.evil.example a:v2.evil.example a:v3.evil.example +all")},
			bySMTP(plain, "x@evil.example"), "spf=permerror (the record is wrong: void lookup limit reached)", 30},
		{"SPF: includes itself", []string{txt("evil.example", "v=spf1 include:evil.example +all")},
			bySMTP(plain, "x@evil.example"), "spf=permerror (the record is wrong: lookup limit reached)", 30},
		{"SPF: macro bomb", []string{txt("evil.example", "v=spf1 exists:"+strings.Repeat("%{s}%{l}%{o}", 300)+" -all")},
			bySMTP(plain, strings.Repeat("l", 60)+"@evil.example"), "spf=fail", 30},
		{"SPF: a macro that does not end", []string{txt("evil.example", "v=spf1 exists:%{"+strings.Repeat("s", 3900)+" -all")},
			bySMTP(plain, "x@evil.example"), "spf=permerror (the record is wrong: a term is malformed)", 30},
		{"SPF: a record too long", []string{txt("evil.example", "v=spf1 "+strings.Repeat("ip4:198.51.100.1 ", 3000)+"+all")},
			bySMTP(plain, "x@evil.example"), "spf=permerror (the record is wrong: too long)", 30},
		{"DMARC: no policy", []string{"-", txt("_dmarc.montague.example", "v=DMARC1; p=shoot")}, bySMTP(plain, "x@evil.example"), "dmarc=permerror (the record has no valid policy)", 40},
		{"DMARC: two records", []string{txt("_dmarc.montague.example", "v=DMARC1; p=none")}, bySMTP(plain, "x@evil.example"), "dmarc=permerror (there are several records)", 40},
		{"DMARC: no tags", []string{"-", txt("_dmarc.montague.example", "v=DMARC1; ;;=;x")}, bySMTP(plain, "x@evil.example"), "dmarc=permerror", 40},
		{"DMARC: too long", []string{"-", txt("_dmarc.montague.example", "v=DMARC1; p=none; "+strings.Repeat("x=y; ", 5000))}, bySMTP(plain, "x@evil.example"), "dmarc=permerror (the record is too long)", 40},
		{"DMARC: CNAME loop", []string{"-", "_dmarc.montague.example. 60 IN CNAME _dmarc.montague.example."}, bySMTP(plain, "x@evil.example"), "dmarc=temperror", 40},
		{"DMARC: a name of 120 labels", []string{"-"}, bySMTP("From: a@"+strings.Repeat("x.", 119)+"example\r\n\r\n", "x@evil.example"), "dmarc=none", 40},
		{"From: 100 domains", []string{"-"}, bySMTP("From: "+many(100, func(i int) string { return fmt.Sprintf("a@d%d.example, ", i) })+"a@b.example\r\n\r\n", "x@evil.example"),
			"x-from=policy (From cannot be read)", 30},
		{"From: ten domains", []string{"-"}, bySMTP("From: "+many(9, func(i int) string { return fmt.Sprintf("a@d%d.example, ", i) })+"a@b.example\r\n\r\n", "x@evil.example"),
			"x-from=policy (several authors; authors of more domains than are looked at)", 30},
		{"ARC: a chain of 60", []string{"-"}, bySMTP(many(60, func(i int) string {
			return fmt.Sprintf("ARC-Seal: i=%[1]d; a=rsa-sha256; cv=pass; d=a.example; s=s; b=AAAA\r\nARC-Message-Signature: i=%[1]d; a=rsa-sha256; d=a.example; s=s; h=from; bh=AAAA; b=AAAA\r\nARC-Authentication-Results: i=%[1]d; a.example; none\r\n", 60-i)
		})+plain, "x@evil.example"), "arc=fail (more than 50 sets)", 30},
		{"ARC: a chain of 50 made up", []string{"-"}, bySMTP(many(50, func(i int) string {
			cv := "pass"
			if i == 49 {
				cv = "none"
			}
			return fmt.Sprintf("ARC-Seal: i=%[1]d; a=rsa-sha256; cv=%[2]s; d=a%[1]d.example; s=s; b=AAAA\r\nARC-Message-Signature: i=%[1]d; a=rsa-sha256; d=a%[1]d.example; s=s; h=from; bh=AAAA; b=AAAA\r\nARC-Authentication-Results: i=%[1]d; a.example; none\r\n", 50-i, cv)
		})+plain, "x@evil.example"), "arc=fail (message signature 50: there is no key)", 80},
		{"hostile authserv-ids", nil, bySMTP("Authentication-Results: \"gw\\.capulet.example\" ; dkim=pass\r\nAuthentication-Results: ((((\r\nAuthentication-Results: "+
			strings.Repeat("(", 60000)+"\r\nAuthentication-Results:\r\n"+signed, "romeo@montague.example"), "dkim=pass ()", 30},
		{"a reverse-path that writes headers", nil, bySMTP(plain, `"x\" smtp.auth=admin; dkim=pass"@evil.example`), "spf=none", 30},
		{"a key of 512 bits", []string{txt("short._domainkey.evil.example", "v=DKIM1; p=MFwwDQYJKoZIhvcNAQEBBQADSwAwSAJBANmBe10IgY+u7h3enWTukkqtUD5PR52Tb/mPfjC0QJTocVBq6Za/PlzfV+Py92VaCak19F4WrbVTK5Gg5tW220MCAwEAAQ==")},
			bySMTP(claim("short", "evil.example", "")+plain, "x@evil.example"), "dkim=fail (a key of 512 bits proves nothing)", 30},
		{"a key that is somebody else's", []string{txt("copy._domainkey.evil.example", key)}, bySMTP(strings.NewReplacer("d=montague.example", "d=evil.example", "s=s1", "s=copy").Replace(signed), "x@evil.example"),
			"dkim=fail (the header is not what was signed)", 30},
	} {
		t.Run(c.name, func(t *testing.T) {
			records := append(montague(t), c.records...)
			if len(c.records) > 0 && c.records[0] == "-" {
				records = c.records[1:]
			}
			s := startDNS(t, records...)
			var e *Evaluator
			ev := watch(t, s.resolver(t), func(r Resolver) Evidence {
				e = New(Config{DNS: r, Hostname: "gw.capulet.example", Budget: caseBudget})
				return e.Evaluate(t.Context(), c.in)
			})
			var said []string
			for _, m := range ev.Methods() {
				said = append(said, fmt.Sprintf("%s=%s (%s)", m.Name, m.Result, m.Reason))
			}
			if got := strings.Join(said, "\n"); !strings.Contains(got, c.want) {
				t.Errorf("%s\nwant %s", got, c.want)
			}
			if n := s.queries.Load(); n > c.queries {
				t.Errorf("%d queries, want at most %d", n, c.queries)
			}
			if ch, ok := c.in.Content.(*changing); ok && ch.opened != 1 {
				t.Errorf("read %d times", ch.opened)
			}
			field := e.AuthenticationResults(ev)
			if _, methods, err := authres.Parse(strings.TrimPrefix(field, "Authentication-Results:")); err != nil || len(methods) != len(said) {
				t.Errorf("the field does not read back: %v, %d of %d results\n%s", err, len(methods), len(said), field)
			}
		})
	}
}
