package smtpbridge

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"mailxmppd/mail"
)

// stepAnswers are what a next hop may say once in place of the proper reply,
// which PROPER stands for.
var stepAnswers = []struct{ name, answer string }{
	{"in pieces", inPieces + "PROPER"},
	{"control characters", "PROPER\x00\x1b[31m\x7f"},
	{"many lines", strings.Repeat("MORE\r\n", 100) + "PROPER"},
	{"late", silence},
	{"closes", hangUp},
	{"endless lines", endlessLines},
	{"an endless line", endlessLine},
	{"half a reply", "MORE" + thenHangUp},
	{"nonsense", "thanks"},
	{"an empty line", ""},
	{"1xx", "150 what"},
	{"3xx", "334 what"},
	{"6xx", "650 what"},
	{"two codes", "MORE\r\n590 b"},
	{"early", "PROPER\r\n250 2.0.0 early"},
	{"4xx", "450 4.7.1 later"},
	{"5xx", "550 5.7.1 no"},
	{"421, and closes", "421 4.3.2 going" + thenHangUp},
	{"421, and stays", "421 4.3.2 going"},
}

// stepReplies are the proper ones.
var stepReplies = map[string]string{"greet": "220 mx.example", "starttls": "220 go ahead", "auth": "235 2.7.0 ok", "data": "354 go ahead"}

// stepVerdict says what becomes of the recipient of whom, or before whom, a
// step got an answer.
func stepVerdict(step, answer string) string {
	atEnd := step == "dot"
	switch {
	case step == "rset" || step == "quit":
		return "" // the message is settled
	case slices.Contains([]string{"in pieces", "control characters", "many lines"}, answer):
		return "delivered"
	case answer == "early" && atEnd:
		return "delivered" // what follows is said to nobody
	case answer == "5xx" && slices.Contains([]string{"greet", "mail", "rcpt", "data", "bdat", "dot"}, step):
		return "permanent"
	case answer == "4xx", answer == "5xx", strings.HasPrefix(answer, "421"), !atEnd:
		return "temporary"
	}
	return "doubt"
}

// TestEveryStepEveryAnswer has a next hop, by STARTTLS and with a login, answer
// once in every wrong way at every step of a session. A message is delivered
// where the hop has it and said so, in doubt where it has it and said nothing
// of use, and refused in the class that the hop gave in all other cases. The
// message after it meets a hop that is well again, and is delivered once
// whatever was done to the one before.
func TestEveryStepEveryAnswer(t *testing.T) {
	server, roots := peerCertificate(t)
	small := "Subject: first\r\n\r\n.\r\nbody\r\n"
	large := "Subject: first\r\n\r\n" + strings.Repeat(strings.Repeat("x", 98)+"\r\n", chunkSize/100+100)
	for _, way := range []struct {
		name, content string
		steps         []string
	}{
		{"DATA", small, []string{"greet", "ehlo", "starttls", "ehlo2", "auth", "mail", "rcpt", "data", "dot", "rset", "quit"}},
		// Not mail: in a pipelined group an answer too many is one like the
		// others, and only DATA's 354 shows it.
		{"BDAT", large, []string{"bdat", "dot"}},
	} {
		for _, step := range way.steps {
			for _, c := range stepAnswers {
				t.Run(fmt.Sprintf("%s/%s/%s", way.name, step, c.name), func(t *testing.T) {
					t.Parallel()
					x := stepTrial{step: strings.TrimRight(step, "2"), nth: 1 + strings.Count(step, "2"), answer: c.answer}
					s := startScript(t, []string{"PIPELINING", "8BITMIME", "CHUNKING", "STARTTLS", "AUTH PLAIN"}, x.reply).withTLS(server)
					hop := s.hop()
					hop.TLS, hop.User, hop.Password = TLSVerified, "gw", "s3cret"
					client := newTestClient(t, func(cfg *ClientConfig) {
						cfg.Roots = roots
						if c.answer == silence {
							cfg.Timeouts = impatientAt(x.step)
						}
					})
					rcpts := []string{"a@dest.example"}
					if x.step == "rset" { // which follows a transaction given up
						rcpts = []string{"refused@dest.example"}
					}
					first := client.Deliver(t.Context(), hop, attemptOf(t, way.content, rcpts...))[0]
					x.check(t, s, first, way.content, c.name)
					patient := newTestClient(t, func(cfg *ClientConfig) { cfg.Roots = roots })
					if c.answer != silence { // whose client has no patience for a busy machine
						patient = client
					}
					second := patient.Deliver(t.Context(), hop, attemptOf(t, "Subject: second\r\n\r\n", "b@dest.example"))
					if v := verdictsOf(second); v[0] != "delivered" {
						t.Errorf("the next message: %q, %v", v, second[0].Failure)
					}
					client.Close()
					messages, _ := s.gotInTheEnd(t, patient)
					if n := len(slices.DeleteFunc(messages, func(m string) bool { return !strings.Contains(m, "Subject: second") })); n != 1 {
						t.Errorf("the next message arrived %d times", n)
					}
				})
			}
		}
	}
}

// impatientAt is patient with all steps but one.
func impatientAt(step string) ClientTimeouts {
	const short = 400 * time.Millisecond
	switch step {
	case "greet":
		return ClientTimeouts{Greeting: short}
	case "data":
		return ClientTimeouts{DataStart: short}
	case "dot":
		return ClientTimeouts{DataEnd: short}
	case "quit": // whose reply nobody waits for
		return ClientTimeouts{}
	}
	return ClientTimeouts{Command: short}
}

// stepTrial is one step's one wrong answer.
type stepTrial struct {
	step   string
	nth    int
	answer string
}

// reply answers in the first session as the trial says, and properly otherwise.
func (x stepTrial) reply(session int, step string, n int) string {
	proper := stepReplies[step]
	switch {
	case x.step == "rset" && session == 1 && step == "rcpt" && n == 1:
		return "550 5.1.1 no"
	case session != 1 || step != x.step || n != x.nth:
		return proper
	}
	if proper == "" {
		proper = "250 2.0.0 ok"
	}
	if step == "ehlo" {
		proper = "250-mx.example\r\n250-STARTTLS\r\n250-PIPELINING\r\n250-CHUNKING\r\n250-AUTH PLAIN\r\n250 8BITMIME"
	}
	if x.answer == "" {
		return "\r\n" + proper
	}
	last := proper[strings.LastIndexByte(proper, '\n')+1:]
	return strings.NewReplacer("PROPER", proper, "MORE", last[:3]+"-more").Replace(x.answer)
}

// check compares the outcome with what the next hop has.
func (x stepTrial) check(t *testing.T, s *hopScript, o mail.Outcome, content, answer string) {
	t.Helper()
	want := stepVerdict(x.step, answer)
	switch x.step {
	case "rset":
		want = "permanent"
	case "quit":
		want = "delivered"
	}
	got := "delivered"
	if o.Failure != nil {
		got = map[mail.Class]string{mail.Temporary: "temporary", mail.Permanent: "permanent", mail.InDoubt: "doubt"}[o.Failure.Class]
	}
	if got != want {
		t.Errorf("%s, want %s: %v", got, want, o.Failure)
	}
	messages, _, _ := s.got()
	if (got == "delivered" || got == "doubt") && (len(messages) != 1 || messages[0] != content) || len(messages) > 1 {
		t.Errorf("%s, and %d messages are there", got, len(messages))
	}
	if strings.ContainsAny(o.Text, "\x00\x1b\x7f\r\n") {
		t.Errorf("text %q", o.Text)
	}
}
