package trust

import (
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"mailxmppd/mail"
)

func TestSentMarks(t *testing.T) {
	boss := sender("Boss@hidden.example")
	s, other := NewSentMarks([]byte("a key")), NewSentMarks([]byte("another"))
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	s.now, other.now = func() time.Time { return now }, func() time.Time { return now }
	mark := string(s.Field(boss))
	for _, c := range []struct {
		name, content string
		to            string
		later         time.Duration
		want          bool
	}{
		{"returned", "a: b\r\n\r\n--b\r\n\r\n" + mark + "\r\n", "boss@hidden.example", 0, true},
		{"in other letters", strings.ToUpper(mark), "BOSS@hidden.example", 0, true},
		{"without CR", strings.ReplaceAll(mark, "\r\n", "\n"), "boss@hidden.example", 0, true},
		{"at the end", strings.TrimSpace(mark), "boss@hidden.example", 0, true},
		{"after a month", mark, "boss@hidden.example", 30 * 24 * time.Hour, true},
		{"after two", mark, "boss@hidden.example", 60 * 24 * time.Hour, false},
		{"of the future", mark, "boss@hidden.example", -5 * 24 * time.Hour, false},
		{"of somebody else", mark, "nurse@hidden.example", 0, false},
		{"of another gateway", string(other.Field(boss)), "boss@hidden.example", 0, false},
		{"another day's", strings.Replace(mark, ": 2", ": 1", 1), "boss@hidden.example", 0, false},
		{"quoted", "> " + mark, "boss@hidden.example", 0, false},
		{"inside a long line", strings.Repeat("x", 5000) + mark, "boss@hidden.example", 0, false},
		{"where a piece of a long line begins", strings.Repeat("x", sentMaxLine) + mark, "boss@hidden.example", 0, false},
		{"behind many others", strings.Repeat(SentField+": 1.x\r\n", maxMarks) + mark, "boss@hidden.example", 0, false},
		{"too far down", strings.Repeat("x\r\n", maxReport/3+1) + mark, "boss@hidden.example", 0, false},
		{"cut short", mark[:40], "boss@hidden.example", 0, false},
		{"without a day", SentField + ": .abc\r\n" + SentField + ": x\r\n" + SentField + ":\r\n", "boss@hidden.example", 0, false},
		{"nothing", "", "boss@hidden.example", 0, false},
	} {
		real := now
		now = now.Add(c.later)
		got, err := s.Find(mail.Bytes(c.content), sender(c.to))
		now = real
		if got != c.want || err != nil {
			t.Errorf("%s: %v, %v", c.name, got, err)
		}
	}
	if _, err := s.Find(noContent{}, boss); err == nil {
		t.Error("content that cannot be read is no answer")
	}
}

type noContent struct{}

func (noContent) Open() (io.ReadCloser, error) { return nil, errors.New("not there") }
func (noContent) Size() int64                  { return 0 }

// FuzzSentMarks: no content makes a mark by chance.
func FuzzSentMarks(f *testing.F) {
	s := NewSentMarks([]byte("a key"))
	f.Add(SentField + ": 20780.abcdefghijklmnopqrstuvwx\r\n")
	f.Add(string(NewSentMarks([]byte("x")).Field(mail.Address{Local: "a", Domain: "b.example"})))
	f.Fuzz(func(t *testing.T, content string) {
		if ok, _ := s.Find(mail.Bytes(content), mail.Address{Local: "a", Domain: "b.example"}); ok {
			t.Fatalf("%q", content)
		}
	})
}
