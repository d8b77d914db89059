package trust

import (
	"bytes"
	"strconv"
	"testing"
	"time"

	"mailxmppd/trust/arc"
	"mailxmppd/trust/authres"
)

// TestARC: chains that we seal are valid to dkimpy and Mail::DKIM, chains that
// dkimpy seals are valid to us, and so are chains of both in turn; what is
// broken is broken to all three.
func TestARC(t *testing.T) {
	r2048, ed := newPair(t, "rsa", 2048), newPair(t, "ed25519", 0)
	zone := Zone{"r._domainkey.ours.example": text(r2048.record), "r._domainkey.theirs.example": text(r2048.record), "e._domainkey.ours.example": text(ed.record)}
	resolver := serve(t, zone)

	sealOurs := func(message []byte, selector string, key pair) []byte {
		t.Helper()
		ev := ours(t, resolver, message)
		set, err := arc.Sealer{Domain: "ours.example", Selector: selector, Key: key.signer, AuthservID: "gw.ours.example"}.
			Seal(bytes.NewReader(message), ev.ARC, append(ev.Methods(), authres.Method{Name: "spf", Result: authres.Pass,
				Props: []authres.Prop{{Type: "smtp", Name: "mailfrom", Value: "a@b.example"}}}), time.Now())
		if err != nil {
			t.Fatalf("%v: the chain is %s, %s", err, ev.ARC.Result, ev.ARC.Reason)
		}
		return append([]byte(set), message...)
	}
	sealTheirs := func(message []byte, host string) []byte {
		t.Helper()
		// dkimpy seals what an Authentication-Results field of its own host says.
		ev := ours(t, resolver, message)
		field := authres.Format(host, []authres.Method{{Name: "arc", Result: ev.ARC.Result}, {Name: "dkim", Result: authres.None}})
		message = append([]byte(field), message...)
		a, err := askPython(within(t), job{Zone: zone, Seal: []sealJob{{Message: message, Selector: "r", Domain: "theirs.example",
			Key: r2048.pem, Authserv: host, Time: strconv.FormatInt(time.Now().Unix(), 10)}}})
		if err != nil {
			t.Fatal(err)
		}
		return append(a.Seals[0], message...)
	}
	one := sealOurs([]byte(plain), "r", r2048)
	three := sealOurs(sealOurs(one, "r", r2048), "r", r2048)
	theirs := sealTheirs([]byte(plain), "mx1.theirs.example")
	mixed := sealOurs(sealTheirs(sealOurs(theirs, "r", r2048), "mx2.theirs.example"), "r", r2048)
	changed := bytes.Replace(one, []byte("east"), []byte("west"), 1)

	rows := []struct {
		name    string
		message []byte
		pass    bool
		length  int
		python  bool // whether the two others can be asked: neither knows Ed25519 in ARC
	}{
		{"none", []byte(plain), false, 0, true},
		{"ours, one set", one, true, 1, true},
		{"ours, three sets", three, true, 3, true},
		{"ours, Ed25519", sealOurs([]byte(plain), "e", ed), true, 1, false},
		{"theirs", theirs, true, 1, true},
		{"in turn", mixed, true, 4, true},
		{"another body", changed, false, 1, true},
		{"sealed as broken", sealOurs(changed, "r", r2048), false, 2, true},
		{"another set 1", bytes.Replace(three, []byte("i=1; gw.ours"), []byte("i=1; gw.yours"), 1), false, 3, true},
		{"no set 1", bytes.Replace(three, []byte("i=1;"), []byte("i=9;"), 3), false, 3, true},
		{"another author", bytes.Replace(three, []byte("romeo@"), []byte("m@"), 1), false, 3, true},
		{"a second author", append([]byte("From: m@evil.example\r\n"), three...), false, 3, true},
	}
	var messages [][]byte
	for _, r := range rows {
		messages = append(messages, r.message)
	}
	py, err := askPython(within(t), job{Zone: zone, Messages: messages, ARC: true})
	if err != nil {
		t.Fatal(err)
	}
	perl, err := askPerl(within(t), t.TempDir(), server+":53", messages)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			got := ours(t, resolver, r.message).ARC
			if (got.Result == authres.Pass) != r.pass || got.Length != r.length {
				t.Errorf("ours: %s %s, %d sets", got.Result, got.Reason, got.Length)
			}
			if !r.python {
				return
			}
			if (py.Chains[i] == "pass") != r.pass {
				t.Errorf("dkimpy says %s", py.Chains[i])
			}
			if (perl[i][0] == "pass") != r.pass {
				t.Errorf("Mail::DKIM says %s", perl[i][0])
			}
		})
	}
}
