package verdicts

import (
	"fmt"
	"strings"
	"testing"
)

const (
	second = "127.0.44.2" // a host of capulet's own, which takes and judges mail for it
	third  = "127.0.44.7" // the same, for one of its mailboxes
	alumni = "127.0.44.3" // of alumni.example, that lorenzo has his mail forwarded from
)

// TestHandedOn: mail that comes by others whom the operator or a recipient
// trusts is not judged by their address. What a secondary has found counts as if
// it had been found here; a forwarder's mail is not forged for being forwarded,
// and proves nobody. Both have to be who they are.
func TestHandedOn(t *testing.T) {
	w := start(t)
	found := func(result string) string {
		return "Authentication-Results: mx2.capulet.example;\r\n\t" + result + " header.from=friend.example\r\n"
	}
	const forged = "forged; friend.example asks to reject mail that it has not signed"
	for i, c := range []struct {
		name, client, from, to, results string
		tag                             string
	}{
		{"a secondary has found the author", second, "a@friend.example", "juliet", found("dmarc=pass"), "authenticated; as our own host before us has found"},
		{"and whom the recipient has permitted", second, "f@friend.example", "juliet", found("dmarc=pass"), "permitted; "},
		{"a secondary has found nothing", second, "a@friend.example", "juliet", "", "unproven; "},
		{"a secondary of this recipient's", third, "a@friend.example", "juliet", found("dmarc=pass"), "authenticated; as our own host before us has found"},
		{"a secondary of another's", third, "a@friend.example", "lorenzo", found("dmarc=pass"), forged},
		{"a stranger writes what a secondary would", evil, "a@friend.example", "juliet", found("dmarc=pass"), forged},
		{"a forwarder of another's", alumni, "x@alumni.example", "juliet", "", forged},
		{"the recipient's own forwarder", alumni, "x@alumni.example", "lorenzo", "", "unproven; handed on by alumni.example, which is trusted"},
		{"who poses as it", evil, "x@alumni.example", "lorenzo", "", forged},
		{"the forwarder, with what a secondary would write", alumni, "x@alumni.example", "lorenzo", found("dmarc=pass"), "unproven; handed on by alumni.example, which is trusted"},
	} {
		author := c.from
		if strings.HasSuffix(author, "@alumni.example") {
			author = "f@friend.example"
		}
		mark := fmt.Sprintf("handed-on-%d", i)
		if refusal := send(t, w.judged, c.client, nil, c.from, c.to+"@capulet.example", c.results+letter(author, mark)); refusal != "" {
			t.Errorf("%s: %s", c.name, refusal)
			continue
		}
		tag, _, _ := strings.Cut(strings.ReplaceAll(w.arrived(t, mark), "\r\n\t", " "), "\r\n")
		if !strings.HasPrefix(tag, "X-Mail-Trust: "+c.tag) {
			t.Errorf("%s: %s, want %s", c.name, tag, c.tag)
		}
	}
}
