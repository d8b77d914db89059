package smtpbridge

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"mailxmppd/mail"
)

// startFilter serves a filter before a next hop until the test ends.
func startFilter(t *testing.T, j Judge, next Hop, change func(*ServerConfig)) (*Filter, *Server, string) {
	t.Helper()
	f, err := NewFilter(FilterConfig{Judge: j, Client: newTestClient(t, nil), Next: next})
	if err != nil {
		t.Fatal(err)
	}
	srv, err := NewServer(ServerConfig{
		Kind: KindRelay, Hostname: "filter.example", Limits: DefaultLimits(), Handler: f, TempDir: t.TempDir(),
		Clients: loopback, XForward: loopback,
	})
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(&srv.cfg)
	}
	ln := listenLoopback(t)
	serve(t, srv, ln)
	return f, srv, ln.Addr().String()
}

// TestFilter: envelope, content and what is known of the client reach the next
// hop as they came, its replies come back as it gave them, and each message of
// a session is as good as the first.
func TestFilter(t *testing.T) {
	rec := &recorder{
		recipient: func(_ mail.Envelope, r mail.Recipient) *mail.Failure {
			if r.Address.Local == "full" {
				return mail.FromReply("", 452, "4.2.2", "mailbox is full")
			}
			return nil
		},
	}
	_, nextAddr := startServer(t, rec, func(c *ServerConfig) { c.XForward = loopback })
	j := &scribe{content: func(Arrival) ([]HeaderField, *mail.Failure) {
		return []HeaderField{{"Authentication-Results", "ours.example;\r\n\tspf=pass"}}, nil
	}}
	f, _, addr := startFilter(t, j, Hop{Protocol: ProtocolSMTP, Addrs: []string{nextAddr}}, nil)
	d := dial(t, addr)
	d.play("< 220", "> EHLO postfix.example", "<* 250")
	for i := range 2 {
		d.play(
			"> XFORWARD NAME=mx.montague.example ADDR=IPV6:2001:db8::1 PORT=4711", "< 250",
			"> XFORWARD PROTO=ESMTP HELO=helo.montague.example IDENT=4XYZ SOURCE=REMOTE", "< 250",
			"> MAIL FROM:<romeo@montague.example> SIZE=1000 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=abc", "< 250 2.1.0",
			"> RCPT TO:<full@capulet.example>", "< 452 4.2.2 mailbox is full",
			"> RCPT TO:<\"odd name\"@capulet.example> NOTIFY=DELAY ORCPT=rfc822;x@y.example", "< 250 2.1.5",
			"> RCPT TO:<j\u00fcliet@capulet.example>", "< 250 2.1.5",
			"> DATA", "< 354",
			`>"Subject: x\r\n\r\n..dot\r\n\xff\x00\r\n.\r\n"`, "< 250 2.0.0 queued",
		)
		got := rec.got()
		if len(got) != i+1 {
			t.Fatalf("%d messages", len(got))
		}
		a := got[i]
		if want := "Authentication-Results: ours.example;\r\n\tspf=pass\r\nSubject: x\r\n\r\n.dot\r\n\xff\x00\r\n"; a.content != want {
			t.Errorf("got %q", a.content)
		}
		want := mail.Envelope{
			Sender: mail.Address{Local: "romeo", Domain: "montague.example"}, Body: mail.Body8BitMIME, SMTPUTF8: true,
			Return: "HDRS", EnvelopeID: "abc",
			Recipients: []mail.Recipient{
				{Address: mail.Address{Local: "odd name", Domain: "capulet.example"}, Notify: mail.NotifyDelay, Original: "rfc822;x@y.example"},
				{Address: mail.Address{Local: "j\u00fcliet", Domain: "capulet.example"}},
			},
		}
		if diff := jsonDiff(t, a.message.Envelope, want); diff != "" {
			t.Error(diff)
		}
		fw := mail.Forwarded{
			Addr: netip.MustParseAddrPort("[2001:db8::1]:4711"), Name: "mx.montague.example",
			Helo: "helo.montague.example", Proto: "ESMTP", Ident: "4XYZ", Source: "REMOTE",
		}
		if a.client.Forwarded == nil || *a.client.Forwarded != fw {
			t.Errorf("told of %+v", a.client.Forwarded)
		}
		judged, content := j.last(t)
		if c := judged.Client; c.Addr != fw.Addr || c.Name != fw.Name || c.Helo != fw.Helo || !c.ESMTP || judged.ID != "4XYZ" {
			t.Errorf("judged as coming from %+v, id %q", c, judged.ID)
		}
		if content != "Subject: x\r\n\r\n.dot\r\n\xff\x00\r\n" {
			t.Errorf("judged %q", content)
		}
	}
	d.play("> QUIT", "< 221")
	if got := f.Counts(); got != (FilterCounts{Passed: 2, NextFailed: 2}) {
		t.Errorf("counts %+v", got)
	}
}

// TestFilterAnswers: what the next hop answers at each step is what the client
// hears, and a message that it did not take is not taken here either.
func TestFilterAnswers(t *testing.T) {
	yes := []string{"< 250 2.1.0", "< 250 2.1.5", "< 354", "< 250 2.0.0"}
	until := func(n int, last string) []string { return append(slices.Clone(yes[:n]), last) }
	for _, c := range []struct {
		name     string
		steps    map[string]string
		want     []string // to MAIL, RCPT, DATA and the content, up to the first refusal
		messages int
	}{
		{"all is well", map[string]string{"dot": "250 2.0.0 Ok: queued as ABC"}, until(3, "< 250 2.0.0 Ok: queued as ABC"), 1},
		{"cannot be reached", map[string]string{"greet": hangUp}, until(0, "< 451 4.4.2"), 0},
		{"greets with 554", map[string]string{"greet": "554 5.3.2 no mail here"}, until(0, "< 554 5.3.2 no mail here"), 0},
		{"MAIL 5xx", map[string]string{"mail": "550 5.7.1 spammer"}, until(0, "< 550 5.7.1 spammer"), 0},
		{"MAIL 421", map[string]string{"mail": "421 4.7.0 too many" + thenHangUp}, until(0, "< 451 4.7.0 too many"), 0},
		{"MAIL nonsense", map[string]string{"mail": "hello"}, until(0, "< 451 4.5.2"), 0},
		{"MAIL 354", map[string]string{"mail": "354 what"}, until(0, "< 451 4.5.2"), 0},
		{"RCPT 5xx", map[string]string{"rcpt": "550 5.1.1 unknown"}, until(1, "< 550 5.1.1 unknown"), 0},
		{"RCPT 4xx", map[string]string{"rcpt": "450 4.2.1 later"}, until(1, "< 450 4.2.1 later"), 0},
		{"RCPT closes", map[string]string{"rcpt": hangUp}, until(1, "< 451 4.4.2"), 0},
		{"DATA 5xx", map[string]string{"data": "554 5.7.1 no"}, until(3, "< 554 5.7.1 no"), 0},
		{"DATA 250", map[string]string{"data": "250 what"}, until(3, "< 451 4.5.2"), 0},
		{"DATA closes", map[string]string{"data": hangUp}, until(3, "< 451 4.4.2"), 0},
		{"content 5xx", map[string]string{"dot": "554 5.7.1 virus"}, until(3, "< 554 5.7.1 virus"), 1},
		{"content 4xx", map[string]string{"dot": "451 4.3.0 later"}, until(3, "< 451 4.3.0 later"), 1},
		{"closes after the final dot", map[string]string{"dot": hangUp}, until(3, "< 451 4.4.2"), 1},
		{"nonsense after the final dot", map[string]string{"dot": "thanks"}, until(3, "< 451 4.4.2"), 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			next := startScript(t, scriptOffers, script(c.steps))
			f, srv, addr := startFilter(t, &scribe{}, next.hop(), nil)
			d := dial(t, addr)
			d.play("< 220", "> EHLO postfix.example", "<* 250")
			for i, command := range []string{"MAIL FROM:<a@x.example>", "RCPT TO:<b@y.example>", "DATA", "Subject: x\r\n\r\nhello\r\n."} {
				if i == len(c.want) {
					break
				}
				d.play("> "+command, c.want[i])
			}
			shutdown(t, srv)
			messages, _ := next.gotInTheEnd(t, f.cfg.Client)
			if len(messages) != c.messages || c.messages > 0 && messages[0] != "Subject: x\r\n\r\nhello\r\n" {
				t.Errorf("arrived: %q", messages)
			}
		})
	}
}

// TestFilterJudge: what the judge refuses does not get to the next hop, and the
// session goes on.
func TestFilterJudge(t *testing.T) {
	next := startScript(t, scriptOffers, script(nil))
	j := &scribe{
		recipient: func(_ mail.Client, _ mail.Envelope, r mail.Recipient) *mail.Failure {
			if r.Address.Local == "nobody" {
				return mail.Fail(mail.NoSuchMailbox, "", nil)
			}
			return nil
		},
		content: func(a Arrival) ([]HeaderField, *mail.Failure) {
			if a.Envelope.Sender.Local == "forger" {
				return nil, mail.Fail(mail.NotPermitted, "forged", nil)
			}
			return nil, nil
		},
	}
	f, srv, addr := startFilter(t, j, next.hop(), nil)
	d := dial(t, addr)
	d.play("< 220", "> EHLO postfix.example", "<* 250",
		"> MAIL FROM:<forger@x.example>", "< 250", "> RCPT TO:<nobody@y.example>", "< 550 5.1.1",
		"> RCPT TO:<b@y.example>", "< 250", "> DATA", "< 354", "> Subject: forged\r\n\r\n.", "< 550 5.7.1 forged",
		"> MAIL FROM:<given-up@x.example>", "< 250", "> RSET", "< 250",
		"> MAIL FROM:<a@x.example>", "< 250", "> RCPT TO:<b@y.example>", "< 250", "> DATA", "< 354", "> Subject: fine\r\n\r\n.", "< 250",
		"> QUIT", "< 221")
	shutdown(t, srv)
	messages, commands := next.gotInTheEnd(t, f.cfg.Client)
	if len(messages) != 1 || !strings.HasPrefix(messages[0], "Subject: fine") {
		t.Errorf("arrived: %q", messages)
	}
	all := strings.Join(commands, "\n")
	if strings.Contains(all, "nobody") || strings.Count(all, "RSET") != 2 || strings.Count(all, "EHLO") != 1 {
		t.Errorf("the next hop was told\n%s", all)
	}
	if got := f.Counts(); got != (FilterCounts{Passed: 1, Refused: 1, RefusedRecipients: 1}) {
		t.Errorf("counts %+v", got)
	}
}

// TestFilterNextEndsIdleSession: the next hop ends sessions that wait for long;
// the client, which may wait for longer, does not notice.
func TestFilterNextEndsIdleSession(t *testing.T) {
	next := startScript(t, scriptOffers, func(session int, step string, n int) string {
		if session == 1 && step == "dot" {
			return "250 2.0.0 ok" + thenHangUp
		}
		return ""
	})
	_, srv, addr := startFilter(t, &scribe{}, next.hop(), nil)
	d := dial(t, addr)
	d.play("< 220", "> EHLO postfix.example", "<* 250")
	for range 3 {
		d.play("> MAIL FROM:<a@x.example>", "< 250", "> RCPT TO:<b@y.example>", "< 250", "> DATA", "< 354", "> Subject: x\r\n\r\n.", "< 250")
		time.Sleep(10 * time.Millisecond) // so that the end of the session has arrived; without it the test is easier
	}
	shutdown(t, srv)
	if messages, _, sessions := next.got(); len(messages) != 3 || sessions != 2 {
		t.Errorf("%d messages in %d sessions", len(messages), sessions)
	}
}

// TestFilterStranger: the next hop takes mail for everybody from us, so nobody
// but Postfix may hand us any.
func TestFilterStranger(t *testing.T) {
	next := startScript(t, scriptOffers, script(nil))
	_, _, addr := startFilter(t, &scribe{}, next.hop(), func(c *ServerConfig) {
		c.Clients = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	})
	dial(t, addr).play("< 554 5.7.1 not permitted from your address", "< EOF")
}

// TestXForwardCommands: lines within their bound, unknown values said to be so,
// and nothing that the next hop does not offer.
func TestXForwardCommands(t *testing.T) {
	all := strings.Fields(xforwardKeyword)[1:]
	long := strings.Repeat("n", 250)
	for _, c := range []struct {
		name    string
		offered []string
		fw      *mail.Forwarded
		want    []string
	}{
		{"nothing told", all, nil, nil},
		{"not offered", nil, &mail.Forwarded{Name: "a"}, nil},
		{"some offered", []string{"NAME", "SOURCE"}, &mail.Forwarded{Name: "a+b", Helo: "h"}, []string{"XFORWARD NAME=a+2Bb SOURCE=[UNAVAILABLE]"}},
		{"long", all, &mail.Forwarded{Name: long, Helo: long, Addr: netip.MustParseAddrPort("192.0.2.1:25")}, []string{
			"XFORWARD NAME=" + long + " ADDR=192.0.2.1 PORT=25 PROTO=[UNAVAILABLE]",
			"XFORWARD HELO=" + long + " IDENT=[UNAVAILABLE] SOURCE=[UNAVAILABLE]",
		}},
	} {
		got := xforwardCommands(c.offered, mail.Client{Forwarded: c.fw})
		if !slices.Equal(got, c.want) {
			t.Errorf("%s:\ngot  %q\nwant %q", c.name, got, c.want)
		}
		for _, line := range got {
			if len(line) > maxXForwardLine {
				t.Errorf("%s: line of %d octets", c.name, len(line))
			}
		}
	}
}

// TestFilterTakesOut: the next hop gets the content that the judge has cleaned.
func TestFilterTakesOut(t *testing.T) {
	rec := &recorder{}
	_, nextAddr := startServer(t, rec, nil)
	_, _, addr := startFilter(t, &scribe{}, Hop{Protocol: ProtocolSMTP, Addrs: []string{nextAddr}}, nil)
	d := dial(t, addr)
	d.play("< 220", "> EHLO postfix.example", "<* 250", "> MAIL FROM:<romeo@montague.example>", "< 250", "> RCPT TO:<juliet@capulet.example>", "< 250",
		"> DATA", "< 354", `>"X-Poses: x\r\nSubject: s\r\n\r\nbody\r\n.\r\n"`, "< 250")
	if got := rec.got(); len(got) != 1 || got[0].content != "Subject: s\r\n\r\nbody\r\n" {
		t.Errorf("next hop got %+v", got)
	}
}

// TestFilterRefusesSome: who must not get a message is not named to the next hop
// any more; a next hop that will not begin anew leaves the message with the client,
// and a judge that refuses everybody without saying so is not believed.
func TestFilterRefusesSome(t *testing.T) {
	again := func(_ mail.Envelope, r mail.Recipient) *mail.Failure { return nil }
	rec := &recorder{recipient: func(env mail.Envelope, r mail.Recipient) *mail.Failure { return again(env, r) }}
	_, nextAddr := startServer(t, rec, func(c *ServerConfig) { c.XForward = loopback })
	j := &scribe{refused: []int{0, 2}}
	_, _, addr := startFilter(t, j, Hop{Protocol: ProtocolSMTP, Addrs: []string{nextAddr}}, nil)
	d := dial(t, addr)
	d.play("< 220", "> EHLO postfix.example", "<* 250")
	send := func(want string, to ...string) {
		d.play("> MAIL FROM:<romeo@montague.example> BODY=8BITMIME", "< 250")
		for _, r := range to {
			d.play("> RCPT TO:<"+r+"@capulet.example>", "< 250")
		}
		d.play("> DATA", "< 354", `>"Subject: x\r\n\r\nx\r\n.\r\n"`, "< "+want)
	}
	for i := range 2 {
		send("250 2.0.0 queued", "strict", "juliet", "stern", "nurse")
		got := rec.got()
		if len(got) != i+1 || len(got[i].message.Envelope.Recipients) != 2 || got[i].message.Envelope.Recipients[0].Address.Local != "juliet" ||
			got[i].message.Envelope.Recipients[1].Address.Local != "nurse" || got[i].message.Envelope.Body != mail.Body8BitMIME {
			t.Fatalf("got %+v", got)
		}
	}
	seen := 0
	again = func(_ mail.Envelope, r mail.Recipient) *mail.Failure {
		if r.Address.Local != "juliet" {
			return nil
		}
		if seen++; seen > 1 {
			return mail.FromReply("", 452, "4.2.2", "mailbox is full")
		}
		return nil
	}
	send("452 4.2.2", "strict", "juliet", "stern", "nurse")
	again = func(mail.Envelope, mail.Recipient) *mail.Failure { return nil }
	send("451 4.3.0", "strict")
	if n := len(rec.got()); n != 2 {
		t.Errorf("%d messages", n)
	}
}
