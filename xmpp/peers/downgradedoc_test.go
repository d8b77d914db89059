package peers

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write docs/downgrade.md anew")

const downgradeDoc = "../../docs/downgrade.md"

// TestDowngradeDocument keeps docs/downgrade.md what TestDowngrade shows.
func TestDowngradeDocument(t *testing.T) {
	want := document()
	if *update {
		if err := os.WriteFile(downgradeDoc, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(downgradeDoc)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("%s differs from the tests: go test ./xmpp/peers -run TestDowngradeDocument -update", downgradeDoc)
	}
}

func document() string {
	var b strings.Builder
	b.WriteString(`# Downgrade: where mail goes when XMPP fails

Made from the tests of ` + "`xmpp/peers`" + ` (` + "`TestDowngrade`" + `), which play every cell with a DNS server and real
streams and check outcome and reason; a test fails when this file differs. The rules are section 4.3 of
` + "`xep-draft.md`" + `.

"Defer" keeps the mail in the queue, and it is tried again over XMPP; "SMTP" hands it on by SMTP under the
policies that SMTP has; "defer, then SMTP" means that the attempt which finds out defers, and the next one
goes by SMTP.

## What is known of the domain

| standing | meaning |
|---|---|
`)
	for _, r := range rows() {
		fmt.Fprintf(&b, "| %s | %s |\n", r.name, r.meaning)
	}
	b.WriteString("\n## What happens now\n\nIn the column `_xmpps-mail` the answers of DNS are those for the host that the records name; in those with a\nservice everything happens to the service, and the chat server of the domain is well.\n\n| situation | meaning |\n|---|---|\n")
	for _, c := range columns() {
		fmt.Fprintf(&b, "| %s | %s |\n", c.name, c.meaning)
	}
	b.WriteString("\n## Where the mail goes\n\n| |")
	for _, r := range rows() {
		fmt.Fprintf(&b, " %s |", r.name)
	}
	b.WriteString("\n|---|" + strings.Repeat("---|", len(rows())) + "\n")
	for _, c := range columns() {
		fmt.Fprintf(&b, "| %s |", c.name)
		for _, r := range rows() {
			fmt.Fprintf(&b, " %s |", expected(r, c).end)
		}
		b.WriteString("\n")
	}
	b.WriteString("\n## Why\n\nThe words that the log, the queue and a notification give.\n\n| situation | reason | of |\n|---|---|---|\n")
	for _, c := range columns() {
		for _, why := range reasons(c) {
			fmt.Fprintf(&b, "| %s | %s | %s |\n", c.name, why.text, strings.Join(why.rows, ", "))
		}
	}
	b.WriteString(`
## Why not otherwise

- The chat server of a domain whose feature was seen elsewhere does not end its standing: whoever hides the
  ` + "`_xmpps-mail`" + ` records would make it speak for the mail service. Where DNSSEC proves that there are no such
  records, it does, if the resolver validates; one that does not proves nothing.
- While the ` + "`_xmpps-mail`" + ` records cannot be looked up, a chat server's answer ends nothing and is not
  remembered for a day: the records may lead to a service that takes mail. When they are found, they outrank
  what a chat server has said or failed in before; only the mail service's own answer stands against them.
- A certificate that does not prove a domain of which nothing is known is held against it for ten minutes,
  and not in the store: a proof may have been missing because DNS or a web server failed.
- Nodes share what they know. A failure at one node takes nothing from a domain that another has seen or
  pinned.
- Absence in DNS, signed or not, is not the domain's word on a stream: for a domain that is held to XMPP it
  defers. A domain that gives up this transport says so on a stream, or publishes a withdrawal (section 4.4
  of the draft), which ends the standings "seen" and "pinned" at once.
- A server that is proven and has no bidirectional streams cannot take mail. Where the domain is held to
  XMPP it is asked for its features over two streams, and its answer counts as any other.
- A service of another name that cannot be asked is passed over where nothing is known of the domain: chat
  servers list much that no stream leads to. Where the domain's mail was seen to go through it, a failure
  defers for as long as the domain lists it.
- Required means required: only the operator ends it. Preferred means that every failure goes by SMTP,
  whatever the domain says of itself.
`)
	return b.String()
}

type reason struct {
	text string
	rows []string
}

// reasons groups the rows of a column by their reason.
func reasons(c happening) []reason {
	var out []reason
	for _, r := range rows() {
		why := expected(r, c).why
		i := slices.IndexFunc(out, func(o reason) bool { return o.text == why })
		if i < 0 {
			i, out = len(out), append(out, reason{text: why})
		}
		out[i].rows = append(out[i].rows, r.name)
	}
	return out
}
