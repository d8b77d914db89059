package gateway

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// questions waits for one answer, of romeo at yes@ours.example.
type questions struct{ answered []string }

func (q *questions) IsAnswer(to mail.Address) bool { return strings.HasPrefix(to.Local, "yes") }

func (q *questions) Expects(_ context.Context, from, to mail.Address) *mail.Failure {
	if from.Local != "romeo" || to.Local != "yes" || len(q.answered) > 0 {
		return mail.Fail(mail.NoSuchMailbox, "", nil)
	}
	return nil
}

func (q *questions) Answer(_ context.Context, from, to mail.Address, content mail.Content) *mail.Failure {
	q.answered = append(q.answered, from.String()+" "+to.String())
	return nil
}

func neighbour() mail.Client {
	c := client("")
	c.Addr = netip.MustParseAddrPort("127.0.0.1:1024")
	return c
}

// TestAnswerRecipient: an answer is taken from a user of ours or through a
// neighbour, under the reverse-path of who was asked; others find no mailbox.
func TestAnswerRecipient(t *testing.T) {
	w := newWorld(t, func(c *Config) { withRights(c); c.Answers = &questions{} })
	for name, c := range map[string]struct {
		from   mail.Client
		sender string
		to     string
		want   string
	}{
		"user":                      {client("romeo"), "romeo@home.example", "yes@home.example", ""},
		"neighbour":                 {neighbour(), "romeo@home.example", "yes@home.example", ""},
		"stranger":                  {client(""), "romeo@home.example", "yes@home.example", "550 5.1.1"},
		"somebody else":             {client("juliet"), "juliet@home.example", "yes@home.example", "550 5.1.1"},
		"another question":          {client("romeo"), "romeo@home.example", "yes.no@home.example", "550 5.1.1"},
		"a domain that is not ours": {client(""), "romeo@home.example", "yes@legacy.example", "550 5.7.1"},
	} {
		env := mail.Envelope{Sender: address(t, c.sender)}
		got := verdict(w.entrance.Recipient(t.Context(), c.from, env, mail.Recipient{Address: address(t, c.to)}))
		if got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	if f := w.entrance.Sender(t.Context(), client("juliet"), mail.Envelope{Sender: address(t, "romeo@home.example")}); f == nil {
		t.Error("a user may use another's reverse-path, and answer for them")
	}
	peers := w.Check(t.Context(), mail.Binding{Local: "home.example", Remote: "peer.example"},
		mail.Envelope{Sender: address(t, "romeo@peer.example"), Recipients: []mail.Recipient{{Address: address(t, "yes@home.example")}}})
	if peers[0] != nil { // an ordinary mailbox, which the neighbour knows or not
		t.Errorf("a peer's mail: %v", peers[0])
	}
}

// TestAnswerIsTaken: an answer is done and goes no further; what else the
// message is for is delivered, each with its verdict.
func TestAnswerIsTaken(t *testing.T) {
	for name, c := range map[string]struct {
		to           []string
		from         mail.Client
		perRecipient bool
		broken       bool
		want         string // verdicts
		answered     int
		delivered    string
	}{
		"alone":                       {[]string{"yes@home.example"}, neighbour(), false, false, "taken", 1, ""},
		"by LMTP":                     {[]string{"yes@home.example"}, neighbour(), true, false, "taken", 1, ""},
		"twice":                       {[]string{"yes@home.example", "yes@home.example"}, neighbour(), true, false, "taken 550 5.1.1", 1, ""},
		"of a stranger":               {[]string{"yes@home.example"}, client(""), false, false, "550 5.1.1", 0, ""},
		"with others":                 {[]string{"a@home.example", "yes@home.example", "b@home.example"}, neighbour(), false, false, "queued", 1, "a@home.example b@home.example"},
		"with others, by LMTP":        {[]string{"a@home.example", "yes@home.example"}, neighbour(), true, false, "queued taken", 1, "a@home.example"},
		"with others that are failed": {[]string{"a@home.example", "yes@home.example"}, neighbour(), false, true, "451 4.3.0", 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			q := &questions{}
			w := newWorld(t, func(c *Config) { c.Answers = q })
			if c.broken {
				w.faulty.order(func(f *faulty) { f.put = errors.New("disk is gone") })
			}
			m := w.message(sample, "romeo@home.example", c.to...)
			var got []string
			for _, v := range w.entrance.Accept(t.Context(), c.from, m, c.perRecipient) {
				word, _, _ := strings.Cut(v.Text, " as ")
				switch {
				case v.Failure != nil:
					word = verdict(v.Failure)
				case word == "answer taken":
					word = "taken"
				}
				got = append(got, word)
			}
			if strings.Join(got, " ") != c.want || len(q.answered) != c.answered {
				t.Errorf("verdicts %q, answered %q", got, q.answered)
			}
			if len(m.Envelope.Recipients) != len(c.to) {
				t.Errorf("the envelope has %d recipients now", len(m.Envelope.Recipients))
			}
			if c.delivered == "" {
				if n := len(w.states()); n != 0 {
					t.Errorf("%d deliveries", n)
				}
				return
			}
			until(t, "delivered", func() bool { return len(w.local.deliveries()) == 1 })
			if rcpts := strings.Join(w.local.deliveries()[0].rcpts, " "); rcpts != c.delivered {
				t.Errorf("delivered to %s", rcpts)
			}
		})
	}
}

// TestNotifyMailbox: a message of our own reaches a mailbox here, and nothing comes of
// it if it does not.
func TestNotifyMailbox(t *testing.T) {
	w := newWorld(t, nil)
	w.local.set(func(n *next) {
		n.exists = func(r mail.Address) *mail.Failure {
			switch r.Local {
			case "nobody":
				return mail.Fail(mail.NoSuchMailbox, "", nil)
			case "unsure":
				return mail.Fail(mail.Unreachable, "", nil)
			}
			return nil
		}
	})
	for _, c := range []struct {
		mailbox        string
		exists, unsure bool
	}{{"romeo@home.example", true, false}, {"nobody@home.example", false, false}, {"x@legacy.example", false, false}, {"unsure@home.example", false, true}} {
		if exists, err := w.Exists(t.Context(), address(t, c.mailbox)); exists != c.exists || (err != nil) != c.unsure {
			t.Errorf("%s: %v, %v", c.mailbox, exists, err)
		}
	}
	if err := w.Notify(t.Context(), mail.NewID(), address(t, "x@legacy.example"), []byte(sample)); err == nil {
		t.Error("a mailbox elsewhere was notified")
	}
	id := mail.NewID()
	for range 2 { // the second is the first again
		if err := w.Notify(t.Context(), id, address(t, "romeo@home.example"), []byte("Subject: \u00e9\r\n\r\nx\r\n")); err != nil {
			t.Fatal(err)
		}
	}
	w.waitState("romeo@home.example", store.Delivered)
	if n := w.reportsTo("romeo@home.example"); n != 1 || len(w.local.deliveries()) != 1 {
		t.Fatalf("%d messages, %d delivered", n, len(w.local.deliveries()))
	}
	a := w.local.deliveries()[0].attempt
	if !a.Envelope.Sender.IsNull() || a.Envelope.Recipients[0].Notify != mail.NotifyNever || a.Envelope.Body != mail.Body8BitMIME {
		t.Errorf("envelope %+v", a.Envelope)
	}
}

// TestAskAgain: a peer's refusal is remembered until the peer says otherwise.
func TestAskAgain(t *testing.T) {
	w := newWorld(t, nil)
	refuses, asked := true, 0
	w.peer.set(func(n *next) {
		n.exists = func(mail.Address) *mail.Failure {
			if asked++; refuses {
				return mail.Fail(mail.SubscriptionNeeded, "", nil)
			}
			return nil
		}
	})
	rcpt := func() string {
		return verdict(w.entrance.Recipient(t.Context(), neighbour(), mail.Envelope{Sender: address(t, "romeo@home.example")},
			mail.Recipient{Address: address(t, "juliet@peer.example")}))
	}
	for range 2 {
		if got := rcpt(); got != "550 5.7.1" {
			t.Errorf("got %q", got)
		}
	}
	w.peer.set(func(*next) { refuses = false })
	w.AskAgain(address(t, "nurse@peer.example"))
	if got := rcpt(); got != "550 5.7.1" || asked != 1 {
		t.Errorf("another's grant: %q, asked %d times", got, asked)
	}
	w.AskAgain(address(t, "Juliet@peer.example"))
	if got := rcpt(); got != "" || asked != 2 {
		t.Errorf("granted: %q, asked %d times", got, asked)
	}
}
