package smtpbridge

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-milter"

	"mailxmppd/mail"
)

// scribe is a Judge that notes what it is asked, and refuses by its rules.
type scribe struct {
	recipient func(mail.Client, mail.Envelope, mail.Recipient) *mail.Failure
	content   func(Arrival) ([]HeaderField, *mail.Failure)
	refused   []int

	mu       sync.Mutex
	arrivals []Arrival
	contents []string
}

func (s *scribe) Recipient(_ context.Context, c mail.Client, env mail.Envelope, r mail.Recipient) *mail.Failure {
	if s.recipient != nil {
		return s.recipient(c, env, r)
	}
	return nil
}

func (s *scribe) Content(_ context.Context, a Arrival) (Finding, *mail.Failure) {
	in, err := a.Content.Open()
	if err != nil {
		return Finding{}, mail.AsFailure(err)
	}
	b, err := io.ReadAll(in)
	if err != nil {
		return Finding{}, mail.AsFailure(err)
	}
	s.mu.Lock()
	s.arrivals, s.contents = append(s.arrivals, a), append(s.contents, string(b))
	s.mu.Unlock()
	if s.content != nil {
		fields, f := s.content(a)
		return Finding{Fields: fields, Refused: s.refused}, f
	}
	return Finding{Refused: s.refused}, nil
}

// Poses says of every field of one name that it must not go on.
func (s *scribe) Poses(name, _ string) bool {
	return strings.EqualFold(strings.TrimSpace(name), "X-Poses")
}

// Clean takes out a line of that name at the very start.
func (s *scribe) Clean(content mail.Content) (mail.Content, error) {
	in, err := content.Open()
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(in)
	if err != nil {
		return nil, err
	}
	if line, rest, ok := strings.Cut(string(b), "\r\n"); ok && strings.HasPrefix(line, "X-Poses:") {
		return mail.Bytes(rest), nil
	}
	return content, nil
}

func (s *scribe) last(t *testing.T) (Arrival, string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.arrivals) == 0 {
		t.Fatal("nothing was judged")
	}
	return s.arrivals[len(s.arrivals)-1], s.contents[len(s.contents)-1]
}

func startMilter(t testing.TB, j Judge, change func(*MilterConfig)) (*Milter, net.Addr) {
	t.Helper()
	cfg := MilterConfig{
		Judge: j, Limits: DefaultLimits(), Connections: 10, TempDir: t.TempDir(),
		Trusted: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
	}
	if change != nil {
		change(&cfg)
	}
	m, err := NewMilter(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ln := listenLoopback(t)
	serveBeside(t, m, ln)
	return m, ln.Addr()
}

// askMilter opens a session as an MTA would, up to HELO.
func askMilter(t *testing.T, addr net.Addr) *milter.ClientSession {
	t.Helper()
	// go-milter's client goes down to our version 2 only without options.
	c := milter.NewClientWithOptions(addr.Network(), addr.String(), milter.ClientOptions{
		ActionMask: milter.OptAddHeader | milter.OptChangeHeader | milter.OptRemoveRcpt, ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second,
	})
	s, err := c.Session()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	if act, err := s.Conn("mx.montague.example", milter.FamilyInet, 4711, "192.0.2.1"); err != nil || act.Code != milter.ActContinue {
		t.Fatal(act, err)
	}
	s.Macros(milter.CodeHelo, "{tls_version}", "TLSv1.3", "{cipher}", "TLS_AES_128_GCM_SHA256")
	if act, err := s.Helo("helo.montague.example"); err != nil || act.Code != milter.ActContinue {
		t.Fatal(act, err)
	}
	return s
}

// answer writes an action as an SMTP reply, "go on" or "accepted".
func answer(act *milter.Action, err error) string {
	switch {
	case err != nil:
		return err.Error()
	case act.Code == milter.ActContinue:
		return "go on"
	case act.Code == milter.ActAccept:
		return "accepted"
	}
	return fmt.Sprintf("%d %s", act.SMTPCode, act.SMTPText)
}

func expectAnswer(t *testing.T, what string, act *milter.Action, err error, want string) {
	t.Helper()
	if got := answer(act, err); got != want {
		t.Fatalf("%s: got %q, want %q", what, got, want)
	}
}

// TestMilter: the judge sees the neighbour's client, the envelope and the
// content as it was sent; a refused recipient ends nothing but itself; fields
// are inserted in their order; a second message of the session is as good as
// the first.
func TestMilter(t *testing.T) {
	j := &scribe{
		recipient: func(c mail.Client, env mail.Envelope, r mail.Recipient) *mail.Failure {
			if r.Address.Local == "nobody" {
				return mail.Fail(mail.NoSuchMailbox, "", nil)
			}
			return nil
		},
		content: func(Arrival) ([]HeaderField, *mail.Failure) {
			return []HeaderField{{"Authentication-Results", "ours.example;\r\n\tspf=pass"}, {"X-Second", "b"}}, nil
		},
	}
	m, addr := startMilter(t, j, nil)
	s := askMilter(t, addr)
	for range 2 {
		s.Macros(milter.CodeMail, "i", "4XYZ", "{auth_authen}", "romeo")
		act, err := s.Mail("romeo@montague.example", []string{"SIZE=1000"})
		expectAnswer(t, "mail", act, err, "go on")
		act, err = s.Rcpt("nobody@capulet.example", nil)
		expectAnswer(t, "rcpt", act, err, "550 5.1.1 no such mailbox here")
		act, err = s.Rcpt(`"odd name"@capulet.example`, nil)
		expectAnswer(t, "rcpt", act, err, "go on")
		for _, f := range [][2]string{{"From", " romeo@montague.example"}, {"Subject", "  folded\n\t twice\n x"}, {"Empty", ""}} {
			act, err = s.HeaderField(f[0], f[1])
			expectAnswer(t, "field", act, err, "go on")
		}
		act, err = s.HeaderEnd()
		expectAnswer(t, "end of header", act, err, "go on")
		s.Macros(milter.CodeEOB, "i", "4XYZ")
		mods, act, err := s.BodyReadFrom(strings.NewReader("a\x00b\r\n.\r\nbare \r and \n\r\n"))
		expectAnswer(t, "end", act, err, "accepted")
		if len(mods) != 2 || mods[0].HeaderName != "X-Second" || mods[0].HeaderValue != " b" ||
			mods[1].HeaderName != "Authentication-Results" || mods[1].HeaderValue != " ours.example;\n\tspf=pass" {
			t.Errorf("got %+v", mods)
		}
		a, content := j.last(t)
		const want = "From: romeo@montague.example\r\nSubject:  folded\r\n\t twice\r\n x\r\nEmpty:\r\n\r\na\x00b\r\n.\r\nbare \r and \n\r\n"
		if content != want || a.Facts.Size != int64(len(want)) {
			t.Errorf("got  %q\nwant %q", content, want)
		}
		c := a.Client
		if c.Addr.String() != "192.0.2.1:4711" || c.Name != "mx.montague.example" || c.Helo != "helo.montague.example" ||
			c.User != "romeo" || c.TLS != "TLS1.3 TLS_AES_128_GCM_SHA256" || a.ID != "4XYZ" {
			t.Errorf("client %+v, id %q", c, a.ID)
		}
		if e := a.Envelope; e.Sender.String() != "romeo@montague.example" || len(e.Recipients) != 1 || e.Recipients[0].Address.Local != "odd name" {
			t.Errorf("envelope %+v", e)
		}
	}
	if got := m.Counts(); got.Messages != 2 || got.RefusedRecipients != 2 || got.Refused != 0 || got.BrokenOff != 0 {
		t.Errorf("counts %+v", got)
	}
}

// TestMilterRefuses: each of these is refused, and at the step where it shows.
func TestMilterRefuses(t *testing.T) {
	type step struct {
		name string
		run  func(s *milter.ClientSession) (*milter.Action, error)
	}
	from := func(a string) step {
		return step{"mail", func(s *milter.ClientSession) (*milter.Action, error) { return s.Mail(a, nil) }}
	}
	to := func(a string) step {
		return step{"rcpt", func(s *milter.ClientSession) (*milter.Action, error) { return s.Rcpt(a, nil) }}
	}
	field := func(n int, name, value string) step {
		return step{"field", func(s *milter.ClientSession) (act *milter.Action, err error) {
			for range n {
				if act, err = s.HeaderField(name, value); err != nil || act.Code != milter.ActContinue {
					break
				}
			}
			return act, err
		}}
	}
	header := step{"end of header", func(s *milter.ClientSession) (*milter.Action, error) { return s.HeaderEnd() }}
	body := func(n int) step {
		return step{"body", func(s *milter.ClientSession) (act *milter.Action, err error) {
			for range n {
				if act, err = s.BodyChunk([]byte(strings.Repeat("x", 60_000))); err != nil || act.Code != milter.ActContinue {
					break
				}
			}
			return act, err
		}}
	}
	end := step{"end", func(s *milter.ClientSession) (*milter.Action, error) {
		_, act, err := s.End()
		return act, err
	}}
	const a, b = "a@x.example", "b@y.example"
	for _, c := range []struct {
		name  string
		steps []step
		want  string
	}{
		{"sender without a domain", []step{from("a")}, "553 5.1.3 sender address is not valid"},
		{"sender with a line in it", []step{from("a\r\n@x.example")}, "553 5.1.3 sender address is not valid"},
		{"no recipient", []step{from(a), to("")}, "553 5.1.3 address is not valid"},
		{"recipient with two at signs", []step{from(a), to("a@b@y.example")}, "553 5.1.3 address is not valid"},
		{"a thousand and one fields", []step{from(a), to(b), field(1001, "X", " y")}, "554 5.6.0 header of the message has too many lines"},
		{"a field folded without end", []step{from(a), to(b), field(1, "X", strings.Repeat("\n y", 1001))}, "554 5.6.0 header of the message has too many lines"},
		{"a field too long", []step{from(a), to(b), field(1, "X", strings.Repeat("y", 101<<10))}, "552 5.6.0 header field of the message is too large"},
		{"a header too large", []step{from(a), to(b), field(30, "X", strings.Repeat("y", 10<<10))}, "552 5.6.0 header of the message is too large"},
		{"a bare CR in the header", []step{from(a), to(b), field(1, "X", " a\rY: b")}, "550 5.6.0 bare CR or LF in the header, lines must end in CRLF"},
		{"a notification to two", []step{from(""), to(b), to(a), field(1, "X", " y"), header}, "550 5.5.3 a notification has one recipient"},
		{"too large", []step{from(a), to(b), field(1, "X", " y"), header, body(20)}, "552 5.3.4 message is larger than 1000000 octets"},
		{"the judge says no", []step{from("judged@x.example"), to(b), field(1, "X", " y"), header, body(1), end}, "554 4.6 "},
	} {
		t.Run(c.name, func(t *testing.T) {
			j := &scribe{content: func(a Arrival) ([]HeaderField, *mail.Failure) { return nil, mail.Fail(mail.Loop, "100% a loop", nil) }}
			m, addr := startMilter(t, j, func(c *MilterConfig) { c.Limits.MaxSize = 1_000_000 })
			if c.name == "the judge says no" {
				c.want = "554 5.4.6 100 a loop"
			}
			s := askMilter(t, addr)
			for i, step := range c.steps {
				act, err := step.run(s)
				want := "go on"
				if i == len(c.steps)-1 {
					want = c.want
				}
				expectAnswer(t, step.name, act, err, want)
			}
			if got := m.Counts(); got.Refused+got.RefusedRecipients != 1 || got.BrokenOff != 0 {
				t.Errorf("counts %+v", got)
			}
			// The session goes on, with a message that may pass.
			s.Abort()
			j.content = nil
			act, err := s.Mail(a, nil)
			expectAnswer(t, "mail", act, err, "go on")
			act, err = s.Rcpt(b, nil)
			expectAnswer(t, "rcpt", act, err, "go on")
			act, err = s.HeaderField("X", " y")
			expectAnswer(t, "field", act, err, "go on")
			act, err = s.HeaderEnd()
			expectAnswer(t, "end of header", act, err, "go on")
			_, act, err = s.End()
			expectAnswer(t, "end", act, err, "accepted")
			if _, content := j.last(t); content != "X: y\r\n\r\n" {
				t.Errorf("what was refused is in the next message: %q", content)
			}
		})
	}
}

// TestMilterBadField: what a judge would insert is one field, or nothing.
func TestMilterBadField(t *testing.T) {
	for _, f := range []HeaderField{{"", "a"}, {"A:", "a"}, {"A B", "a"}, {"A", "b\r\nC: d"}, {"A", "b\nc"}, {"A", "b\rc"}, {"A", "b\x00"}, {"A", "b\r\n \r\n c"}} {
		if validField(f) {
			t.Errorf("%q is taken", f)
		}
	}
	for _, f := range []HeaderField{{"A", ""}, {"A-b", "c\r\n d"}} {
		if !validField(f) {
			t.Errorf("%q is refused", f)
		}
	}
	j := &scribe{content: func(Arrival) ([]HeaderField, *mail.Failure) { return []HeaderField{{"A", "b\r\nC: d"}}, nil }}
	_, addr := startMilter(t, j, nil)
	s := askMilter(t, addr)
	s.Mail("a@x.example", nil)
	s.Rcpt("b@y.example", nil)
	s.HeaderField("X", " y")
	s.HeaderEnd()
	mods, act, err := s.End()
	expectAnswer(t, "end", act, err, "451 4.3.0 temporary local problem")
	if len(mods) > 0 {
		t.Errorf("inserted %+v", mods)
	}
}

func frame(code byte, data string) string {
	return string(binary.BigEndian.AppendUint32(nil, uint32(len(data)+1))) + string(code) + data
}

// TestMilterHostile: what is not the protocol ends the connection, at once and
// without a word from go-milter, and is counted.
func TestMilterHostile(t *testing.T) {
	greeting := frame('O', strings.Repeat("\x00", 12))
	field := frame('L', "X\x00"+strings.Repeat("y", 90_000)+"\x00")
	for name, input := range map[string]string{
		"an empty command":             "\x00\x00\x00\x00",
		"a command too long":           "\x7f\xff\xff\xffB",
		"an unknown command":           frame('%', "s"),
		"a short negotiation":          frame('O', "\x00\x00"),
		"a connection without address": frame('C', "host\x00"),
		"a connection without port":    frame('C', "host\x004\x00"),
		"an empty connection":          frame('C', ""),
		"no macro":                     frame('D', ""),
		"MAIL without an end":          frame('M', "<a@x.example>"),
		"a field without a value":      frame('L', "X\x00"),
		"a field of three parts":       frame('L', "X\x00y\x00z\x00"),
		"a field without a name":       frame('L', "\x00y\x00"),
		"an empty field":               frame('L', ""),
		"fields outside a message":     strings.Repeat(field, 10),
		"headers that never end":       strings.Repeat(frame('M', "<a@x.example>\x00")+field, 10),
		"half a command":               "\x00\x00\x00\x10M<a@x",
		"SMTP":                         "EHLO mx.example\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			m, addr := startMilter(t, &scribe{}, nil)
			c := dialBeside(t, addr)
			go func() { // it may be cut off while it writes
				io.WriteString(c, greeting+input)
				c.(*net.TCPConn).CloseWrite()
			}()
			io.Copy(io.Discard, c)
			c.Close()
			for deadline := time.Now().Add(5 * time.Second); m.Counts().BrokenOff != 1; time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("counts %+v", m.Counts())
				}
			}
		})
	}
}

// TestMilterWaits: who says nothing is sent away, in a message and outside one.
func TestMilterWaits(t *testing.T) {
	_, addr := startMilter(t, &scribe{}, func(c *MilterConfig) { c.Timeouts.Step = 50 * time.Millisecond })
	if b, err := io.ReadAll(dialBeside(t, addr)); len(b) > 0 || err != nil {
		t.Errorf("got %q, %v", b, err)
	}
	c := dialBeside(t, addr)
	io.WriteString(c, frame('M', "<a@x.example>\x00"))
	if b, err := io.ReadAll(c); err != nil || string(b) != "\x00\x00\x00\x01c" {
		t.Errorf("got %q, %v", b, err)
	}
}

// TestMilterShutdown: a message in hand comes to its end, an idle session is
// ended at once.
func TestMilterShutdown(t *testing.T) {
	m, addr := startMilter(t, &scribe{}, nil)
	idle := dialBeside(t, addr)
	greeting := frame('O', strings.Repeat("\x00", 12))
	io.WriteString(idle, greeting)
	if _, err := io.ReadFull(idle, make([]byte, len(greeting))); err != nil {
		t.Fatal(err)
	}
	s := askMilter(t, addr)
	s.Mail("a@x.example", nil)
	s.Rcpt("b@y.example", nil)
	done := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		done <- m.Shutdown(ctx)
	}()
	if b, err := io.ReadAll(idle); err != nil || len(b) > 0 {
		t.Errorf("idle: %q, %v", b, err)
	}
	s.HeaderField("X", " y")
	s.HeaderEnd()
	_, act, err := s.End()
	expectAnswer(t, "end", act, err, "accepted")
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// FuzzMilter: whatever comes, the connection ends with it, and no panic is
// needed for that.
func FuzzMilter(f *testing.F) {
	f.Add([]byte(frame('O', strings.Repeat("\x00", 12)) + frame('C', "h\x004\x00\x19192.0.2.1\x00") + frame('H', "h\x00")))
	f.Add([]byte(frame('D', "Mi\x00x\x00") + frame('M', "<a@x.example>\x00SIZE=1\x00") + frame('R', "<b@y.example>\x00") + frame('L', "X\x00 y\n z\x00") + frame('N', "") + frame('B', "a\r\n") + frame('E', "") + frame('Q', "")))
	f.Add([]byte(frame('C', "\x006") + frame('A', "") + frame('T', "")))
	j := &scribe{}
	m, addr := startMilter(f, j, nil)
	f.Fuzz(func(t *testing.T, input []byte) {
		c, err := net.Dial(addr.Network(), addr.String())
		if err != nil {
			t.Skip(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(5 * time.Second))
		c.Write(input)
		c.(*net.TCPConn).CloseWrite()
		if _, err := io.Copy(io.Discard, c); err != nil && strings.Contains(err.Error(), "timeout") {
			t.Fatal(err)
		}
		if m.Counts().TurnedAway > 0 {
			t.Fatal("a connection was not given up")
		}
	})
}

// TestMilterTakesOut: fields that pose as ours are taken out from the end, each
// by its number among those of its name, before ours are inserted.
func TestMilterTakesOut(t *testing.T) {
	j := &scribe{content: func(Arrival) ([]HeaderField, *mail.Failure) { return []HeaderField{{"X-Poses", "ours"}}, nil }}
	_, addr := startMilter(t, j, nil)
	s := askMilter(t, addr)
	for range 2 {
		s.Mail("romeo@montague.example", nil)
		s.Rcpt("juliet@capulet.example", nil)
		for _, name := range []string{"X-Poses", "Subject", "x-poses", "X-POSES "} {
			act, err := s.HeaderField(name, " x")
			expectAnswer(t, "field", act, err, "go on")
		}
		s.HeaderEnd()
		mods, act, err := s.BodyReadFrom(strings.NewReader("body\r\n"))
		expectAnswer(t, "end", act, err, "accepted")
		var got []string
		for _, m := range mods {
			got = append(got, fmt.Sprintf("%c %d %s %q", m.Code, m.HeaderIndex, m.HeaderName, m.HeaderValue))
		}
		want := []string{`m 3 x-poses ""`, `m 2 x-poses ""`, `m 1 x-poses ""`, `i 0 X-Poses " ours"`}
		if !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// TestMilterTakesOutRecipients: who must not get a message is taken out under the
// address that the neighbour gave.
func TestMilterTakesOutRecipients(t *testing.T) {
	j := &scribe{refused: []int{1}}
	_, addr := startMilter(t, j, nil)
	s := askMilter(t, addr)
	act, err := s.Mail("romeo@montague.example", nil)
	expectAnswer(t, "mail", act, err, "go on")
	for _, to := range []string{"juliet@capulet.example", "Strict@Capulet.Example"} {
		act, err = s.Rcpt(to, nil)
		expectAnswer(t, "rcpt", act, err, "go on")
	}
	act, err = s.HeaderField("From", " romeo@montague.example")
	expectAnswer(t, "field", act, err, "go on")
	act, err = s.HeaderEnd()
	expectAnswer(t, "end of header", act, err, "go on")
	mods, act, err := s.BodyReadFrom(strings.NewReader("x\r\n"))
	expectAnswer(t, "end", act, err, "accepted")
	if len(mods) != 1 || mods[0].Code != milter.ActDelRcpt || mods[0].Rcpt != "<Strict@Capulet.Example>" {
		t.Errorf("got %+v", mods)
	}
}
