package smtpbridge

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"mailxmppd/mail"
)

const sample = "Subject: hello\r\n\r\n.dot\r\nlast\r\n"

// TestDialogueAnswers goes through the answers a next hop may give at each
// step, with PIPELINING and without: the verdicts are the same. Three
// recipients; messages is how many contents arrived whole.
func TestDialogueAnswers(t *testing.T) {
	all := func(s string) []string { return []string{s, s, s} }
	for _, c := range []struct {
		name     string
		steps    map[string]string
		want     []string
		messages int
	}{
		{"all is well", nil, all("delivered"), 1},
		{"one octet at a time", map[string]string{
			"greet": inPieces + "220-a\r\n220 b", "mail": inPieces + "250 2.1.0 ok", "dot": inPieces + "250-a\r\n250 b",
		}, all("delivered"), 1},

		{"greeted with 554", map[string]string{"greet": "554 5.3.2 no mail here"}, all("554 5.3.2"), 0},
		{"greeted with 421", map[string]string{"greet": "421 4.3.2 busy"}, all("451 4.3.2"), 0},
		{"greeted with 450", map[string]string{"greet": "450 later"}, all("450 4.0.0"), 0},
		{"greeted with 250", map[string]string{"greet": "250 what"}, all("451 4.0.0"), 0},
		{"greeted with nonsense", map[string]string{"greet": "HTTP/1.1 400 Bad Request"}, all("451 4.5.2"), 0},
		{"no greeting", map[string]string{"greet": hangUp}, all("451 4.4.2"), 0},
		{"endless greeting", map[string]string{"greet": endlessLines}, all("451 4.5.2"), 0},
		{"endless line", map[string]string{"greet": endlessLine}, all("451 4.5.2"), 0},

		{"EHLO and HELO refused", map[string]string{"ehlo": "550 no", "helo": "550 5.7.1 no"}, all("550 5.7.1"), 0},
		{"EHLO 4xx", map[string]string{"ehlo": "450 4.7.0 no"}, all("450 4.7.0"), 0},
		{"EHLO 421", map[string]string{"ehlo": "421 no"}, all("451 4.3.2"), 0},
		{"EHLO closes", map[string]string{"ehlo": hangUp}, all("451 4.4.2"), 0},
		{"HELO alone", map[string]string{"ehlo": "500 what"}, all("delivered"), 1},

		{"an answer before EHLO", map[string]string{"greet": "220 mx\r\n250 early"}, all("451 4.5.2"), 0},
		{"an answer before MAIL", map[string]string{"ehlo": "250-mx\r\n250-SIZE\r\n250 PIPELINING\r\n250 early"}, all("451 4.5.2"), 0},
		{"an answer before RCPT", map[string]string{"mail": "250 2.1.0 ok\r\n250 early"}, all("451 4.5.2"), 0},
		{"an answer before DATA", map[string]string{"rcpt3": "250 2.1.5 ok\r\n250 early"}, all("451 4.5.2"), 0},
		{"an answer before the content", map[string]string{"data": "354 go ahead\r\n250 2.0.0 early"}, all("451 4.5.2"), 0},
		{"all answers at once", map[string]string{"greet": "220 mx\r\n250 mx\r\n250 ok\r\n250 ok\r\n354 go\r\n250 ok"}, all("451 4.5.2"), 0},

		{"MAIL 5xx", map[string]string{"mail": "550 5.7.1 spammer"}, all("550 5.7.1"), 0},
		{"MAIL 4xx", map[string]string{"mail": "450 4.7.1 greylisted"}, all("450 4.7.1"), 0},
		{"MAIL 421", map[string]string{"mail": "421 4.7.0 too many" + thenHangUp}, all("451 4.7.0"), 0},
		{"MAIL closes", map[string]string{"mail": hangUp}, all("451 4.4.2"), 0},
		{"MAIL 354", map[string]string{"mail": "354 what"}, all("451 4.5.2"), 0},

		{"one RCPT 5xx", map[string]string{"rcpt2": "550 5.1.1 unknown"}, []string{"delivered", "550 5.1.1", "delivered"}, 1},
		{"one RCPT 4xx", map[string]string{"rcpt3": "452 4.2.2 full"}, []string{"delivered", "delivered", "452 4.2.2"}, 1},
		{"RCPTs differ", map[string]string{"rcpt1": "550 5.1.1 unknown", "rcpt2": "450 4.2.1 later"}, []string{"550 5.1.1", "450 4.2.1", "delivered"}, 1},
		{"all RCPTs refused", map[string]string{"rcpt": "550 5.1.1 unknown"}, all("550 5.1.1"), 0},
		{"251 is a yes", map[string]string{"rcpt1": "251 will forward"}, all("delivered"), 1},
		{"RCPT 421 in the middle", map[string]string{"rcpt1": "550 5.1.1 unknown", "rcpt2": "421 4.3.0 going" + thenHangUp}, []string{"550 5.1.1", "451 4.3.0", "451 4.3.0"}, 0},
		{"RCPT closes", map[string]string{"rcpt2": hangUp}, all("451 4.4.2"), 0},
		{"RCPT nonsense", map[string]string{"rcpt2": "hello"}, all("451 4.5.2"), 0},

		{"DATA 5xx", map[string]string{"data": "554 5.7.1 no"}, all("554 5.7.1"), 0},
		{"DATA 4xx after a refused RCPT", map[string]string{"rcpt1": "550 5.1.1 no", "data": "451 4.3.0 no"}, []string{"550 5.1.1", "451 4.3.0", "451 4.3.0"}, 0},
		{"DATA 421", map[string]string{"data": "421 4.3.0 no" + thenHangUp}, all("451 4.3.0"), 0},
		{"DATA 250", map[string]string{"data": "250 what"}, all("451 4.5.2"), 0},
		{"DATA closes", map[string]string{"data": hangUp}, all("451 4.4.2"), 0},
		{"354 without recipients", map[string]string{"rcpt": "550 5.1.1 unknown", "data": "354 go on"}, all("550 5.1.1"), 0},

		{"content refused", map[string]string{"dot": "554 5.7.1 virus"}, all("554 5.7.1"), 1},
		{"content deferred", map[string]string{"dot": "451 4.3.0 later"}, all("451 4.3.0"), 1},
		{"content 421", map[string]string{"dot": "421 4.3.0 later" + thenHangUp}, all("451 4.3.0"), 1},
		{"closes after the final dot", map[string]string{"dot": hangUp}, all("doubt"), 1},
		{"nonsense after the final dot", map[string]string{"dot": "thanks"}, all("doubt"), 1},
		{"354 after the final dot", map[string]string{"dot": "354 more"}, all("doubt"), 1},
		{"half a reply after the final dot", map[string]string{"dot": "250-half" + thenHangUp}, all("doubt"), 1},
		{"endless reply after the final dot", map[string]string{"dot": endlessLines}, all("doubt"), 1},
		{"doubt is for the accepted alone", map[string]string{"rcpt2": "550 5.1.1 unknown", "dot": hangUp}, []string{"doubt", "550 5.1.1", "doubt"}, 1},
	} {
		for _, pipelining := range []bool{true, false} {
			if c.name == "354 without recipients" && !pipelining {
				continue // DATA is not sent then
			}
			t.Run(fmt.Sprintf("%s/pipelining=%v", c.name, pipelining), func(t *testing.T) {
				offers := scriptOffers
				if !pipelining {
					offers = offers[1:]
				}
				s := startScript(t, offers, script(c.steps))
				a := attemptOf(t, sample, "a@dest.example", "b@dest.example", "c@dest.example")
				a.Trace = []byte("Received: by gw\r\n")
				client := newTestClient(t, nil)
				got := client.Deliver(t.Context(), s.hop(), a)
				if !slices.Equal(verdictsOf(got), c.want) {
					t.Errorf("verdicts %q, want %q", verdictsOf(got), c.want)
				}
				messages, commands := s.gotInTheEnd(t, client)
				if len(messages) != c.messages {
					t.Fatalf("%d messages arrived, want %d; commands %q", len(messages), c.messages, commands)
				}
				if len(messages) > 0 && messages[0] != "Received: by gw\r\n"+sample {
					t.Errorf("arrived as %q", messages[0])
				}
				if s.early {
					t.Error("pipelined though it was not offered")
				}
			})
		}
	}
}

// TestLMTPAnswers: a verdict per accepted recipient, in order, repeated
// addresses kept apart.
func TestLMTPAnswers(t *testing.T) {
	for _, c := range []struct {
		name  string
		steps map[string]string
		want  []string
	}{
		{"all is well", nil, []string{"delivered", "delivered", "delivered"}},
		{"verdicts differ", map[string]string{"dot2": "552 5.2.2 full", "dot3": "450 4.2.1 later"}, []string{"delivered", "552 5.2.2", "450 4.2.1"}},
		{"one RCPT refused", map[string]string{"rcpt1": "550 5.1.1 no", "dot2": "552 5.2.2 full"}, []string{"550 5.1.1", "delivered", "552 5.2.2"}},
		{"closes between the verdicts", map[string]string{"dot2": hangUp}, []string{"delivered", "doubt", "doubt"}},
		{"421 between the verdicts", map[string]string{"dot2": "421 4.3.0 going" + thenHangUp}, []string{"delivered", "451 4.3.0", "doubt"}},
		{"all RCPTs refused", map[string]string{"rcpt": "550 5.1.1 no"}, []string{"550 5.1.1", "550 5.1.1", "550 5.1.1"}},
		{"LHLO unknown", map[string]string{"ehlo": "500 what"}, []string{"500 5.0.0", "500 5.0.0", "500 5.0.0"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := startScript(t, scriptOffers, script(c.steps))
			a := attemptOf(t, sample, "a@dest.example", "b@dest.example", "b@dest.example")
			got := newTestClient(t, nil).Deliver(t.Context(), s.lmtpHop(), a)
			if !slices.Equal(verdictsOf(got), c.want) {
				t.Errorf("verdicts %q, want %q", verdictsOf(got), c.want)
			}
			if _, commands, _ := s.got(); commands[0] != "LHLO gw.example" {
				t.Errorf("first command %q", commands[0])
			}
		})
	}
}

// TestSilence: each phase has its own end of patience.
func TestSilence(t *testing.T) {
	const short = 100 * time.Millisecond
	for step, c := range map[string]struct {
		times ClientTimeouts
		want  string
	}{
		"greet": {ClientTimeouts{Greeting: short}, "451 4.4.2"},
		"ehlo":  {ClientTimeouts{Command: short}, "451 4.4.2"},
		"mail":  {ClientTimeouts{Command: short}, "451 4.4.2"},
		"rcpt":  {ClientTimeouts{Command: short}, "451 4.4.2"},
		"data":  {ClientTimeouts{DataStart: short}, "451 4.4.2"},
		"dot":   {ClientTimeouts{DataEnd: short}, "doubt"},
	} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			s := startScript(t, scriptOffers, script(map[string]string{step: silence}))
			client := newTestClient(t, func(cfg *ClientConfig) { cfg.Timeouts = c.times })
			got := client.Deliver(t.Context(), s.hop(), attemptOf(t, sample, "a@dest.example"))
			if v := verdictsOf(got); v[0] != c.want {
				t.Errorf("%q, want %q", v, c.want)
			}
		})
	}
}

// TestCancel: the end of the context ends any wait.
func TestCancel(t *testing.T) {
	for step, want := range map[string]string{
		"greet": "451 4.4.", "ehlo": "451 4.4.2", "mail": "451 4.4.2", "rcpt": "451 4.4.2", "data": "451 4.4.2", "dot": "doubt",
	} {
		t.Run(step, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			s := startScript(t, scriptOffers, func(_ int, at string, _ int) string {
				if at != step {
					return ""
				}
				cancel()
				return silence
			})
			c := newTestClient(t, nil)
			got := c.Deliver(ctx, s.hop(), attemptOf(t, sample, "a@dest.example"))
			// At the greeting, dialling may or may not have returned.
			if v := verdictsOf(got); !strings.HasPrefix(v[0], want) {
				t.Errorf("%q, want %q", v, want)
			}
			if len(c.pool.sites) != 0 {
				t.Error("connection was kept")
			}
		})
	}
	t.Run("before", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		s := startScript(t, scriptOffers, script(nil))
		got := newTestClient(t, nil).Deliver(ctx, s.hop(), attemptOf(t, sample, "a@dest.example"))
		if v := verdictsOf(got); v[0] != "451 4.4.1" {
			t.Errorf("%q", v)
		}
	})
}

// TestTroubleInContent: long content, of which the next hop wants nothing.
func TestTroubleInContent(t *testing.T) {
	a := attemptOf(t, "", "a@dest.example")
	a.Content = mail.Bytes(strings.Repeat("a line of some length\r\n", 1<<20)) // more than the system buffers
	for answer, want := range map[string]string{
		hangUp:                    "451 4.4.2",
		silence:                   "451 4.4.2",
		"552 5.3.4 I have enough": "552 5.3.4",
		"250 2.0.0 ok already":    "451 4.", // seen before the content is sent, or not
	} {
		t.Run(answer, func(t *testing.T) {
			s := startScript(t, scriptOffers[:2], script(map[string]string{"content": answer}))
			client := newTestClient(t, func(cfg *ClientConfig) {
				cfg.Timeouts = ClientTimeouts{DataBlock: 100 * time.Millisecond, DataEnd: 100 * time.Millisecond}
			})
			got := client.Deliver(t.Context(), s.hop(), a)
			if v := verdictsOf(got); !strings.HasPrefix(v[0], want) {
				t.Errorf("%q, want %q", v, want)
			}
		})
	}
}

// TestContentIsExact: what arrives is what was sent.
func TestContentIsExact(t *testing.T) {
	long := strings.Repeat(strings.Repeat("x", 998)+"\r\n"+".\r\n", 1000)
	for name, content := range map[string]string{
		"empty": "", "no header": "\r\nbody\r\n", "dots": ".\r\n..\r\n.a\r\n", "8-bit": "\r\n\xff\xfe\x80\r\n",
		"looks like the end": "a\r\n.\r\nQUIT\r\n", "NUL": "a\x00b\r\n", "long": long, "from a file": strings.Repeat(long, 2),
	} {
		t.Run(name, func(t *testing.T) {
			s := startScript(t, scriptOffers[:2], script(nil))
			c := newTestClient(t, nil)
			got := c.Deliver(t.Context(), s.hop(), attemptOf(t, content, "a@dest.example"))
			messages, _, _ := s.got()
			if v := verdictsOf(got); v[0] != "delivered" || len(messages) != 1 || messages[0] != content {
				t.Errorf("%q, %d messages", v, len(messages))
			}
		})
	}
	t.Run("without last line end", func(t *testing.T) {
		s := startScript(t, scriptOffers, script(nil))
		newTestClient(t, nil).Deliver(t.Context(), s.hop(), attemptOf(t, "a\r\nb", "a@dest.example"))
		if messages, _, _ := s.got(); len(messages) != 1 || messages[0] != "a\r\nb\r\n" {
			t.Errorf("arrived as %q", messages)
		}
	})
}

// shortContent ends before its size.
type shortContent struct{ mail.Bytes }

func (s shortContent) Size() int64 { return int64(len(s.Bytes)) + 1 }

// TestUnreadableContent: a message that cannot be read whole is not sent at all.
func TestUnreadableContent(t *testing.T) {
	s := startScript(t, scriptOffers, script(nil))
	a := attemptOf(t, sample, "a@dest.example")
	a.Content = shortContent{mail.Bytes(sample)}
	c := newTestClient(t, nil)
	got := c.Deliver(t.Context(), s.hop(), a)
	messages, _ := s.gotInTheEnd(t, c)
	if v := verdictsOf(got); v[0] != "451 4.3.0" || len(messages) != 0 {
		t.Errorf("%q, %d messages", v, len(messages))
	}
}

// TestCommands: parameters go out where the extension is offered, and not
// where it is not.
func TestCommands(t *testing.T) {
	a := attemptOf(t, "Subject: \xc3\xa9\r\n\r\n\xff\r\n", `"a b+c"@dest.example`, "q@dest.example")
	a.Envelope.Return, a.Envelope.EnvelopeID = "HDRS", "id=1+2 x"
	a.Envelope.Recipients[0].Notify = mail.NotifySuccess | mail.NotifyFailure
	a.Envelope.Recipients[0].Original = "rfc822;a b+c@dest.example"
	a.Envelope.Recipients[1].Notify = mail.NotifyNever
	a.Envelope.Recipients[1].Original = "utf-8;j\u00fcrgen@dest.example"
	utf8 := a
	utf8.Envelope.SMTPUTF8 = true
	for _, c := range []struct {
		name   string
		a      mail.Attempt
		offers []string
		want   []string // commands after EHLO; nil: none, and the verdict
		refuse string
	}{
		{"all", utf8, scriptOffers, []string{
			"MAIL FROM:<romeo@montague.example> SIZE=18 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=id+3D1+2B2+20x",
			`RCPT TO:<"a b+c"@dest.example> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;a+20b+2Bc@dest.example`,
			`RCPT TO:<q@dest.example> NOTIFY=NEVER ORCPT=utf-8;j\x{FC}rgen@dest.example`,
			"DATA",
		}, ""},
		{"8BITMIME alone", a, []string{"8BITMIME"}, []string{
			"MAIL FROM:<romeo@montague.example> BODY=8BITMIME",
			`RCPT TO:<"a b+c"@dest.example>`, "RCPT TO:<q@dest.example>", "DATA",
		}, ""},
		{"SMTPUTF8 is not used unasked", a, []string{"8BITMIME", "SMTPUTF8"}, []string{
			"MAIL FROM:<romeo@montague.example> BODY=8BITMIME",
			`RCPT TO:<"a b+c"@dest.example>`, "RCPT TO:<q@dest.example>", "DATA",
		}, ""},
		{"SMTPUTF8 missing", utf8, []string{"8BITMIME"}, nil, "550 5.6.7"},
		{"8BITMIME missing", a, []string{"SIZE"}, nil, "554 5.6.3"},
		{"too large", a, []string{"8BITMIME", "SIZE 17"}, nil, "552 5.3.4"},
		{"SIZE without limit", a, []string{"8BITMIME", "SIZE 0"}, []string{
			"MAIL FROM:<romeo@montague.example> SIZE=18 BODY=8BITMIME",
			`RCPT TO:<"a b+c"@dest.example>`, "RCPT TO:<q@dest.example>", "DATA",
		}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := startScript(t, c.offers, script(nil))
			got := newTestClient(t, nil).Deliver(t.Context(), s.hop(), c.a)
			_, commands, _ := s.got()
			if !slices.Equal(commands[1:], c.want) {
				t.Errorf("commands\n%q, want\n%q", commands[1:], c.want)
			}
			want := "delivered"
			if c.want == nil {
				want = c.refuse
			}
			if v := verdictsOf(got); v[0] != want || v[1] != want {
				t.Errorf("verdicts %q, want %q", v, want)
			}
		})
	}
}

// TestCannotTake: what can be told before a word is said of the message.
func TestCannotTake(t *testing.T) {
	binary := attemptOf(t, sample, "a@dest.example")
	binary.Envelope.Body = mail.BodyBinaryMIME
	tls := attemptOf(t, sample, "a@dest.example")
	tls.Envelope.RequireTLS = true
	unsafe := attemptOf(t, sample, "a@dest.example")
	unsafe.Envelope.Recipients[0].Address.Local = "a\r\nRSET"
	nonASCII := attemptOf(t, sample, "j\u00fcrgen@dest.example")
	trace := attemptOf(t, sample, "a@dest.example")
	trace.Trace = []byte("X: \xff\r\n")
	for name, c := range map[string]struct {
		a    mail.Attempt
		want string
	}{
		"BINARYMIME":        {binary, "554 5.6.3"},
		"REQUIRETLS":        {tls, "550 5.7.10"},
		"address":           {unsafe, "553 5.1.3"},
		"non-ASCII address": {nonASCII, "550 5.6.7"},
		"8-bit trace":       {trace, "554 5.6.3"},
	} {
		s := startScript(t, []string{"PIPELINING"}, script(nil))
		got := newTestClient(t, nil).Deliver(t.Context(), s.hop(), c.a)
		_, commands, _ := s.got()
		if v := verdictsOf(got); v[0] != c.want || len(commands) != 1 {
			t.Errorf("%s: %q after %q", name, v, commands)
		}
	}
}

// TestManyRecipients: more than one group of commands.
func TestManyRecipients(t *testing.T) {
	s := startScript(t, scriptOffers, script(map[string]string{"rcpt150": "550 5.1.1 no"}))
	var rcpts []string
	for i := range 2*groupSize + 1 {
		rcpts = append(rcpts, fmt.Sprintf("r%d@dest.example", i))
	}
	got := newTestClient(t, nil).Deliver(t.Context(), s.hop(), attemptOf(t, sample, rcpts...))
	for i, v := range verdictsOf(got) {
		want := "delivered"
		if i == 149 {
			want = "550 5.1.1"
		}
		if v != want {
			t.Errorf("recipient %d: %q", i, v)
		}
	}
}

func TestOutcomeTells(t *testing.T) {
	s := startScript(t, scriptOffers, script(map[string]string{"rcpt2": "550 5.1.1 who\x1b is that"}))
	got := newTestClient(t, nil).Deliver(t.Context(), s.hop(), attemptOf(t, sample, "a@dest.example", "b@dest.example"))
	want := mail.Outcome{Remote: "127.0.0.1", RemoteID: "Q1", Text: "ok queued as Q1"}
	if got[0] != want {
		t.Errorf("delivered: %+v", got[0])
	}
	if got[1].Text != "who is that" || got[1].Remote != "127.0.0.1" || got[1].RemoteID != "" {
		t.Errorf("refused: %+v", got[1])
	}
}

func TestVerify(t *testing.T) {
	rcpts := attemptOf(t, "", "a@dest.example", "b@dest.example").Envelope.Recipients
	sender := mail.Address{}
	for _, c := range []struct {
		name  string
		steps map[string]string
		want  []string
		err   string
	}{
		{"yes", nil, []string{"delivered", "delivered"}, ""},
		{"one no", map[string]string{"rcpt2": "550 5.1.1 no"}, []string{"delivered", "550 5.1.1"}, ""},
		{"sender refused", map[string]string{"mail": "550 5.7.1 no"}, []string{"550 5.7.1", "550 5.7.1"}, ""},
		{"sender refused, then gone", map[string]string{"mail": "550 5.7.1 no" + thenHangUp}, []string{"550 5.7.1", "550 5.7.1"}, ""},
		{"gone", map[string]string{"rcpt2": hangUp}, nil, "451 4.4.2"},
		{"421", map[string]string{"rcpt1": "421 4.3.2 no" + thenHangUp}, nil, "451 4.3.2"},
		{"greeted with 554", map[string]string{"greet": "554 no"}, nil, "554 5.0.0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := startScript(t, scriptOffers, script(c.steps))
			got, err := newTestClient(t, nil).Verify(t.Context(), s.hop(), sender, false, rcpts)
			if c.err != "" {
				if err == nil || verdictOf(mail.AsFailure(err)) != c.err {
					t.Errorf("error %v, want %s", err, c.err)
				}
				return
			}
			var verdicts []string
			for _, f := range got {
				verdicts = append(verdicts, verdictOf(f))
			}
			if err != nil || !slices.Equal(verdicts, c.want) {
				t.Errorf("%q, %v; want %q", verdicts, err, c.want)
			}
			_, commands, _ := s.got()
			if slices.Contains(commands, "DATA") {
				t.Errorf("commands %q", commands)
			}
			if c.steps == nil && commands[len(commands)-1] != "RSET" {
				t.Errorf("last command %q", commands[len(commands)-1])
			}
		})
	}
	t.Run("needs SMTPUTF8", func(t *testing.T) {
		s := startScript(t, nil, script(nil))
		got, err := newTestClient(t, nil).Verify(t.Context(), s.hop(), sender, true, rcpts)
		if err != nil || verdictOf(got[0]) != "550 5.6.7" || verdictOf(got[1]) != "550 5.6.7" {
			t.Errorf("%v, %v", got, err)
		}
	})
}
