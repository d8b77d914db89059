package transfer

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"mailxmppd/mail"
	"mailxmppd/schema"
	"mailxmppd/xmpp/wire"
)

func draft(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("../../docs/xep-draft.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// examples returns the draft's XML examples, freshly parsed.
func examples(t *testing.T) []*wire.Element {
	t.Helper()
	var out []*wire.Element
	for _, m := range regexp.MustCompile("(?s)```xml\n(.*?)```").FindAllStringSubmatch(draft(t), -1) {
		out = append(out, parse(t, m[1]))
	}
	return out
}

// payload returns what an example carries: the child of the IQ, or the
// application-specific condition of a stanza error.
func payload(t *testing.T, iq *wire.Element) *wire.Element {
	t.Helper()
	if len(iq.Children) != 1 || !iq.HasAttr("from") || !iq.HasAttr("to") || !iq.HasAttr("id") {
		t.Fatalf("example is not an addressed IQ with one payload: %+v", iq)
	}
	p := iq.Children[0]
	if iq.Attr("type") != "error" {
		return p
	}
	if f := p.Child(Namespace, "failure"); f != nil {
		return f
	}
	t.Fatal("stanza error without failure")
	return nil
}

func TestDraftExamplesFollowTheSchema(t *testing.T) {
	xmllint, err := exec.LookPath("xmllint")
	if err != nil {
		if os.Getenv("MAILXMPPD_LAB") == "optional" {
			t.Log("xmllint is not installed: examples are not validated")
			return
		}
		t.Fatal("xmllint is not installed (package libxml2-utils)")
	}
	dir := t.TempDir()
	xsd := filepath.Join(dir, "mail-transport.xsd")
	write(t, xsd, []byte(schema.MailTransport()))
	args := []string{"--noout", "--nonet", "--schema", xsd}
	for i, iq := range examples(t) {
		p := payload(t, iq)
		if p.Name.Space != Namespace {
			continue
		}
		file := filepath.Join(dir, fmt.Sprintf("%d-%s.xml", i, p.Name.Local))
		write(t, file, serialise(t, p))
		args = append(args, file)
	}
	if out, err := exec.Command(xmllint, args...).CombinedOutput(); err != nil {
		t.Errorf("xmllint: %v\n%s", err, out)
	}
	// The check itself can fail: an attribute that is wrong is found.
	bad := filepath.Join(dir, "bad.xml")
	write(t, bad, []byte("<commit xmlns='"+Namespace+"' tid='1'/>"))
	if err := exec.Command(xmllint, "--noout", "--nonet", "--schema", xsd, bad).Run(); err == nil {
		t.Error("xmllint takes a wrong transfer id")
	}
}

func write(t *testing.T, file string, b []byte) {
	t.Helper()
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// serialise writes an element as it was read, white space between elements
// left out.
func serialise(t *testing.T, el *wire.Element) []byte {
	t.Helper()
	e := wire.NewEncoder(nil)
	var add func(*wire.Element)
	add = func(el *wire.Element) {
		e.Start(el.Name.Local, el.Name.Space)
		for _, a := range el.Attrs {
			e.Attr(a.Name.Local, a.Value)
		}
		for _, c := range el.Children {
			add(c)
		}
		if text := strings.TrimSpace(string(el.Text)); text != "" {
			e.Text(text)
		}
		e.End()
	}
	add(el)
	b, err := e.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// canonical is serialise with the attributes in order.
func canonical(t *testing.T, el *wire.Element) string {
	t.Helper()
	var sort func(*wire.Element)
	sort = func(el *wire.Element) {
		slices.SortFunc(el.Attrs, func(a, b wire.Attr) int { return strings.Compare(a.Name.Local, b.Name.Local) })
		for _, c := range el.Children {
			sort(c)
		}
	}
	sort(el)
	return string(serialise(t, el))
}

// TestDraftExamplesRoundTrip decodes every example with the code that decodes
// requests and answers, encodes it with theirs, and compares.
func TestDraftExamplesRoundTrip(t *testing.T) {
	seen := map[string]bool{}
	whole, again := examples(t), examples(t) // decoding uses the text up
	for i, iq := range whole {
		p := payload(t, iq)
		seen[p.Name.Local] = true
		got, err := recode(t, iq, p)
		if err != nil {
			t.Errorf("example %d (%s): %v", i+1, p.Name.Local, err)
			continue
		}
		if want, got := canonical(t, payload(t, again[i])), canonical(t, parse(t, string(got))); want != got {
			t.Errorf("example %d changed:\n%s\n%s", i+1, want, got)
		}
	}
	for _, name := range []string{
		"query", "offer", "accepted", "refused", "ready", "chunk", "next", "commit", "status", "unknown", "abort", "check", "verdicts", "failure",
	} {
		if !seen[name] {
			t.Errorf("the draft has no example of %s", name)
		}
	}
}

func recode(t *testing.T, iq, p *wire.Element) ([]byte, error) {
	now := time.Unix(1e9, 0)
	switch p.Name.Local {
	case "query":
		return recodeDisco(t, p)
	case "offer":
		o, f := decodeOffer(p, now)
		if f != nil {
			return nil, f
		}
		for _, r := range o.rcpts {
			if r.bad != nil {
				return nil, r.bad
			}
		}
		if o.inline {
			scan := newScanner()
			scan.Write(o.content)
			if f := scan.verify(o); f != nil {
				return nil, f
			}
			if id := mail.TransferID(o.env.Sender, scan.facts.Facts()); id != o.tid {
				return nil, fmt.Errorf("transfer id is not that of section 5.1, %s", id)
			}
		}
		return encodeWhole(t, o, now), nil
	case "check":
		env, rcpts, f := decodeCheck(p)
		return orFailure(f)(encodeCheck(env.Sender, env.SMTPUTF8, rcpts))
	case "status":
		tid, rcpts, f := decodeStatus(p)
		return orFailure(f)(encodeStatus(tid, rcpts))
	case "chunk":
		tid, offset, piece, f := decodeChunk(p)
		return orFailure(f)(encodeChunk(nil, tid, offset, piece))
	case "commit", "abort":
		tid, f := decodeTID(p)
		return orFailure(f)(encodeTID(p.Name.Local, tid))
	case "failure":
		return recodeError(iq)
	}
	a, err := decodeAnswer("montague.example", p.Attr("tid"), p)
	if err != nil {
		return nil, err
	}
	return a.encode()
}

func orFailure(f *mail.Failure) func([]byte, error) ([]byte, error) {
	return func(b []byte, err error) ([]byte, error) {
		if f != nil {
			return nil, f
		}
		return b, err
	}
}

// recodeDisco goes through the form; other features of the example are kept
// as they are.
func recodeDisco(t *testing.T, p *wire.Element) ([]byte, error) {
	caps, ok := FromDisco(p)
	if len(p.Children) == 0 {
		return serialise(t, p), nil
	}
	if !ok {
		return nil, fmt.Errorf("the feature is not seen")
	}
	info, err := caps.DiscoInfo()
	if err != nil {
		return nil, err
	}
	b := bytes.Replace(info, []byte("<feature"), []byte("<feature var='"+discoInfo+"'/><feature"), 1)
	return fmt.Appendf(nil, "<query xmlns='%s'>%s</query>", discoInfo, b), nil
}

// recodeError goes through the stanza error: its failure, and its condition,
// type and text.
func recodeError(iq *wire.Element) ([]byte, error) {
	el := iq.Children[0]
	var condition, text string
	for _, c := range el.Children {
		switch {
		case c.Name.Space != "urn:ietf:params:xml:ns:xmpp-stanzas":
		case c.Name.Local == "text":
			text = string(c.Text)
		default:
			condition = c.Name.Local
		}
	}
	f := failureOf("montague.example", condition, text, el.Child(Namespace, "failure"))
	r := replyError(f)
	if r.Error.Condition != condition || r.Error.Text != text || r.Error.Type != el.Attr("type") {
		return nil, fmt.Errorf("stanza error changed: %+v", r.Error)
	}
	return r.Error.App, nil
}

func TestDraftNumbersExamples(t *testing.T) {
	n := 0
	for _, m := range regexp.MustCompile(`(?m)^Example (\d+)\.`).FindAllStringSubmatch(draft(t), -1) {
		if n++; m[1] != fmt.Sprint(n) {
			t.Errorf("example %s stands where example %d should", m[1], n)
		}
	}
	if n != len(examples(t)) {
		t.Errorf("%d captions for %d examples", n, len(examples(t)))
	}
	for i, line := range strings.Split(draft(t), "\n") {
		if len(line) > 110 && !strings.HasPrefix(line, "| ") { // a row cannot be broken
			t.Errorf("line %d has %d octets", i+1, len(line))
		}
	}
}

// failureTable prints the code's failure table as the draft has it.
func failureTable() string {
	b := "| condition | type | SMTP | status | meaning |\n|---|---|---|---|---|\n"
	for _, r := range mail.Failures() {
		f := mail.Fail(r.Kind, "", nil)
		b += fmt.Sprintf("| %s | %s | %d | %s | %s |\n", r.Condition, r.Type, r.Code, f.Status(), r.Meaning)
	}
	return b
}

func TestDraftFailureTable(t *testing.T) {
	if want := failureTable(); !strings.Contains(draft(t), "\n\n"+want+"\n") {
		t.Errorf("the draft's section 8 must have this table:\n%s", want)
	}
}

func TestDraftConstants(t *testing.T) {
	text := draft(t)
	for _, other := range regexp.MustCompile(`urn:xmpp:mail-transport:\d+`).FindAllString(text+schema.MailTransport(), -1) {
		if other != Namespace {
			t.Errorf("namespace %s, the code's is %s", other, Namespace)
		}
	}
	u := Unstated()
	for name, value := range map[string]any{
		"least chunk": leastChunk, "trace": maxTrace, "hops": mail.MaxHops, "memory": int(memory / time.Second),
		"default max-message": u.MaxMessage, "default max-chunk": u.MaxChunk, "default max-inline": u.MaxInline,
		"default max-rcpt": u.MaxRecipients, "default window": u.Window,
	} {
		if row := fmt.Sprintf("| `%s` | %v |", name, value); !strings.Contains(text, row) {
			t.Errorf("section 7.3 lacks %q", row)
		}
	}
	for field, value := range map[string]any{
		"max-message": u.MaxMessage, "max-chunk": u.MaxChunk, "max-inline": u.MaxInline, "max-rcpt": u.MaxRecipients,
		"window": u.Window, "retain-seconds": int(u.Retain / time.Second), "policy": u.Policy, "max-age": 0, "sends": u.Sends,
	} {
		if !regexp.MustCompile(fmt.Sprintf("(?m)^\\| `%s` \\|.*\\| %v \\|$", field, value)).MatchString(text) {
			t.Errorf("section 4.2: %s is not %v when absent", field, value)
		}
	}
	for _, ext := range []string{ExtDSN, ExtSMTPUTF8, ExtBinary, ExtRequireTLS, ExtDeliverBy, ExtPriority} {
		if !strings.Contains(text, "| `"+ext+"` |") {
			t.Errorf("section 7.2 lacks %s", ext)
		}
	}
	// What a stanza of ours announces is within what the draft's schema names.
	if b, err := json.Marshal(Announced()); err != nil || Announced().MaxChunk < leastChunk || Announced().Retain < memory {
		t.Errorf("announced %s is out of the draft's bounds", b)
	}
}
