package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// ledgerTest is a ledger with its timeline and its problems in reach.
type ledgerTest struct {
	*ledger
	t        *testing.T
	lines    bytes.Buffer
	problems []string
	files    int
	badDKIM  bool
}

func newLedgerTest(t *testing.T) *ledgerTest {
	lt := &ledgerTest{t: t}
	lt.ledger = newLedger(newTimeline(&lt.lines, false),
		func(format string, args ...any) { lt.problems = append(lt.problems, fmt.Sprintf(format, args...)) },
		func([]byte) error {
			if lt.badDKIM {
				return errors.New("body hash differs")
			}
			return nil
		})
	return lt
}

func (lt *ledgerTest) send(signed bool) *sending {
	s := lt.open(pathAB, "xmpp", juliet, capulet, romeo+"@"+montague, letter{source: "x.eml", content: []byte("a: b\r\n\r\nc\r\n"), signed: signed})
	lt.reply(s, event{Step: "sent", OK: true}, true)
	return s
}

func (lt *ledgerTest) arrive(from, rcpt, message string) {
	lt.files++
	file := filepath.Join(lt.t.TempDir(), "m")
	if err := os.WriteFile(file, []byte(message), 0o600); err != nil {
		lt.t.Fatal(err)
	}
	lt.arrived(arrival{domain: domainOf(rcpt), from: from, rcpt: rcpt, file: file})
}

func TestLedgerJudges(t *testing.T) {
	const content, rcpt = "a: b\r\n\r\nc\r\n", romeo + "@" + montague
	for _, tt := range []struct {
		name     string
		signed   bool
		arrivals []string
		rcpt     string
		badDKIM  bool
		want     tally
		problem  string
		says     string
	}{
		{name: "as sent", arrivals: []string{overXMPP + content}, want: tally{OK: true, Sent: 1, Delivered: 1, Identical: 1}, says: "byte-identical"},
		{name: "tagged", arrivals: []string{"X-Mail-Trust: authenticated; x\r\n" + overXMPP + "Received: x\r\n" + content}, want: tally{OK: true, Sent: 1, Delivered: 1, Identical: 1}, says: "byte-identical"},
		{name: "signed", signed: true, arrivals: []string{overXMPP + content}, want: tally{OK: true, Sent: 1, Delivered: 1, Identical: 1}, says: "dkim=pass"},
		{name: "signature broken", signed: true, badDKIM: true, arrivals: []string{overXMPP + content}, want: tally{Sent: 1, Delivered: 1}, problem: "dkim=fail", says: "dkim=fail"},
		{name: "twin", arrivals: []string{overXMPP + content, overXMPP + content}, want: tally{Sent: 1, Delivered: 1, Identical: 1, Twins: 1}, problem: "a twin: copy 2"},
		{name: "altered", arrivals: []string{overXMPP + "a: b\r\n\r\nC\r\n"}, want: tally{Sent: 1, Delivered: 1}, problem: "content was altered"},
		{name: "by smtp", arrivals: []string{"Received: x\r\n" + content}, want: tally{OK: true, Sent: 1, Delivered: 1, Identical: 1}, problem: "arrived over smtp, not xmpp"},
		{name: "for somebody else", rcpt: "benvolio@" + montague, arrivals: []string{overXMPP + content}, want: tally{Sent: 1, Delivered: 1}, problem: "arrived for benvolio"},
		{name: "not at all", want: tally{Sent: 1}},
	} {
		lt := newLedgerTest(t)
		lt.badDKIM = tt.badDKIM
		s := lt.send(tt.signed)
		for _, message := range tt.arrivals {
			to := rcpt
			if tt.rcpt != "" {
				to = tt.rcpt
			}
			lt.arrive(s.from, to, message)
		}
		if got := lt.tally(); got != tt.want {
			t.Errorf("%s: %+v", tt.name, got)
		}
		if (tt.problem == "") != (len(lt.problems) == 0) || tt.problem != "" && !strings.Contains(lt.problems[0], tt.problem) {
			t.Errorf("%s: problems %q", tt.name, lt.problems)
		}
		if !strings.Contains(lt.lines.String(), tt.says) {
			t.Errorf("%s: timeline %s", tt.name, &lt.lines)
		}
	}
}

func TestLedgerTakesEqualMessagesApart(t *testing.T) {
	lt := newLedgerTest(t)
	a, b := lt.send(false), lt.send(false)
	if a.from == b.from {
		t.Fatalf("both from %s", a.from)
	}
	lt.arrive(b.from, b.rcpt, overXMPP+"a: b\r\n\r\nc\r\n")
	if len(a.copies) != 0 || len(b.copies) != 1 {
		t.Errorf("copies %d and %d", len(a.copies), len(b.copies))
	}
	if n, _ := lt.missing(pathAB); n != 1 {
		t.Errorf("%d missing", n)
	}
}

func TestLedgerTellsDeliveryAfterReply(t *testing.T) {
	lt := newLedgerTest(t)
	s := lt.open(pathAB, "xmpp", juliet, capulet, romeo+"@"+montague, letter{content: []byte("c\r\n")})
	lt.arrive(s.from, s.rcpt, overXMPP+"c\r\n")
	if lt.lines.Len() != 0 {
		t.Fatalf("told before the reply: %s", &lt.lines)
	}
	lt.reply(s, event{Step: "sent", OK: true}, true)
	if text := lt.lines.String(); strings.Index(text, "sent") > strings.Index(text, "delivered") || !strings.Contains(text, "delivered") {
		t.Errorf("order: %s", text)
	}
}

func TestLedgerReportsForgedStrangeAndReturnedMail(t *testing.T) {
	lt := newLedgerTest(t)
	s := lt.send(false)
	lt.arrive("somebody@else.example", romeo+"@"+montague, "x\r\n")
	if len(lt.problems) != 0 || !strings.Contains(lt.lines.String(), "not one of the demo's own") {
		t.Errorf("strange mail: %q, %s", lt.problems, &lt.lines)
	}
	lt.arrive(forgedSender, romeo+"@"+montague, "x\r\n")
	if len(lt.problems) != 1 {
		t.Errorf("forged mail: %q", lt.problems)
	}
	lt.arrive("", s.from, "Subject: undeliverable\r\n\r\n")
	if len(lt.problems) != 2 || !s.bounced {
		t.Errorf("returned mail: %q", lt.problems)
	}
	if n, _ := lt.missing(pathAB); n != 0 {
		t.Error("a message that came back is still waited for")
	}
}

func TestLedgerWait(t *testing.T) {
	lt := newLedgerTest(t)
	s := lt.send(false)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := lt.wait(ctx, pathAB, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	crashed := make(chan error, 1)
	crashed <- errors.New("gone")
	if err := lt.wait(t.Context(), pathAB, crashed); err == nil || err.Error() != "gone" {
		t.Errorf("crashed: %v", err)
	}
	done := make(chan error)
	go func() { done <- lt.wait(t.Context(), pathAB, nil) }()
	lt.arrive(s.from, s.rcpt, overXMPP+"a: b\r\n\r\nc\r\n")
	if err := <-done; err != nil {
		t.Error(err)
	}
}
