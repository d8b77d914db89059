package demo

import (
	"bytes"
	"encoding/json"
	"errors"
	"regexp"
	"strings"
	"testing"
)

func TestTimelineForReaders(t *testing.T) {
	var out bytes.Buffer
	tl := newTimeline(&out, false)
	tl.heading("One path")
	tl.say(event{Step: "sent", OK: true, From: "a@x", To: "b@y", Source: "m.eml", Text: "5 octets", Reply: "250 2.0.0 ok"})
	tl.say(event{Step: "refused", Text: "no"})
	tl.finish(tally{OK: true, Sent: 3, Delivered: 3, Identical: 3, Held: 2})
	tl.finish(tally{Sent: 3, Delivered: 2})
	want := regexp.MustCompile(`^
One path
 +\d\.\d{3} s   sent      +a@x → b@y +m\.eml +5 octets  250 2\.0\.0 ok
 +\d\.\d{3} s ✗ refused   +no

sent 3, delivered 3, byte-identical 3, twins 0, refused as they must be 2, in \d\.\d s: all of it held

sent 3, delivered 2, byte-identical 0, .*: NOT all of it held
$`)
	if !want.Match(out.Bytes()) {
		t.Errorf("got:\n%s", &out)
	}
}

func TestTimelineForPrograms(t *testing.T) {
	var out bytes.Buffer
	tl := newTimeline(&out, true)
	tl.heading("One path")
	tl.say(event{Step: "sent", OK: true, Path: pathAB, Reply: "250 \"quoted\""})
	tl.finish(tally{OK: true, Sent: 3})
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 2 {
		t.Fatalf("got:\n%s", &out)
	}
	var first, last map[string]any
	if err := errors.Join(json.Unmarshal([]byte(lines[0]), &first), json.Unmarshal([]byte(lines[1]), &last)); err != nil {
		t.Fatal(err)
	}
	if first["step"] != "sent" || first["ok"] != true || first["path"] != pathAB || first["reply"] != "250 \"quoted\"" || first["t"] == nil {
		t.Errorf("event %v", first)
	}
	if last["step"] != "end" || last["ok"] != true || last["sent"] != 3.0 || last["identical"] != 0.0 {
		t.Errorf("end %v", last)
	}
}
