package trust

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"mailxmppd/mail"
)

// tally counts uses as a store does.
type tally struct {
	used map[string]map[string]bool
	err  error
}

func (t *tally) Use(_ context.Context, name, user string, most int, _ time.Duration) (bool, error) {
	if t.used == nil {
		t.used = map[string]map[string]bool{}
	}
	if t.used[name] == nil {
		t.used[name] = map[string]bool{}
	}
	if !t.used[name][user] && len(t.used[name]) >= most || t.err != nil {
		return false, t.err
	}
	t.used[name][user] = true
	return true, nil
}

func TestSentMarks(t *testing.T) {
	boss := sender("Boss@hidden.example")
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	make := func(key string) *SentMarks {
		s := NewSentMarks([]byte(key), &tally{}, 0)
		s.now = func() time.Time { return now }
		return s
	}
	id := mail.NewID()
	mark := string(make("a key").Field(id, boss, "far-away.example", 1))
	for _, c := range []struct {
		name, content string
		to, bound     string
		later         time.Duration
		want          bool
	}{
		{"returned", "a: b\r\n\r\n--b\r\n\r\n" + mark + "\r\n", "boss@hidden.example", "", 0, true},
		{"returned by the domain itself", mark, "boss@hidden.example", "far-away.example", 0, true},
		{"returned by another peer", mark, "boss@hidden.example", "verona.example", 0, false},
		{"in other letters", strings.ToUpper(mark), "BOSS@hidden.example", "", 0, true},
		{"without CR", strings.ReplaceAll(mark, "\r\n", "\n"), "boss@hidden.example", "", 0, true},
		{"folded", strings.Replace(mark, ": ", ":\r\n ", 1), "boss@hidden.example", "", 0, true},
		{"folded, and then something else", strings.Replace(mark, ": ", ":\r\nX: ", 1), "boss@hidden.example", "", 0, false},
		{"at the end", strings.TrimSpace(mark), "boss@hidden.example", "", 0, true},
		{"after nine days", mark, "boss@hidden.example", "", 9 * 24 * time.Hour, true},
		{"after twelve", mark, "boss@hidden.example", "", 12 * 24 * time.Hour, false},
		{"of the future", mark, "boss@hidden.example", "", -5 * 24 * time.Hour, false},
		{"of somebody else", mark, "nurse@hidden.example", "", 0, false},
		{"of another gateway", string(make("another").Field(id, boss, "far-away.example", 1)), "boss@hidden.example", "", 0, false},
		{"for more reports", strings.Replace(mark, "-2-", "-9-", 1), "boss@hidden.example", "", 0, false},
		{"of another message", strings.Replace(mark, strings.ToLower(string(id)), strings.ToLower(string(mail.NewID())), 1), "boss@hidden.example", "", 0, false},
		{"of another domain", strings.Replace(mark, "far-away.example", "verona.example", 1), "boss@hidden.example", "verona.example", 0, false},
		{"of another day", strings.Replace(mark, ": 2", ": 1", 1), "boss@hidden.example", "", 0, false},
		{"quoted", "> " + mark, "boss@hidden.example", "", 0, false},
		{"inside a long line", strings.Repeat("x", 5000) + mark, "boss@hidden.example", "", 0, false},
		{"where a piece of a long line begins", strings.Repeat("x", sentMaxLine) + mark, "boss@hidden.example", "", 0, false},
		{"behind many others", strings.Repeat(SentField+": 1.x\r\n", maxMarks) + mark, "boss@hidden.example", "", 0, false},
		{"too far down", strings.Repeat("x\r\n", maxReport/3+1) + mark, "boss@hidden.example", "", 0, false},
		{"cut short", mark[:40], "boss@hidden.example", "", 0, false},
		{"without a day", SentField + ": -abc\r\n" + SentField + ": x\r\n" + SentField + ":\r\n" + SentField + ": ----\r\n", "boss@hidden.example", "", 0, false},
		{"nothing", "", "boss@hidden.example", "", 0, false},
	} {
		s := make("a key")
		later := now.Add(c.later)
		s.now = func() time.Time { return later }
		got, err := s.Find(t.Context(), letter(c.content, "", c.to), sender(c.to), c.bound)
		if got != c.want || err != nil {
			t.Errorf("%s: %v, %v", c.name, got, err)
		}
	}
	if _, err := make("a key").Find(t.Context(), &mail.Message{Content: noContent{}}, boss, ""); err == nil {
		t.Error("content that cannot be read is no answer")
	}
}

// TestSentMarkIsUsedUp: whoever has seen a mark brings in no more than the reports
// that the mail may cause; the same one again is the same, and another message's
// mark has reports of its own.
func TestSentMarkIsUsedUp(t *testing.T) {
	uses := &tally{}
	boss, s := sender("boss@hidden.example"), NewSentMarks([]byte("a key"), uses, time.Hour)
	one, other := string(s.Field(mail.NewID(), boss, "far.example", 2)), string(s.Field(mail.NewID(), boss, "far.example", 1))
	find := func(content string, want bool) {
		t.Helper()
		if got, err := s.Find(t.Context(), letter(content, ""), boss, ""); got != want || err != nil {
			t.Errorf("%.20q: %v, %v", content, got, err)
		}
	}
	for i := range 4 {
		find(fmt.Sprintf("X: %d\r\n", i)+one, true)
	}
	find("X: 4\r\n"+one, false)
	find("X: 2\r\n"+one, true) // comes again
	find("X: 5\r\n"+one+other, true)
	uses.err = errors.New("no store")
	if ok, err := s.Find(t.Context(), letter("X: 6\r\n"+other, ""), boss, ""); ok || err == nil {
		t.Errorf("without a store: %v, %v", ok, err)
	}
}

type noContent struct{}

func (noContent) Open() (io.ReadCloser, error) { return nil, errors.New("not there") }
func (noContent) Size() int64                  { return 0 }

// FuzzSentMarks: no content makes a mark by chance.
func FuzzSentMarks(f *testing.F) {
	a := mail.Address{Local: "a", Domain: "b.example"}
	s := NewSentMarks([]byte("a key"), &tally{}, 0)
	f.Add(SentField + ": 20780-2-01jd-abcdefghijklmnopqrstuvwxabcdefgh-c.example\r\n")
	f.Add(string(NewSentMarks([]byte("x"), &tally{}, 0).Field(mail.NewID(), a, "c.example", 1)))
	f.Add(SentField + ":\r\n\t1-2-3-4-5")
	f.Fuzz(func(t *testing.T, content string) {
		if ok, _ := s.Find(t.Context(), &mail.Message{Content: mail.Bytes(content)}, a, ""); ok {
			t.Fatalf("%q", content)
		}
	})
}
