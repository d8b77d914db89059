package verdicts

import (
	"fmt"
	"strings"
	"testing"
)

// TestAuthors: what can be done with From, by somebody whose own domain is in
// order: whom the recipient has permitted gains him nothing, and what he does is
// told to who takes all mail. Mail of which nobody can tell who wrote it is no
// better than forged mail to who refuses that.
func TestAuthors(t *testing.T) {
	w := start(t)
	const notWanted = "data 550 5.7.1 recipient has not permitted this sender"
	for i, c := range []struct {
		name, header string
		tag, reason  string // at juliet's, who takes all
		denied       string // at nurse's, who has permitted f@friend.example
		strict       string // at tybalt's, who refuses forged mail; begins so
	}{
		{"the permitted author", "From: <f@friend.example>\r\n", "permitted; ", "", "", ""},
		{"another of the domain", "From: <a@friend.example>\r\n", "authenticated; ", "", notWanted, ""},
		{"two mailboxes", "From: <f@friend.example>, <a@friend.example>\r\n", "authenticated; ", "several authors", notWanted, ""},
		{"two mailboxes of two domains", "From: <f@friend.example>, <x@stranger.example>\r\n", "", "several authors", notWanted, ""},
		{"two From fields", "From: <f@friend.example>\r\nFrom: <a@friend.example>\r\n", "", "several From fields", notWanted, "data 550 5.7.1 "},
		{"no From", "", "", "no From", notWanted, "data 550 5.7.1 "},
		{"From of nobody", "From: undisclosed-senders:;\r\n", "", "From cannot be read", notWanted, "data 550 5.7.1 "},
		{"an encoded word for an address", "From: =?utf-8?Q?f=40friend.example?= <=?utf-8?Q?f?=@friend.example>\r\n", "", "an encoded word where the address is", notWanted, "data 550 5.7.1 "},
		{"the permitted author as the name", "From: \"f@friend.example\" <a@friend.example>\r\n", "authenticated; ", "the display name shows another address", notWanted, ""},
		{"and encoded", "From: =?utf-8?B?ZkBmcmllbmQuZXhhbXBsZQ==?= <a@friend.example>\r\n", "authenticated; ", "the display name shows another address", notWanted, ""},
		{"a name that turns around", "From: =?utf-8?Q?=E2=80=AEelpmaxe?= <a@friend.example>\r\n", "authenticated; ", "invisible or direction characters", notWanted, ""},
	} {
		mark := func(who string) string { return fmt.Sprintf("author-%s-%d", who, i) }
		to := func(who string) string {
			return send(t, w.judged, good, nil, "a@friend.example", who+"@capulet.example", c.header+
				"Message-ID: <"+mark(who)+"@x.example>\r\nSubject: "+mark(who)+"\r\n\r\nbody\r\n")
		}
		if refusal := to("juliet"); refusal != "" {
			t.Errorf("%s: juliet: %s", c.name, refusal)
			continue
		}
		tag, _, _ := strings.Cut(strings.ReplaceAll(w.arrived(t, mark("juliet")), "\r\n\t", " "), "\r\n")
		verdict := strings.TrimPrefix(tag, "X-Mail-Trust: ")
		if !strings.HasPrefix(verdict, c.tag) || !strings.Contains(verdict, c.reason) || c.tag == "" && (strings.HasPrefix(verdict, "permitted") || strings.HasPrefix(verdict, "authenticated")) {
			t.Errorf("%s: %s, want %s%s", c.name, tag, c.tag, c.reason)
		}
		if got := to("nurse"); got != c.denied {
			t.Errorf("%s: nurse: %q, want %q", c.name, got, c.denied)
		}
		if got := to("tybalt"); (got == "") != (c.strict == "") || !strings.HasPrefix(got, c.strict) {
			t.Errorf("%s: tybalt: %q, want %q", c.name, got, c.strict)
		}
	}
}
