package gateway

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"mailxmppd/mail"
	"mailxmppd/store"
)

func withLoopKey(cfg *Config) { cfg.LoopKey = []byte("secret of the test") }

// TestBroughtBack: what an MTA brings back for recipients that it had from us
// is refused at once; a forwarded or resent message is not.
func TestBroughtBack(t *testing.T) {
	w := newWorld(t, withLoopKey)
	w.send(w.message(sample, "romeo@home.example", "a@far.example", "b@far.example"), false)
	w.waitState("b@far.example", store.Delivered)
	out := w.legacy.deliveries()[0].content
	if !strings.HasPrefix(out, passedField+": ") || !strings.HasSuffix(out, sample) {
		t.Fatalf("handed on as\n%s", out)
	}
	back := "Received: from gw.home.example by mta.home.example;\r\n\tSun, 22 Nov 2026 10:00:00 +0000\r\n" + out
	folded := strings.Replace(back, passedField+": ", strings.ToLower(passedField)+":\r\n ", 1)
	for _, c := range []struct {
		name, content string
		to            []string
		loops         bool
	}{
		{"all of them", back, []string{"a@far.example", "b@far.example"}, true},
		{"one of them", back, []string{"b@far.example"}, true},
		{"in capitals", back, []string{"B@FAR.example"}, true},
		{"folded anew", folded, []string{"a@far.example"}, true},
		{"forwarded", back, []string{"c@far.example"}, false},
		{"forwarded to us", back, []string{"juliet@home.example"}, false},
		{"one of them and another", back, []string{"a@far.example", "c@far.example"}, false},
		{"sent again by a person", "Resent-From: x@home.example\r\n" + back, []string{"a@far.example"}, false},
		{"quoted in the body", "Received: from a by b\r\nSubject: x\r\n\r\n" + out, []string{"a@far.example"}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := w.send(w.message(c.content, "romeo@home.example", c.to...), false)[0]
			if loops := v.Failure != nil && v.Failure.Kind == mail.Loop && v.Failure.Status() == "5.4.6"; loops != c.loops {
				t.Errorf("%+v, want loops %v", v, c.loops)
			}
		})
	}
}

// TestMarkedForMTAs: mail to mailboxes and peers carries no mark, mail to an
// MTA behind one of our domains does.
func TestMarkedForMTAs(t *testing.T) {
	w := newWorld(t, func(cfg *Config) {
		withLoopKey(cfg)
		cfg.Domains[1].MTA = true
	})
	for _, to := range []string{"a@home.example", "a@second.example", "a@peer.example"} {
		w.send(w.message(sample, "romeo@home.example", to), false)
		w.waitState(to, store.Delivered)
	}
	for _, d := range append(w.local.deliveries(), w.peer.deliveries()...) {
		if marked := strings.Contains(d.content, passedField); marked != (d.rcpts[0] == "a@second.example") {
			t.Errorf("%s: marked %v", d.rcpts[0], marked)
		}
	}
}

// TestHops: the setting counts, for clients and for peers.
func TestHops(t *testing.T) {
	w := newWorld(t, func(cfg *Config) { cfg.Hops = 10 })
	for hops, want := range map[int]bool{10: true, 11: false} {
		content := strings.Repeat("Received: from a by b\r\n", hops) + sample
		v := w.send(w.message(content, "a@far.example", "juliet@home.example"), false)[0]
		if taken := v.Failure == nil; taken != want {
			t.Errorf("%d hops: %+v", hops, v)
		}
		m := w.message(sample, "a@peer.example", "juliet@home.example")
		m.Trace = []byte(strings.Repeat("Received: from a by b\r\n\tfor <Received:@x>\r\n", hops))
		k := store.TransferKey{Domain: "peer.example", Local: "home.example", ID: fmt.Sprint(hops)}
		h := store.ContentHash{Size: m.Facts.Size, SHA256: m.Facts.SHA256}
		_, failures := w.Gateway.Accept(t.Context(), k, h, mail.Binding{Local: "home.example", Remote: "peer.example"}, m)
		if taken := failures[0] == nil; taken != want {
			t.Errorf("%d hops from a peer: %v", hops, failures[0])
		}
	}
}

// TestPassedField: lines of the field stay short, however many recipients.
func TestPassedField(t *testing.T) {
	l := loopMarks{[]byte("k")}
	var rcpts []mail.Recipient
	for i := range 1000 {
		rcpts = append(rcpts, mail.Recipient{Address: mail.Address{Local: fmt.Sprint(i), Domain: "far.example"}})
	}
	field := l.field(rcpts)
	for line := range bytes.Lines(field) {
		if len(line) > 100 || !bytes.HasSuffix(line, []byte("\r\n")) {
			t.Fatalf("line %q", line)
		}
	}
	passed, err := passedMarks(bytes.NewReader(append(field, "\r\n"...)))
	if err != nil || len(passed) != 1000 {
		t.Errorf("%d marks read back, %v", len(passed), err)
	}
}

func FuzzPassedMarks(f *testing.F) {
	f.Add([]byte(passedField + ": aaaa bbbb\r\n\tcccc\r\nX: y\r\n\r\n"))
	f.Add([]byte("Resent-To: x\r\n" + passedField + ": a"))
	f.Add([]byte(strings.Repeat("x", 5000) + "\r\n " + passedField + ": a\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		passed, err := passedMarks(bytes.NewReader(b))
		if err != nil || len(passed) > len(b) {
			t.Errorf("%d marks, %v", len(passed), err)
		}
	})
}
