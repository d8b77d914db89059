package smtpbridge

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
)

// takesAtATime answers RCPT with refusal from the recipient of a transaction on
// that is one too many, and the end of content with dot.
func takesAtATime(most int, refusal, dot string) func(int, string, int) string {
	var mu sync.Mutex
	recipients := 0
	return func(_ int, step string, _ int) string {
		mu.Lock()
		defer mu.Unlock()
		switch step {
		case "mail":
			recipients = 0
		case "rcpt":
			if recipients++; recipients > most {
				return refusal
			}
		case "dot":
			return dot
		}
		return ""
	}
}

// TestTooManyRecipients: those that a next hop does not take beside others get
// a transaction of their own at once, and nobody is sent the message twice.
func TestTooManyRecipients(t *testing.T) {
	const all = 5
	for _, c := range []struct {
		name         string
		limits       string // offered
		most         int
		refusal, dot string
		lmtp         bool
		first, rest  string // verdicts of the first two, and of the others
		transactions int
	}{
		{"452 4.5.3", "", 2, "452 4.5.3 too many", "", false, "delivered", "delivered", 3},
		{"452 4.5.3, by LMTP", "", 2, "452 4.5.3 too many", "", true, "delivered", "delivered", 3},
		{"452 without a status", "", 2, "452 too many", "", false, "delivered", "delivered", 3},
		{"552 as of old", "", 2, "552 too many", "", false, "delivered", "delivered", 3},
		{"552 5.5.3", "", 2, "552 5.5.3 too many", "", false, "delivered", "delivered", 3},
		{"552 for another reason", "", 2, "552 5.2.2 mailbox full", "", false, "delivered", "552 5.2.2", 1},
		{"452 for another reason", "", 2, "452 4.3.1 no room", "", false, "delivered", "452 4.3.1", 1},
		{"not even one", "", 0, "452 4.5.3 too many", "", false, "452 4.5.3", "452 4.5.3", 1},
		{"not even one, by 552", "", 0, "552 no", "", false, "552 5.0.0", "552 5.0.0", 1},
		{"told before", "LIMITS MAILMAX=9 RCPTMAX=2", 2, "550 5.5.3 you were told", "", false, "delivered", "delivered", 3},
		{"told before, content put off", "LIMITS RCPTMAX=2", 2, "550 5.5.3 you were told", "451 4.7.1 later", false, "451 4.7.1", "452 4.5.3", 1},
		{"told before, content refused", "LIMITS RCPTMAX=2", 2, "550 5.5.3 you were told", "554 5.7.1 no", false, "554 5.7.1", "554 5.7.1", 3},
		{"told nonsense", "LIMITS RCPTMAX=0 RCPTMAX=x", all, "", "", false, "delivered", "delivered", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := startScript(t, append(slices.Clone(scriptOffers), c.limits), takesAtATime(c.most, c.refusal, c.dot))
			hop := s.hop()
			if c.lmtp {
				hop = s.lmtpHop()
			}
			var rcpts []string
			for i := range all {
				rcpts = append(rcpts, fmt.Sprintf("r%d@dest.example", i))
			}
			a := attemptOf(t, sample, rcpts...)
			client := newTestClient(t, nil)
			got := verdictsOf(client.Deliver(t.Context(), hop, a))
			want := []string{c.first, c.first, c.rest, c.rest, c.rest}
			if !slices.Equal(got, want) {
				t.Errorf("verdicts %q, want %q", got, want)
			}
			_, commands := s.gotInTheEnd(t, client)
			mails := 0
			for _, line := range commands {
				if strings.HasPrefix(line, "MAIL") {
					mails++
				}
			}
			if mails != c.transactions || len(a.Envelope.Recipients) != all {
				t.Errorf("%d transactions, want %d: %q", mails, c.transactions, commands)
			}
		})
	}
}
