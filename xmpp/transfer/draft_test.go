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

const nsStanzaErrors = "urn:ietf:params:xml:ns:xmpp-stanzas"

func draft(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("../../docs/xep-draft.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// example is one stanza that the draft shows.
type example struct {
	n       string
	caption string
	xml     string
}

func (x example) String() string { return "example " + x.n + " (" + x.caption + ")" }

// iq parses the stanza anew: decoding uses text up.
func (x example) iq(t *testing.T) *wire.Element { return parse(t, x.xml) }

func examples(t *testing.T) []example {
	t.Helper()
	var out []example
	for _, m := range regexp.MustCompile("(?m)^Example (\\d+)\\. ([^\n]*)\n\n```xml\n((?s:.*?))```").FindAllStringSubmatch(draft(t), -1) {
		out = append(out, example{m[1], m[2], m[3]})
	}
	if len(out) < 80 {
		t.Fatalf("only %d examples found", len(out))
	}
	return out
}

// wrongOnPurpose maps requests that the draft shows being refused as such to
// what is wrong with them.
var wrongOnPurpose = map[string]string{
	"k2": "unknown attribute", "k3": "sender is not a mailbox",
	"b5": "hash that was offered", "i1": "CR or LF",
}

// payload returns what an example carries: the child of the IQ, or the
// application-specific condition of a stanza error; nil for an empty result
// and for an error of whoever does not know the protocol.
func payload(t *testing.T, x example, iq *wire.Element) *wire.Element {
	t.Helper()
	if !iq.Is("jabber:server", "iq") || len(iq.Children) > 1 || iq.Attr("from") == "" || iq.Attr("to") == "" || iq.Attr("id") == "" {
		t.Fatalf("%s is not an addressed IQ with at most one payload", x)
	}
	switch typ := iq.Attr("type"); {
	case len(iq.Children) == 0 && typ == "result":
		return nil
	case len(iq.Children) == 0:
		t.Fatalf("%s has no payload", x)
	case typ == "error":
		return iq.Children[0].Child(Namespace, "failure")
	}
	return iq.Children[0]
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
	refused := func(file string) bool {
		return exec.Command(xmllint, append(slices.Clone(args[:4]), file)...).Run() != nil
	}
	for _, x := range examples(t) {
		iq := x.iq(t)
		p := payload(t, x, iq)
		if p == nil || p.Name.Space != Namespace {
			continue
		}
		file := filepath.Join(dir, x.n+"-"+p.Name.Local+".xml")
		write(t, file, serialise(t, p))
		if strings.Contains(wrongOnPurpose[iq.Attr("id")], "unknown") && iq.Attr("type") != "error" {
			if !refused(file) {
				t.Errorf("%s follows the schema, and should not", x)
			}
			continue
		}
		args = append(args, file)
	}
	if out, err := exec.Command(xmllint, args...).CombinedOutput(); err != nil {
		t.Errorf("xmllint: %v\n%s", err, out)
	}
	bad := filepath.Join(dir, "bad.xml")
	for _, xml := range []string{
		"<commit xmlns='%s' tid='1'/>", "<check xmlns='%s' sender=''/>", "<expunge xmlns='%s'/>",
		"<check xmlns='%s' sender=''><rcpt to='a@b'/><rcpt to='a@b'/></check>",
	} {
		write(t, bad, fmt.Appendf(nil, xml, Namespace))
		if !refused(bad) {
			t.Errorf("xmllint takes %s", xml)
		}
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
			if a.Name.Space != "" { // the examples have no other one
				a.Name.Local = "xml:" + a.Name.Local
			}
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

// canonical is serialise with the attributes in order; nothing for nil.
func canonical(t *testing.T, el *wire.Element) string {
	t.Helper()
	if el == nil {
		return ""
	}
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
	for _, x := range examples(t) {
		iq := x.iq(t)
		p := payload(t, x, iq)
		id := iq.Attr("id")
		if p == nil || p.Name.Space == discoItems {
			continue
		}
		seen[p.Name.Local] = true
		got, err := recode(t, iq, p)
		if why := wrongOnPurpose[id]; why != "" && iq.Attr("type") != "error" {
			if err == nil || !strings.Contains(err.Error(), why) {
				t.Errorf("%s: got %v, want %s", x, err, why)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", x, err)
			continue
		}
		if want, got := canonical(t, payload(t, x, x.iq(t))), canonical(t, parse(t, string(got))); want != got {
			t.Errorf("%s changed:\n%s\n%s", x, want, got)
		}
	}
	for _, name := range []string{
		"query", "offer", "accepted", "refused", "ready", "chunk", "next", "commit", "status", "unknown", "abort", "check", "verdicts", "failure", "permission",
	} {
		if !seen[name] {
			t.Errorf("the draft has no example of %s", name)
		}
	}
}

const discoItems = "http://jabber.org/protocol/disco#items"

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
			scan := mail.NewScanner()
			scan.Write(o.content)
			if f := verify(scan, o); f != nil {
				return nil, f
			}
			if id := mail.TransferID(o.env.Sender, scan.Facts()); id != o.tid {
				return nil, fmt.Errorf("transfer id is not that of section 5.1, %s", id)
			}
		}
		return encodeWhole(t, o, now), nil
	case "check":
		env, rcpts, f := decodeCheck(p)
		for i := range rcpts { // what is no mailbox cannot be written
			if rcpts[i].bad != nil && f == nil {
				return serialise(t, p), nil
			}
		}
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
	case "permission":
		perm, f := decodePermission(p)
		return orFailure(f)(encodePermission(perm))
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

// recodeDisco goes through the form; other features and identities of the
// example are kept as they are.
func recodeDisco(t *testing.T, p *wire.Element) ([]byte, error) {
	caps, ok := FromDisco(p)
	if !ok {
		return serialise(t, p), nil
	}
	info, err := caps.DiscoInfo()
	if err != nil {
		return nil, err
	}
	b := bytes.Replace(info, []byte("<feature"), []byte("<feature var='"+discoInfo+"'/><feature"), 1)
	return fmt.Appendf(nil, "<query xmlns='%s'>%s</query>", discoInfo, b), nil
}

// stanzaError reads condition and text of an example's <error/>.
func stanzaError(el *wire.Element) (condition, text string) {
	for _, c := range el.Children {
		switch {
		case c.Name.Space != nsStanzaErrors:
		case c.Name.Local == "text":
			text = string(c.Text)
		default:
			condition = c.Name.Local
		}
	}
	return condition, text
}

// recodeError goes through the stanza error: its failure, and its condition,
// type and text.
func recodeError(iq *wire.Element) ([]byte, error) {
	el := iq.Children[0]
	condition, text := stanzaError(el)
	r := replyError(failureOf("montague.example", condition, text, el.Child(Namespace, "failure")))
	if r.Error.Condition != condition || r.Error.Text != text || r.Error.Type != el.Attr("type") {
		return nil, fmt.Errorf("stanza error changed: %+v", r.Error)
	}
	return r.Error.App, nil
}

// longest finds the largest n from 10 on up to which ok holds.
func longest(ok func(n int) bool) int {
	n := 10
	for ok(n+1) && n < 10000 {
		n++
	}
	return n
}

// offerAccepts reports whether an offer with this mailbox, envelope id and
// original recipient is read.
func offerAccepts(to, envid, orcpt string) bool {
	el, err := parseElement(fmt.Appendf(nil, "<offer xmlns='%s' tid='%064d' size='0' sha-256='%s=' sender='' hops='0' envid='%s'>"+
		"<rcpt to='%s' orcpt='%s'/></offer>", Namespace, 0, strings.Repeat("A", 43), envid, to, orcpt))
	if err != nil {
		return false
	}
	o, f := decodeOffer(el, time.Now())
	return f == nil && o.rcpts[0].bad == nil
}

// TestDraftExtensions holds section 7.2 against what fit does for a domain
// that lists every extension but one.
func TestDraftExtensions(t *testing.T) {
	_, section, _ := strings.Cut(draft(t), "\n### 7.2 ")
	all := []string{ExtDSN, ExtSMTPUTF8, ExtBinary, ExtRequireTLS, ExtDeliverBy, ExtPriority, ExtGrants}
	priority := 1
	byMode := func(mode byte) mail.Envelope { return mail.Envelope{DeliverBy: &mail.DeliverBy{Mode: mode}} }
	for ext, envelopes := range map[string][]mail.Envelope{ // those that fail, then those that lose something
		ExtDSN:        {{}, {Return: "FULL", EnvelopeID: "x", Recipients: []mail.Recipient{{Notify: mail.NotifyNever, Original: "x;y"}}}},
		ExtSMTPUTF8:   {{SMTPUTF8: true}, {}},
		ExtBinary:     {{Body: mail.BodyBinaryMIME}, {}},
		ExtRequireTLS: {{RequireTLS: true}, {}},
		ExtDeliverBy:  {byMode('R'), byMode('N')},
		ExtPriority:   {{}, {Priority: &priority}},
		ExtGrants:     {{}, {Recipients: []mail.Recipient{{Grant: "0123456789abcdef"}}}},
	} {
		row := regexp.MustCompile("(?m)^\\| `" + ext + "` \\|.*$").FindString(section)
		without := Capabilities{Extensions: slices.DeleteFunc(slices.Clone(all), func(e string) bool { return e == ext })}
		status := regexp.MustCompile(`fails, (5[.0-9]+)`).FindStringSubmatch(row)
		_, f := fit(envelopes[0], without)
		if (f != nil) != (status != nil) || f != nil && f.Status() != status[1] {
			t.Errorf("%s: %v, the draft says %q", ext, f, row)
		}
		out, f := fit(envelopes[1], without)
		if lost := fmt.Sprintf("%+v", out) != fmt.Sprintf("%+v", envelopes[1]); f != nil || lost != strings.Contains(row, "left out") {
			t.Errorf("%s: %+v became %+v, %v; the draft says %q", ext, envelopes[1], out, f, row)
		}
		if ext != ExtGrants && !regexp.MustCompile("(?m)^\\|.*\\| carried \\|.*`"+ext+"`").MatchString(draft(t)) { // which SMTP has not
			t.Errorf("section 7.5 does not carry %s", ext)
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

// TestDraftTrace holds what section 5.2 says of a trace against what is read.
func TestDraftTrace(t *testing.T) {
	text := strings.Join(strings.Fields(draft(t)), " ")
	for says, traces := range map[string][]string{
		"whole header fields":                             {" folded: before any field\r\n", "no field\r\n", "A: b\r\nno field\r\n"},
		"with CRLF line ends":                             {"A: b", "A: b\n", "A: b\r\nC: d"},
		"UTF-8 without control characters other than tab": {"A: \xff\r\n", "A: \x00\r\n", "A: b\rC: d\r\n", "A: \x7f\r\n"},
		"no line that is blank":                           {"\r\n", "A: b\r\n\r\n", "A: b\r\n \t\r\n"},
		"field names of printable ASCII":                  {"é: b\r\n", "A : b\r\n", ": b\r\n"},
	} {
		if !strings.Contains(text, says) {
			t.Errorf("section 5.2 does not say %q", says)
		}
		for _, trace := range traces {
			if checkTrace([]byte(trace)) == nil {
				t.Errorf("%q is taken, against %q", trace, says)
			}
		}
	}
	if err := checkTrace([]byte("A: b\r\n\tfölded\r\nC:\r\n")); err != nil {
		t.Errorf("a trace that follows section 5.2: %v", err)
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
		"retry-after": maxRetryAfter,
		"trace line":  longest(func(n int) bool { return checkTrace([]byte("a:"+strings.Repeat("b", n-2)+"\r\n")) == nil }),
		"mailbox": longest(func(n int) bool {
			return offerAccepts("a@"+("b"+strings.Repeat("."+"bbb", (n-3)/4)+"bbb"[:(n-3)%4]), "e", "o;o")
		}),
		"envid":               longest(func(n int) bool { return offerAccepts("a@b.example", strings.Repeat("e", n), "o;o") }),
		"orcpt":               longest(func(n int) bool { return offerAccepts("a@b.example", "e", strings.Repeat("o", n)) }),
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
		"serves": "the name that was asked",
	} {
		if !regexp.MustCompile(fmt.Sprintf("(?m)^\\| `%s` \\|.*\\| %v \\|$", field, value)).MatchString(text) {
			t.Errorf("section 4.2: %s is not %v when absent", field, value)
		}
	}
	if b, err := json.Marshal(Announced()); err != nil || Announced().MaxChunk < leastChunk || Announced().Retain < memory {
		t.Errorf("announced %s is out of the draft's bounds", b)
	}
}
