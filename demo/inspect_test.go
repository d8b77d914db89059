package demo

import (
	"strings"
	"testing"
)

const overXMPP = "Received: from capulet.example ([127.0.0.1])\r\n\tby montague.example with XMPP id 1;\r\n\tMon, 13 Jul 2026 21:00:00 +0000\r\n"

func TestInspect(t *testing.T) {
	long := "X: " + strings.Repeat("a", 995) + "\r\n"
	for _, tt := range []struct {
		name, before, sent, arrived string // arrived "": as sent
		identical                   bool
		transport                   string
	}{
		{"nothing prepended", "", "a: b\r\n\r\nc\r\n", "", true, "smtp"},
		{"over xmpp", overXMPP, "a: b\r\n\r\nc\r\n", "", true, "xmpp"},
		{"over xmpp before the last hop", "Received: by x with ESMTP;\r\n date\r\n" + overXMPP, "\r\n", "", true, "smtp"},
		{"no header", overXMPP, "no header here\r\n", "", true, "xmpp"},
		{"one empty line", overXMPP, "\r\n", "", true, "xmpp"},
		{"longest line", long, "\r\n", "", true, "smtp"},
		{"line too long", "X" + long, "\r\n", "", false, "smtp"},
		{"octet changed", overXMPP, "a: b\r\n\r\nc\r\n", "a: b\r\n\r\nC\r\n", false, "smtp"},
		{"octet added at the end", overXMPP, "c\r\n", "c\r\n\r\n", false, "smtp"},
		{"empty line before", overXMPP + "\r\n", "c\r\n", "", false, "smtp"},
		{"text before", "hello\r\n", "c\r\n", "", false, "smtp"},
		{"half a line before", overXMPP + "X: ", "c\r\n", "", false, "smtp"},
		{"bare lf before", "X: a\nY: b\r\n", "c\r\n", "", false, "smtp"},
		{"folding first", "\tfolded\r\n", "c\r\n", "", false, "smtp"},
		{"blank folded line", "X: a\r\n \r\n", "c\r\n", "", false, "smtp"},
		{"space in the name", "X Y: a\r\n", "c\r\n", "", false, "smtp"},
		{"no name", ": a\r\n", "c\r\n", "", false, "smtp"},
	} {
		arrived := tt.arrived
		if arrived == "" {
			arrived = tt.sent
		}
		got := inspect([]byte(tt.before+arrived), []byte(tt.sent))
		if got.identical != tt.identical || got.transport != tt.transport || (got.fault == nil) != tt.identical {
			t.Errorf("%s: %+v", tt.name, got)
		}
		if tt.identical && got.offset != len(tt.before) {
			t.Errorf("%s: content at %d, want %d", tt.name, got.offset, len(tt.before))
		}
	}
}

func FuzzHeaderFields(f *testing.F) {
	f.Add([]byte(overXMPP))
	f.Add([]byte("A: b\r\n c\r\nD: \r\n"))
	f.Add([]byte("A: b\r\n\r\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		fields, err := headerFields(in)
		if err == nil && strings.Join(fields, "") != string(in) {
			t.Fatalf("%q split into %q", in, fields)
		}
	})
}
