package trust

import (
	"bytes"
	"strings"
	"testing"

	"mailxmppd/mail"
	"mailxmppd/trust/arc"
	"mailxmppd/trust/authres"
)

// TestVouch: what goes on to others tells what was found of it, sealed if
// somebody seals, over a chain that was there before; of mail that nobody has
// looked at nothing is said.
func TestVouch(t *testing.T) {
	record := txt("s._domainkey.capulet.example", keyRecord(t, keys().rsa))
	sealer := arc.Sealer{Domain: "capulet.example", Selector: "s", Key: keys().rsa, AuthservID: "gw.capulet.example"}
	var able bool
	j := court(t, wishes{}, func(c *JudgeConfig) { c.Sealer = func() (arc.Sealer, bool) { return sealer, able } }, record)

	bare := string(j.Vouch(t.Context(), from("192.0.2.1"), letter(plain, "romeo@montague.example", "juliet@capulet.example")))
	if !strings.HasPrefix(bare, "Authentication-Results: gw.capulet.example;") || strings.Contains(bare, "ARC-") {
		t.Errorf("without a key: %q", bare)
	}
	able = true
	trace := ""
	for round := 1; round <= 2; round++ {
		m := letter(plain, "romeo@montague.example", "juliet@capulet.example")
		m.Trace = []byte(trace)
		fields := string(j.Vouch(t.Context(), from("192.0.2.1"), m))
		trace = fields + trace
		ev := j.cfg.Evaluator.Evaluate(t.Context(), Input{Arrival: BySMTP, Content: mail.Bytes(plain), Trace: []byte(trace)})
		if ev.ARC.Result != authres.Pass || ev.ARC.Length != round {
			t.Errorf("round %d: %s %s, %d sets in %q", round, ev.ARC.Result, ev.ARC.Reason, ev.ARC.Length, trace)
		}
	}

	neighbour := from("192.0.2.1")
	neighbour.Trusted = true
	if got := j.Vouch(t.Context(), neighbour, letter(plain, "romeo@montague.example", "juliet@capulet.example")); len(got) != 0 {
		t.Errorf("of what a neighbour brings: %q", got)
	}

	// A chain that is broken for good is not extended, and the message goes on.
	m := letter(plain, "romeo@montague.example", "juliet@capulet.example")
	m.Trace = bytes.Replace([]byte(trace), []byte("cv=pass"), []byte("cv=fail"), 1)
	if got := string(j.Vouch(t.Context(), from("192.0.2.1"), m)); strings.Contains(got, "ARC-Seal") || !strings.Contains(got, "arc=fail") {
		t.Errorf("a chain that said it is broken: %q", got)
	}
}
