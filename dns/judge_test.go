package dns

import (
	"testing"

	mdns "github.com/miekg/dns"
)

// FuzzJudge: whatever a server says, names come out clean and the status fits
// the records.
func FuzzJudge(f *testing.F) {
	seed := func(rcode int, records ...string) {
		m := new(mdns.Msg)
		m.SetQuestion("a.example.", mdns.TypeMX)
		m.Rcode = rcode
		for _, s := range records {
			r, err := mdns.NewRR(s)
			if err != nil {
				f.Fatal(err)
			}
			m.Answer = append(m.Answer, r)
		}
		b, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	seed(mdns.RcodeSuccess, "a.example. 60 IN MX 1 mx.example.")
	seed(mdns.RcodeSuccess, "a.example. 60 IN MX 1 .", `a.example. 60 IN MX 1 x\000\@.example.`)
	seed(mdns.RcodeSuccess, "a.example. 60 IN CNAME b.example.", "b.example. 60 IN CNAME a.example.")
	seed(mdns.RcodeNameError)
	seed(mdns.RcodeSuccess, "a.example. 60 IN SRV 1 1 1 s.example.")
	f.Fuzz(func(t *testing.T, packet []byte) {
		m := new(mdns.Msg)
		if m.Unpack(packet) != nil {
			return
		}
		res := judge(m, "a.example.", mdns.TypeMX)
		if (res.status == Found) != (len(res.records) > 0) || len(res.records) > maxRecords || res.ttl < 0 || res.ttl > maxTTL {
			t.Fatalf("status %v with %d records, ttl %v", res.status, len(res.records), res.ttl)
		}
		for _, r := range res.records {
			host, ok := hostName(r.(*mdns.MX).Mx)
			for _, c := range host {
				if ok && !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.') {
					t.Fatalf("host %q", host)
				}
			}
		}
	})
}

func TestUnescape(t *testing.T) {
	for in, want := range map[string]string{
		"plain": "plain", `a\"b`: `a"b`, `\\`: `\`, `\065\000`: "A\x00", `\255`: "\xff", `\999`: "999", `end\`: `end\`, `\12`: "12",
	} {
		if got := unescape(in); got != want {
			t.Errorf("unescape(%q) = %q, want %q", in, got, want)
		}
	}
}
