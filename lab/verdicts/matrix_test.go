package verdicts

import (
	"fmt"
	"strings"
	"testing"
)

// TestMatrix: a forged, an unproven, an authenticated and a permitted sender
// write, over SMTP and over XMPP, to who takes all mail, to who takes permitted
// mail only, and to nobody. Each tag, reply and phase is exact, and what a
// stranger hears of who denies is what he hears of who does not exist.
func TestMatrix(t *testing.T) {
	w := start(t)
	const notWanted = "550 5.7.1 recipient has not permitted this sender"
	for i, c := range []struct {
		name, listener, client string
		from, author           string
		tag                    string // at juliet's, who takes all
		results                string // a part of Authentication-Results there
		denied                 string // at nurse's, who denies; "" where it is let in
		unknown                string // at a mailbox that does not exist
	}{
		{"SMTP, forged", w.judged, evil, "y@friend.example", "f@friend.example",
			"forged; friend.example asks to reject mail that it has not signed", "dmarc=fail", "data " + notWanted, "data " + notWanted},
		{"SMTP, forged under a name of the forger's own", w.judged, evil, "x@stranger.example", "f@friend.example",
			"forged; friend.example asks to reject mail that it has not signed", "dmarc=fail", "rcpt " + notWanted, "rcpt " + notWanted},
		{"SMTP, unproven", w.judged, evil, "x@stranger.example", "x@stranger.example",
			"unproven; nothing proves that this is from stranger.example", "spf=none", "rcpt " + notWanted, "rcpt " + notWanted},
		{"SMTP, authenticated", w.judged, good, "a@friend.example", "a@friend.example",
			"authenticated; proven by spf", "dmarc=pass", "data " + notWanted, "data " + notWanted},
		{"SMTP, permitted", w.judged, good, "f@friend.example", "f@friend.example",
			"permitted; f@friend.example is permitted by the operator, proven by spf", "dmarc=pass", "", "data " + notWanted},

		{"XMPP, forged", w.montague.SMTP, good, "romeo@montague.example", "f@friend.example",
			"forged; friend.example asks to reject mail that it has not signed", "dmarc=fail", "data " + notWanted, "data " + notWanted},
		{"XMPP, unproven", w.montague.SMTP, good, "romeo@montague.example", "x@stranger.example",
			"unproven; nothing proves that this is from stranger.example", "x-xmpp=pass", "data " + notWanted, "data " + notWanted},
		{"XMPP, authenticated", w.montague.SMTP, good, "paris@montague.example", "paris@montague.example",
			"authenticated; proven by xmpp", "x-xmpp=pass", "data " + notWanted, "data " + notWanted},
		{"XMPP, permitted", w.montague.SMTP, good, "romeo@montague.example", "romeo@montague.example",
			"permitted; romeo@montague.example is permitted by the operator, proven by xmpp", "x-xmpp=pass", "", "data " + notWanted},
	} {
		t.Run(c.name, func(t *testing.T) {
			mark := func(who string) string { return fmt.Sprintf("%s-%d", who, i) }
			to := func(who string) (refusal string) {
				return send(t, c.listener, c.client, nil, c.from, who+"@capulet.example", letter(c.author, mark(who)))
			}
			if refusal := to("juliet"); refusal != "" {
				t.Fatalf("juliet: %s", refusal)
			}
			got := w.arrived(t, mark("juliet"))
			head, _, _ := strings.Cut(strings.ReplaceAll(got, "\r\n\t", " "), "\r\nReceived:")
			tag, results, _ := strings.Cut(head, "\r\n")
			if tag != "X-Mail-Trust: "+c.tag || !strings.HasPrefix(results, "Authentication-Results: capulet.example; ") || !strings.Contains(results, c.results) {
				t.Errorf("juliet has\n%s\nwant %s, %s", head, c.tag, c.results)
			}

			denied, unknown := to("nurse"), to("nobody")
			if denied != c.denied || unknown != c.unknown {
				t.Errorf("denied with %q, want %q; nobody: %q, want %q", denied, c.denied, unknown, c.unknown)
			}
			if c.denied == "" {
				if got := w.arrived(t, mark("nurse")); !strings.HasPrefix(strings.ReplaceAll(got, "\r\n\t", " "), "X-Mail-Trust: "+c.tag+"\r\n") {
					t.Errorf("nurse has\n%.400s", got)
				}
			}
		})
	}
	for _, m := range w.mailboxes.Got() {
		if strings.Contains(m, "Subject: nobody") {
			t.Errorf("who does not exist has\n%s", m)
		}
	}
}
