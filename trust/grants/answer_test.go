package grants

import (
	"fmt"
	"io"
	netmail "net/mail"
	"regexp"
	"strings"
	"testing"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
)

func replyTo(t *testing.T, message string) string {
	t.Helper()
	m, err := netmail.ReadMessage(strings.NewReader(message))
	if err != nil {
		t.Fatal(err)
	}
	list, err := m.Header.AddressList("Reply-To")
	if err != nil || len(list) != 1 {
		t.Fatalf("Reply-To: %v %v", list, err)
	}
	return list[0].Address
}

// refuseAt is the other address that a request's mail names.
func refuseAt(t *testing.T, message string) string {
	t.Helper()
	m := regexp.MustCompile(`(?m)^    (refuse=\S+)\r$`).FindStringSubmatch(message)
	if m == nil {
		t.Fatalf("no address to refuse at in\n%s", message)
	}
	return m[1]
}

const plain = "From: romeo@montague.example\r\nSubject: Re: x\r\nAuto-Submitted: no\r\n\r\nyes\r\n"

// asked has a request waiting and returns where it is answered.
func asked(t *testing.T, s *side) (permit, refuse mail.Address) {
	s.clear()
	s.take(request(romeo, juliet))
	s.work()
	return address(t, replyTo(t, s.lastMail())), address(t, refuseAt(t, s.lastMail()))
}

// TestAnswers: an answer counts once, from who was asked, and as it was made.
func TestAnswers(t *testing.T) {
	s := newSide(t, "montague.example")
	other := mail.Address{Local: "benvolio", Domain: "montague.example"}
	change := func(a mail.Address, by func(string) string) mail.Address { a.Local = by(a.Local); return a }
	for name, c := range map[string]struct {
		answer func(s *side, permit, refuse mail.Address) *mail.Failure
		want   string // what is given afterwards; "" for nothing, the request waiting still
	}{
		"permitted": {func(s *side, permit, _ mail.Address) *mail.Failure {
			return s.Answer(t.Context(), romeo, permit, mail.Bytes(plain))
		}, "granted"},
		"refused": {func(s *side, _, refuse mail.Address) *mail.Failure {
			return s.Answer(t.Context(), romeo, refuse, mail.Bytes(plain))
		}, "revoked"},
		"in capital letters": {func(s *side, permit, _ mail.Address) *mail.Failure {
			return s.Answer(t.Context(), mail.Address{Local: "ROMEO", Domain: romeo.Domain}, change(permit, strings.ToUpper), mail.Bytes(plain))
		}, "granted"},
		"by somebody else": {func(s *side, permit, _ mail.Address) *mail.Failure {
			return s.Answer(t.Context(), other, permit, mail.Bytes(plain))
		}, ""},
		"by the author": {func(s *side, permit, _ mail.Address) *mail.Failure {
			return s.Answer(t.Context(), juliet, permit, mail.Bytes(plain))
		}, ""},
		"by nobody": {func(s *side, permit, _ mail.Address) *mail.Failure {
			return s.Answer(t.Context(), mail.Address{}, permit, mail.Bytes(plain))
		}, ""},
		"with the code for refusing": {func(s *side, _, refuse mail.Address) *mail.Failure {
			return s.Answer(t.Context(), romeo, change(refuse, func(s string) string { return strings.Replace(s, "refuse", "permit", 1) }), mail.Bytes(plain))
		}, ""},
		"with a changed code": {func(s *side, permit, _ mail.Address) *mail.Failure {
			return s.Answer(t.Context(), romeo, change(permit, func(s string) string { return s[:len(s)-2] + "aa" }), mail.Bytes(plain))
		}, ""},
		"with a shorter code": {func(s *side, permit, _ mail.Address) *mail.Failure {
			return s.Answer(t.Context(), romeo, change(permit, func(s string) string { return s[:len(s)-1] }), mail.Bytes(plain))
		}, ""},
		"at another domain": {func(s *side, permit, _ mail.Address) *mail.Failure {
			permit.Domain = "capulet.example"
			return s.Answer(t.Context(), romeo, permit, mail.Bytes(plain))
		}, ""},
		"by a program that is away": {func(s *side, permit, _ mail.Address) *mail.Failure {
			return s.Answer(t.Context(), romeo, permit, mail.Bytes("Auto-Submitted: auto-replied (vacation)\r\n\r\naway\r\n"))
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			permit, refuse := asked(t, s)
			f := c.answer(s, permit, refuse)
			if (f == nil) != (c.want != "") {
				t.Errorf("answered: %v", f)
			}
			want := ""
			if c.want != "" {
				want = "romeo@montague.example juliet@capulet.example " + c.want
			}
			if got := s.stored(store.GrantGiven); got != want {
				t.Errorf("given %q, want %q", got, want)
			}
			if waits := s.stored(store.GrantAsked) != ""; waits != (c.want == "") {
				t.Errorf("still waiting: %v", waits)
			}
			if c.want == "" {
				return
			}
			for _, again := range []mail.Address{permit, refuse} {
				if f := s.Expects(t.Context(), romeo, again); f == nil || f.Kind != mail.NoSuchMailbox {
					t.Errorf("again: %v", f)
				}
				if f := s.Answer(t.Context(), romeo, again, mail.Bytes(plain)); f == nil {
					t.Error("answered twice")
				}
			}
		})
	}
}

// TestAnswerExpires: with the request its address ends, and a later request of
// the same author has another.
func TestAnswerExpires(t *testing.T) {
	s := newSide(t, "montague.example")
	permit, _ := asked(t, s)
	waiting, err := Find(t.Context(), s.store, store.GrantName{Kind: store.GrantAsked, Recipient: Name(romeo), Author: Name(juliet)}, juliet.Domain)
	if err != nil {
		t.Fatal(err)
	}
	if left := time.Until(waiting.Expires); left < 13*24*time.Hour || left > 14*24*time.Hour {
		t.Errorf("waits for %s", left)
	}
	waiting.Expires = time.Now().Add(-time.Second)
	s.put(waiting)
	if f := s.Answer(t.Context(), romeo, permit, mail.Bytes(plain)); f == nil {
		t.Error("an expired request was answered")
	}
	s.take(request(romeo, juliet))
	s.work()
	if next := replyTo(t, s.lastMail()); len(s.mails) != 2 || next == permit.String() {
		t.Errorf("%d mails, the last to be answered at %s", len(s.mails), next)
	}
	if f := s.Expects(t.Context(), romeo, permit); f == nil {
		t.Error("the first address is good for the second request")
	}
}

// TestOtherSecret: an address made with another secret is good for nothing.
func TestOtherSecret(t *testing.T) {
	s := newSide(t, "montague.example")
	permit, _ := asked(t, s)
	s.cfg.Secret = []byte("another secret")
	if f := s.Expects(t.Context(), romeo, permit); f == nil {
		t.Error("taken")
	}
}

// TestRequestMail: nothing of what a stranger says can be taken for ours, or
// becomes a header, and mail programs that answer by themselves are told not
// to.
func TestRequestMail(t *testing.T) {
	s := newSide(t, "montague.example")
	for _, author := range []string{"juliet@capulet.example", `"Win a prize\" <x@y>, "@capulet.example`, "j\u00fcl\u00efet@capulet.example", strings.Repeat("j", 64) + "@" + strings.Repeat("a.", 90) + "example"} {
		a := address(t, author)
		p := mail.Permission{Type: mail.PermissionRequest, Mailbox: romeo, Author: a,
			Text: "Hello\r\n.\r\nBcc: all@montague.example\r\n\r\n" + strings.Repeat("long ", 100)}
		s.take(p)
		s.work()
		message := s.lastMail()
		m, err := netmail.ReadMessage(strings.NewReader(message))
		if err != nil {
			t.Fatalf("%v in\n%s", err, message)
		}
		if m.Header.Get("Auto-Submitted") != "auto-generated" || m.Header.Get("To") != "<romeo@montague.example>" || len(m.Header) != 10 {
			t.Errorf("header %v", m.Header)
		}
		body, err := io.ReadAll(m.Body)
		if err != nil {
			t.Fatal(err)
		}
		said := 0
		for _, line := range strings.Split(message, "\r\n") {
			if len(line) > 900 || strings.ContainsAny(line, "\r\n\x00") {
				t.Errorf("line %q", line)
			}
			if strings.Contains(line, "Bcc") {
				said++
				if !strings.HasPrefix(line, "    | Hello . Bcc: ") || len(line) > maxSaid+6 {
					t.Errorf("said in %q", line)
				}
			}
		}
		if said != 1 || !strings.Contains(string(body), "    "+Name(a)+"\r\n") {
			t.Errorf("said %d times in\n%s", said, message)
		}
	}
}

// TestWayBack: whoever a user writes to may write back, unless the mail was
// made by a program, goes to many, or somebody has decided otherwise.
func TestWayBack(t *testing.T) {
	outgoing := func(header string, to ...string) *mail.Message {
		m := &mail.Message{Content: mail.Bytes(header + "From: romeo@montague.example\r\nSubject: x\r\n\r\nhello\r\n")}
		for _, rcpt := range to {
			m.Envelope.Recipients = append(m.Envelope.Recipients, mail.Recipient{Address: address(t, rcpt)})
		}
		return m
	}
	s := newSide(t, "montague.example")
	var many []string
	for i := range maxAtOnce + 1 {
		many = append(many, fmt.Sprint("x", i, "@capulet.example"))
	}
	for name, c := range map[string]struct {
		m    *mail.Message
		want bool
	}{
		"written":               {outgoing("", "juliet@capulet.example"), true},
		"marked as not by one":  {outgoing("Auto-Submitted: No\r\n", "juliet@capulet.example"), true},
		"with a colleague":      {outgoing("", "benvolio@montague.example", "juliet@capulet.example"), true},
		"to a colleague":        {outgoing("", "benvolio@montague.example"), false},
		"vacation":              {outgoing("auto-submitted : auto-replied; x=y\r\n", "juliet@capulet.example"), false},
		"generated":             {outgoing("Auto-Submitted:\r\n auto-generated\r\n", "juliet@capulet.example"), false},
		"bulk":                  {outgoing("Precedence: bulk\r\n", "juliet@capulet.example"), false},
		"list precedence":       {outgoing("Precedence: LIST (x)\r\n", "juliet@capulet.example"), false},
		"junk":                  {outgoing("Precedence: junk\r\n", "juliet@capulet.example"), false},
		"list":                  {outgoing("List-Id: <a.b>\r\n", "juliet@capulet.example"), false},
		"list post":             {outgoing("LIST-Post: NO\r\n", "juliet@capulet.example"), false},
		"report":                {outgoing("Content-Type: multipart/report; report-type=disposition-notification; boundary=x\r\n", "juliet@capulet.example"), false},
		"to many":               {outgoing("", many...), false},
		"header without an end": {outgoing("X: "+strings.Repeat("y", maxHeader)+"\r\n", "juliet@capulet.example"), false},
	} {
		t.Run(name, func(t *testing.T) {
			s.clear()
			s.Wrote(t.Context(), romeo, c.m)
			s.work()
			want := ""
			if c.want {
				want = "romeo@montague.example juliet@capulet.example granted"
			}
			if got := s.stored(store.GrantGiven); got != want {
				t.Errorf("given %q, want %q", got, want)
			}
		})
	}
	s.clear()
	s.Wrote(t.Context(), mail.Address{}, outgoing("", "juliet@capulet.example"))
	s.work()
	if got := s.stored(store.GrantGiven); got != "" {
		t.Errorf("from a null reverse-path: %s", got)
	}
	for _, before := range []store.Grant{
		{State: store.Revoked, Origin: store.ByRecipient}, {State: store.Revoked, Origin: store.Automatic}, {State: store.Granted, Origin: store.ByOperator},
	} {
		before.GrantName = store.GrantName{Kind: store.GrantGiven, Recipient: Name(romeo), Author: Name(juliet)}
		before.Peer, before.Told = juliet.Domain, true
		s.put(before)
		s.Wrote(t.Context(), romeo, outgoing("", "juliet@capulet.example"))
		s.work()
		after, err := Find(t.Context(), s.store, before.GrantName, juliet.Domain)
		if err != nil || after.State != before.State || after.Origin != before.Origin {
			t.Errorf("%+v became %+v, %v", before, after, err)
		}
	}
}

// TestWayBackAnswersARequest: who writes to somebody that has asked needs not
// answer besides, and what was granted by writing lasts as long as there is
// writing.
func TestWayBackAnswersARequest(t *testing.T) {
	s := newSide(t, "montague.example")
	permit, _ := asked(t, s)
	m := &mail.Message{Content: mail.Bytes(plain)}
	m.Envelope.Recipients = []mail.Recipient{{Address: juliet}}
	s.Wrote(t.Context(), romeo, m)
	s.work()
	if f := s.Expects(t.Context(), romeo, permit); f == nil {
		t.Error("the request waits still")
	}
	n := store.GrantName{Kind: store.GrantGiven, Recipient: Name(romeo), Author: Name(juliet)}
	first, err := Find(t.Context(), s.store, n, juliet.Domain)
	if err != nil || first.Origin != store.Automatic || time.Until(first.Expires) < 179*24*time.Hour {
		t.Fatalf("%+v %v", first, err)
	}
	s.Wrote(t.Context(), romeo, m)
	s.work()
	if again, _ := Find(t.Context(), s.store, n, juliet.Domain); again.Version != first.Version {
		t.Error("stored anew for each message")
	}
	first.Expires = time.Now().Add(30 * 24 * time.Hour)
	s.put(first)
	s.Wrote(t.Context(), romeo, m)
	s.work()
	if again, _ := Find(t.Context(), s.store, n, juliet.Domain); time.Until(again.Expires) < 179*24*time.Hour {
		t.Errorf("not prolonged: until %s", again.Expires)
	}
}

func FuzzAnswerAddress(f *testing.F) {
	f.Add("permit=aaaaaaaaaaaaaaaaaaaaaaaaaa")
	f.Add("refuse=")
	f.Fuzz(func(t *testing.T, local string) {
		what, code, ok := cutAnswer(local)
		if ok && (len(code) != 26 || what != permits && what != refuses || !strings.EqualFold(string(what)+"="+code, local)) {
			t.Errorf("%q became %q %q", local, what, code)
		}
	})
}
