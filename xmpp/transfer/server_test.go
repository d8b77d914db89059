package transfer

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
	"mailxmppd/xmpp/stream"
)

var montague = mail.Binding{Local: "montague.example", Remote: "capulet.example", Proof: "pkix", TLS: "TLS1.3 X", Addr: "192.0.2.1:5270"}

// ask hands a raw request to the server and sums its answer up: the element's
// name with a word for each recipient, or the error's condition and status.
func (x *setup) ask(t *testing.T, b mail.Binding, typ, payload string) string {
	t.Helper()
	el, err := readReply(x.server.handle(context.Background(), b, typ, parseBinary(t, payload)))
	if err != nil {
		se, ok := errors.AsType[*stream.StanzaError](err)
		if !ok {
			t.Fatal(err)
		}
		f := fromStanzaError(b.Local, se)
		return "error " + f.Condition + " " + f.Status()
	}
	if el == nil {
		return "empty"
	}
	s := el.Name.Local
	switch el.Name.Local {
	case "ready":
		s += " " + el.Attr("next")
	case "next":
		s += " " + el.Attr("offset")
	}
	for _, c := range el.Children {
		switch f := c.Child(Namespace, "failure"); {
		case f != nil:
			s += " " + f.Attr("condition")
		case c.HasAttr("queue-id"):
			s += " id"
		default:
			s += " ok"
		}
	}
	return s
}

const tid1 = "1111111111111111111111111111111111111111111111111111111111111111"

// offerXML makes an offer for content, with the attributes in more added and
// those named there left out before.
func offerXML(content []byte, inline bool, attrs map[string]string, children string) string {
	f := attemptOf(content).Facts
	all := map[string]string{
		"tid": tid1, "size": fmt.Sprint(len(content)), "sha-256": base64.StdEncoding.EncodeToString(f.SHA256[:]),
		"sender": "juliet@capulet.example", "hops": "0",
	}
	for k, v := range attrs {
		all[k] = v
	}
	b := "<offer xmlns='" + Namespace + "'"
	for k, v := range all {
		if v != "-" {
			b += " " + k + "='" + v + "'"
		}
	}
	if children == "" {
		children = "<rcpt to='romeo@montague.example'/>"
	}
	b += ">" + children
	if inline {
		b += "<content>" + base64.StdEncoding.EncodeToString(content) + "</content>"
	}
	return b + "</offer>"
}

func chunkXML(tid string, offset int, p []byte) string {
	return fmt.Sprintf("<chunk xmlns='%s' tid='%s' offset='%d'>%s</chunk>", Namespace, tid, offset, base64.StdEncoding.EncodeToString(p))
}

func named(name, tid string) string {
	return fmt.Sprintf("<%s xmlns='%s' tid='%s'/>", name, Namespace, tid)
}

func statusXML(tid string, to ...string) string {
	s := fmt.Sprintf("<status xmlns='%s' tid='%s'>", Namespace, tid)
	for _, r := range to {
		s += "<rcpt to='" + r + "@montague.example'/>"
	}
	return s + "</status>"
}

func TestOffers(t *testing.T) {
	body := text(100)
	wrong := strings.Repeat("A", 43) + "="
	trace := func(s string) string {
		return "<rcpt to='romeo@montague.example'/><trace>" + base64.StdEncoding.EncodeToString([]byte(s)) + "</trace>"
	}
	for _, c := range []struct {
		name     string
		attrs    map[string]string
		children string
		content  []byte
		want     string
	}{
		{"plain", nil, "", body, "accepted id"},
		{"null sender", map[string]string{"sender": ""}, "", body, "accepted id"},
		{"upper-case domains", map[string]string{"sender": "j@CAPULET.example"}, "<rcpt to='romeo@Montague.Example'/>", body, "accepted id"},
		{"foreign namespace ignored", nil, "<rcpt to='a@montague.example'><x xmlns='urn:x'/></rcpt><y xmlns='urn:y'/>", body, "accepted id"},

		{"foreign sender", map[string]string{"sender": "x@verona.example"}, "", body, "error forbidden 5.7.1"},
		{"sender of a subdomain", map[string]string{"sender": "x@sub.capulet.example"}, "", body, "error forbidden 5.7.1"},
		{"sender of the receiver", map[string]string{"sender": "x@montague.example"}, "", body, "error forbidden 5.7.1"},
		{"sender not a mailbox", map[string]string{"sender": "x y@capulet.example"}, "", body, "error jid-malformed 5.1.3"},
		{"sender without domain", map[string]string{"sender": "postmaster"}, "", body, "error bad-request 4.5.2"},
		{"sender missing", map[string]string{"sender": "-"}, "", body, "error bad-request 4.5.2"},
		{"relaying", nil, "<rcpt to='x@verona.example'/>", body, "refused forbidden"},
		{"relaying besides", nil, "<rcpt to='x@verona.example'/><rcpt to='romeo@montague.example'/>", body, "accepted forbidden id"},
		{"bad recipient besides", nil, "<rcpt to='x@@montague.example'/><rcpt to='romeo@montague.example'/>", body, "accepted jid-malformed id"},
		{"postmaster without domain", nil, "<rcpt to='postmaster'/>", body, "refused forbidden"},
		{"no recipient", nil, "<trace/>", body, "error bad-request 4.5.2"},
		{"recipient twice", nil, "<rcpt to='romeo@montague.example'/><rcpt to='romeo@MONTAGUE.example'/>", body, "error bad-request 4.5.2"},
		{"UTF-8 without smtputf8", nil, "<rcpt to='rö@montague.example'/>", body, "refused not-acceptable"},
		{"UTF-8 sender without smtputf8", map[string]string{"sender": "rö@capulet.example"}, "", body, "error not-acceptable 5.6.7"},
		{"UTF-8 with smtputf8", map[string]string{"smtputf8": "1"}, "<rcpt to='rö@montague.example'/>", body, "accepted id"},
		{"requiretls not announced", map[string]string{"requiretls": "true"}, "", body, "error policy-violation 5.7.30"},

		{"tid upper case", map[string]string{"tid": strings.Repeat("A", 64)}, "", body, "error bad-request 4.5.2"},
		{"tid short", map[string]string{"tid": "11"}, "", body, "error bad-request 4.5.2"},
		{"size missing", map[string]string{"size": "-"}, "", body, "error bad-request 4.5.2"},
		{"size negative", map[string]string{"size": "-5"}, "", body, "error bad-request 4.5.2"},
		{"size endless", map[string]string{"size": strings.Repeat("9", 19)}, "", body, "error bad-request 4.5.2"},
		{"too large", map[string]string{"size": "52428801"}, "", body, "error policy-violation 5.3.4"},
		{"size wrong", map[string]string{"size": "99"}, "", body, "error bad-request 4.5.2"},
		{"hash wrong", map[string]string{"sha-256": wrong}, "", body, "error bad-request 4.5.2"},
		{"hash short", map[string]string{"sha-256": "AAAA"}, "", body, "error bad-request 4.5.2"},
		{"looping", map[string]string{"hops": "101"}, "", body, "error policy-violation 5.4.6"},
		{"looping by content", nil, "", []byte(strings.Repeat("Received: x\r\n", 101)), "error policy-violation 5.4.6"},
		{"100 hops", map[string]string{"hops": "100"}, "", []byte(strings.Repeat("Received: x\r\n", 100)), "accepted id"},
		{"101st hop in the trace", nil, trace("Received: x\r\n"), []byte(strings.Repeat("Received: x\r\n", 100)), "error policy-violation 5.4.6"},
		{"unknown attribute", map[string]string{"colour": "red"}, "", body, "error bad-request 4.5.2"},
		{"unknown element", nil, "<rcpt to='romeo@montague.example'/><colour/>", body, "error bad-request 4.5.2"},
		{"body unknown", map[string]string{"body": "9BIT"}, "", body, "error bad-request 4.5.2"},
		{"ret unknown", map[string]string{"ret": "SOME"}, "", body, "error bad-request 4.5.2"},
		{"notify NEVER and more", nil, "<rcpt to='a@montague.example' notify='NEVER SUCCESS'/>", body, "error bad-request 4.5.2"},
		{"notify empty", nil, "<rcpt to='a@montague.example' notify=''/>", body, "error bad-request 4.5.2"},
		{"envid with line end", map[string]string{"envid": "x&#10;y"}, "", body, "error bad-request 4.5.2"},
		{"orcpt with line end", nil, "<rcpt to='a@montague.example' orcpt='rfc822;&#13;&#10;RCPT'/>", body, "error bad-request 4.5.2"},
		{"by without mode", map[string]string{"by": "5"}, "", body, "error bad-request 4.5.2"},
		{"by R in the past", map[string]string{"by": "-5", "by-mode": "R"}, "", body, "error bad-request 4.5.2"},
		{"by N in the past", map[string]string{"by": "-5", "by-mode": "N"}, "", body, "accepted id"},
		{"priority 10", map[string]string{"priority": "10"}, "", body, "error bad-request 4.5.2"},
		{"flag wrong", map[string]string{"smtputf8": "yes"}, "", body, "error bad-request 4.5.2"},

		{"bare LF", nil, "", []byte("a: b\r\n\r\nx\ny\r\n"), "error not-acceptable 5.6.0"},
		{"bare CR", nil, "", []byte("a: b\r\n\r\nx\ry\r\n"), "error not-acceptable 5.6.0"},
		{"a folded first line", nil, "", []byte(" permitted\r\na: b\r\n\r\nx\r\n"), "error not-acceptable 5.6.0"},
		{"a folded first line in binary", map[string]string{"body": "BINARYMIME"}, "", []byte("\tpermitted\r\n"), "error not-acceptable 5.6.0"},
		{"CR at the end", nil, "", []byte("a: b\r\n\r\nx\r"), "error not-acceptable 5.6.0"},
		{"bare LF in binary", map[string]string{"body": "BINARYMIME"}, "", []byte("a: b\r\n\r\nx\ny\x00\r\n"), "accepted id"},
		{"empty content", nil, "", nil, "accepted id"},
		{"trace", nil, trace("Received: x\r\n\ty\r\nX-Y: z\r\n"), body, "accepted id"},
		{"trace with a body", nil, trace("Received: x\r\n\r\nbody\r\n"), body, "error bad-request 4.5.2"},
		{"trace without CRLF", nil, trace("Received: x\n"), body, "error bad-request 4.5.2"},
		{"trace cut off", nil, trace("Received: x\r\nX: y"), body, "error bad-request 4.5.2"},
		{"trace no field", nil, trace("Received\r\n"), body, "error bad-request 4.5.2"},
		{"trace folded first", nil, trace(" Received: x\r\n"), body, "error bad-request 4.5.2"},
		{"trace blank line of spaces", nil, trace("R: x\r\n \r\n"), body, "error bad-request 4.5.2"},
		{"trace with NUL", nil, trace("R: x\x00\r\n"), body, "error bad-request 4.5.2"},
		{"trace with bare CR", nil, trace("R: x\ry\r\n"), body, "error bad-request 4.5.2"},
		{"trace too long", nil, trace(strings.Repeat("R: x\r\n", 11000)), body, "error bad-request 4.5.2"},
		{"trace twice", nil, trace("R: x\r\n") + "<trace/>", body, "error bad-request 4.5.2"},
		{"trace not base64", nil, "<rcpt to='romeo@montague.example'/><trace>?</trace>", body, "error bad-request 4.5.2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := newSetup()
			if got := x.ask(t, montague, "set", offerXML(c.content, true, c.attrs, c.children)); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
			if stored := len(x.store.all()); (stored == 1) != strings.HasPrefix(c.want, "accepted") {
				t.Errorf("%d messages stored", stored)
			}
		})
	}
}

func TestBase64(t *testing.T) {
	for text, ok := range map[string]bool{
		"": true, "YQ==": true, "YWI=": true, "YWJj": true, "YR==": false, "YQ=": false, "YQ": false, "Y": false,
		"YW\nJj": false, " YWJj": false, "YWJj ": false, "YQ==YQ==": false, "YW-_": false, "YWJj====": false,
	} {
		x := newSetup()
		content, _ := base64.StdEncoding.DecodeString(text)
		xml := strings.Replace(offerXML(content, false, nil, ""), "</offer>", "<content>"+text+"</content></offer>", 1)
		got := x.ask(t, montague, "set", xml)
		if ok && got != "accepted id" || !ok && got != "error bad-request 4.5.2" {
			t.Errorf("base64 %q: %s", text, got)
		}
	}
}

func TestChunkRules(t *testing.T) {
	content := text(30000)
	x := newSetup(func(s *ServerConfig, _ *SenderConfig) { s.ChunkWait = 20 * time.Millisecond })
	step := func(want, typ, payload string) {
		t.Helper()
		if got := x.ask(t, montague, typ, payload); got != want {
			t.Fatalf("got %s, want %s", got, want)
		}
	}
	step("unknown", "set", chunkXML(tid1, 0, content[:10000]))
	step("unknown", "set", named("commit", tid1))
	step("unknown", "get", statusXML(tid1, "romeo"))
	step("ready 0 ok", "set", offerXML(content, false, nil, ""))
	step("next 0", "set", chunkXML(tid1, 10000, content[10000:20000])) // missing before
	step("next 10000", "set", chunkXML(tid1, 0, content[:10000]))
	step("next 10000", "set", chunkXML(tid1, 0, content[:10000]))        // replayed
	step("next 10000", "set", chunkXML(tid1, 5000, content[5000:15000])) // overlapping
	step("next 10000", "set", named("commit", tid1))                     // incomplete
	step("error bad-request 4.5.2", "set", chunkXML(tid1, 25000, content[:10000]))
	step("error bad-request 4.5.2", "set", chunkXML(tid1, 999999999999999999-1, content[:10000]))
	step("error bad-request 4.5.2", "set", chunkXML(tid1, 10000, nil))
	step("error bad-request 4.5.2", "set", strings.Replace(chunkXML(tid1, 10000, content[:99]), "</", "?</", 1))
	step("ready 10000", "get", statusXML(tid1, "romeo"))
	step("ready 10000 ok", "set", offerXML(content, false, nil, "")) // again
	step("error conflict 4.5.0", "set", offerXML(text(30001), false, nil, ""))
	step("next 30000", "set", chunkXML(tid1, 10000, content[10000:]))

	// Another domain has no part in it: its keys are its own.
	mallory := montague
	mallory.Remote = "mallory.example"
	if got := x.ask(t, mallory, "set", named("commit", tid1)); got != "unknown" {
		t.Errorf("commit from another domain: %s", got)
	}
	if got := x.ask(t, mallory, "get", statusXML(tid1, "romeo")); got != "unknown" {
		t.Errorf("status from another domain: %s", got)
	}
	if got := x.ask(t, mallory, "set", named("abort", tid1)); got != "empty" {
		t.Errorf("abort from another domain: %s", got)
	}
	step("accepted id", "set", named("commit", tid1))
	step("unknown", "set", named("commit", tid1)) // once only; status tells
	step("accepted id", "get", statusXML(tid1, "romeo", "nobody"))
	step("accepted id", "set", offerXML(content, false, nil, ""))
	step("accepted id jid-malformed", "set", offerXML(content, false, nil, "<rcpt to='romeo@montague.example'/><rcpt to='@'/>"))
	if len(x.store.all()) != 1 {
		t.Errorf("%d messages stored", len(x.store.all()))
	}
}

func TestAbort(t *testing.T) {
	x := newSetup()
	content := text(30000)
	x.ask(t, montague, "set", offerXML(content, false, nil, ""))
	x.ask(t, montague, "set", chunkXML(tid1, 0, content[:10000]))
	for _, want := range []string{"empty", "empty"} {
		if got := x.ask(t, montague, "set", named("abort", tid1)); got != want {
			t.Errorf("abort: %s", got)
		}
	}
	if got := x.ask(t, montague, "get", statusXML(tid1, "romeo")); got != "unknown" {
		t.Errorf("after abort: %s", got)
	}
	if len(x.server.open.slots) != 0 || x.server.open.open != 0 || x.server.open.octets != 0 || len(x.server.open.domain) != 0 {
		t.Errorf("something is left: %+v", x.server.open)
	}
}

func TestWrongHashAtCommit(t *testing.T) {
	x := newSetup()
	content := text(30000)
	x.ask(t, montague, "set", offerXML(content, false, nil, ""))
	content[777] ^= 1
	x.ask(t, montague, "set", chunkXML(tid1, 0, content))
	if got := x.ask(t, montague, "set", named("commit", tid1)); got != "error bad-request 4.5.2" {
		t.Errorf("commit: %s", got)
	}
	content[777] ^= 1
	if got := x.ask(t, montague, "set", offerXML(content, false, nil, "")); got != "ready 0 ok" {
		t.Errorf("offered again: %s", got)
	}
}

// TestBareLineEndsInChunks has the other thing that is refused of content, too:
// a first line that would continue what a gateway puts before it.
func TestBareLineEndsInChunks(t *testing.T) {
	for _, c := range []struct{ a, b, want string }{
		{"a: b\r", "\n\r\nx\r\n", "accepted id"},
		{"a: b\r", "x\r\n", "error not-acceptable 5.6.0"},
		{"a: b", "\nx\r\n", "error not-acceptable 5.6.0"},
		{"a: b\r\n", "\n", "error not-acceptable 5.6.0"},
		{"a: b\r\n", " c\r\n", "accepted id"},
		{" ", "a: b\r\n", "error not-acceptable 5.6.0"},
		{"a: b\r\n", "\r\r\n", "error not-acceptable 5.6.0"},
	} {
		x := newSetup()
		x.ask(t, montague, "set", offerXML([]byte(c.a+c.b), false, nil, ""))
		x.ask(t, montague, "set", chunkXML(tid1, 0, []byte(c.a)))
		x.ask(t, montague, "set", chunkXML(tid1, len(c.a), []byte(c.b)))
		if got := x.ask(t, montague, "set", named("commit", tid1)); got != c.want {
			t.Errorf("%q %q: %s", c.a, c.b, got)
		}
	}
}

func TestOpenTransfersAreBounded(t *testing.T) {
	x := newSetup(func(s *ServerConfig, _ *SenderConfig) { s.MaxOpenPerDomain, s.MaxOpen, s.OpenFor = 3, 5, time.Hour })
	offer := func(b mail.Binding, n int) string {
		sender := "j@" + b.Remote
		return x.ask(t, b, "set", offerXML(text(30000), false, map[string]string{"tid": fmt.Sprintf("%064x", n), "sender": sender}, ""))
	}
	other := montague
	other.Remote = "verona.example"
	for n := range 3 {
		if got := offer(montague, n); got != "ready 0 ok" {
			t.Fatalf("offer %d: %s", n, got)
		}
	}
	if got := offer(montague, 3); got != "error resource-constraint 4.3.1" {
		t.Errorf("fourth of a domain: %s", got)
	}
	if got := offer(montague, 1); got != "ready 0 ok" {
		t.Errorf("one of the three again: %s", got)
	}
	for n := range 2 {
		if got := offer(other, n); got != "ready 0 ok" {
			t.Errorf("other domain's %d: %s", n, got)
		}
	}
	if got := offer(other, 2); got != "error resource-constraint 4.3.1" {
		t.Errorf("sixth of all: %s", got)
	}
	// What stays without progress makes room.
	x.server.open.mu.Lock()
	for _, s := range x.server.open.slots {
		s.used = s.used.Add(-2 * time.Hour)
	}
	x.server.open.swept = time.Time{}
	x.server.open.mu.Unlock()
	if got := offer(montague, 3); got != "ready 0 ok" {
		t.Errorf("after an hour: %s", got)
	}
}

func TestEnvelopesOfOpenTransfersAreBounded(t *testing.T) {
	x := newSetup()
	var rcpts strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&rcpts, "<rcpt to='%s%d@montague.example' orcpt='rfc822;%s'/>", strings.Repeat("r", 50), i, strings.Repeat("o", 390))
	}
	opened := 0
	for n := range 200 {
		b := montague
		b.Remote = fmt.Sprintf("d%d.example", n%10)
		xml := offerXML(text(30000), false, map[string]string{"tid": fmt.Sprintf("%064x", n), "sender": ""}, rcpts.String())
		if !strings.HasPrefix(x.ask(t, b, "set", xml), "ready") {
			break
		}
		opened++
	}
	if opened == 0 || opened > 100 || x.server.open.octets > maxOpenOctets {
		t.Errorf("%d opened, %d octets counted", opened, x.server.open.octets)
	}
}

func TestRetryAfterIsTold(t *testing.T) {
	x := newSetup(func(s *ServerConfig, _ *SenderConfig) { s.MaxOpenPerDomain, s.RetryAfter = 1, 90*time.Second })
	expect(t, x.deliver(t, message(100, "romeo")), "ok") // inline needs no room
	x.ask(t, montague, "set", offerXML(text(30000), false, nil, ""))
	out := x.deliver(t, message(300000, "romeo"))
	expect(t, out, "resource-constraint/4.3.1")
	if out[0].Failure.RetryAfter != 90*time.Second {
		t.Errorf("retry after %v", out[0].Failure.RetryAfter)
	}
}

func TestStoreFailures(t *testing.T) {
	for err, want := range map[error]string{
		store.ErrFull:              "error resource-constraint 4.3.1",
		errors.New("disk on fire"): "error internal-server-error 4.3.0",
	} {
		x := newSetup()
		x.store.fail = err
		if got := x.ask(t, montague, "set", offerXML(text(100), true, nil, "")); got != want {
			t.Errorf("inline: %s, want %s", got, want)
		}
		x.store.fail = nil
		x.ask(t, montague, "set", offerXML(text(30000), false, nil, ""))
		x.store.fail = err
		if got := x.ask(t, montague, "set", chunkXML(tid1, 0, text(30000)[:9000])); !strings.HasPrefix(got, "error") || strings.Contains(got, "fire") {
			t.Errorf("chunk: %s", got)
		}
		x.store.fail = nil
		if got := x.ask(t, montague, "set", chunkXML(tid1, 0, text(30000)[:9000])); got != "unknown" {
			t.Errorf("chunk after a failure: %s", got)
		}
	}
}

func TestOtherRequests(t *testing.T) {
	x := newSetup()
	for _, c := range []struct{ typ, payload, want string }{
		{"get", "<query xmlns='jabber:iq:roster'/>", "error service-unavailable 4.3.2"},
		{"set", "<colour xmlns='" + Namespace + "'/>", "error feature-not-implemented 4.3.2"},
		{"get", offerXML(text(9), true, nil, ""), "error feature-not-implemented 4.3.2"},
		{"get", "<check xmlns='" + Namespace + "' sender=''><rcpt to='nobody@montague.example'/><rcpt to='r@montague.example'/><rcpt to='x@x.example'/></check>", "verdicts item-not-found ok forbidden"},
		{"get", "<check xmlns='" + Namespace + "' sender='a@x.example'><rcpt to='r@montague.example'/></check>", "error forbidden 5.7.1"},
		{"get", "<check xmlns='" + Namespace + "' sender=''/>", "error bad-request 4.5.2"},
		{"set", named("abort", "x"), "error bad-request 4.5.2"},
		{"set", named("commit", strings.Repeat("g", 64)), "error bad-request 4.5.2"},
		{"get", statusXML(tid1), "error bad-request 4.5.2"},
	} {
		if got := x.ask(t, montague, c.typ, c.payload); got != c.want {
			t.Errorf("%s %s: got %s, want %s", c.typ, c.payload, got, c.want)
		}
	}
	var many strings.Builder
	for i := range 1001 {
		fmt.Fprintf(&many, "<rcpt to='r%d@montague.example'/>", i)
	}
	if got := x.ask(t, montague, "set", offerXML(text(9), true, nil, many.String())); got != "error resource-constraint 4.5.3" {
		t.Errorf("1,001 recipients: %s", got)
	}
	if got := x.ask(t, montague, "set", offerXML(text(70000), true, nil, "")); got != "error bad-request 4.5.2" {
		t.Errorf("inline beyond the limit: %s", got)
	}
}

// TestSameOfferAtOnce: two links hand the same message over at the same time.
func TestSameOfferAtOnce(t *testing.T) {
	x := newSetup()
	var wg sync.WaitGroup
	outs := make([][]mail.Outcome, 8)
	for i := range outs {
		wg.Go(func() { outs[i] = x.sender.Deliver(context.Background(), message(200000, "romeo")) })
	}
	wg.Wait()
	delivered := 0
	for _, out := range outs {
		if out[0].Delivered() {
			delivered++
		} else if out[0].Failure.Class == mail.Permanent {
			t.Errorf("permanent failure: %v", out[0].Failure)
		}
	}
	if got := x.store.all(); len(got) != 1 || delivered == 0 {
		t.Errorf("%d stored, %d delivered", len(got), delivered)
	}
}

// TestHandlersAreReleased: what waits for its turn ends with its context.
func TestHandlersAreReleased(t *testing.T) {
	x := newSetup(func(s *ServerConfig, _ *SenderConfig) { s.ChunkWait = time.Hour })
	x.ask(t, montague, "set", offerXML(text(30000), false, nil, ""))
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for range 3 {
		el := parse(t, chunkXML(tid1, 10000, text(100)))
		wg.Go(func() { x.server.handle(ctx, montague, "set", el) })
	}
	cancel()
	wg.Wait()
	if got := x.ask(t, montague, "set", chunkXML(tid1, 0, text(100))); got != "next 100" {
		t.Errorf("slot is stuck: %s", got)
	}
}
