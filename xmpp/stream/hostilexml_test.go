package stream

import (
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"
	"time"
)

// TestHostileXML: one wrong octet ends the link, with the condition that fits.
func TestHostileXML(t *testing.T) {
	capulet, connect := mallory(t)
	iq := "<iq type='get' id='1'" + addressed + ">"
	for _, tt := range []struct{ name, in, condition string }{
		{"DTD", "<!DOCTYPE a [<!ENTITY b 'c'>]>", "restricted-xml"},
		{"processing instruction", iq + "<?a b?></iq>", "restricted-xml"},
		{"XML declaration", "<?xml version='1.0'?>", "restricted-xml"},
		{"document type inside", iq + "<!DOCTYPE a></iq>", "restricted-xml"},
		{"comment", iq + "<!-- a --></iq>", "restricted-xml"},
		{"entity", iq + "<a>&b;</a></iq>", "restricted-xml"},
		{"duplicate attribute", "<iq id='1' id='2'/>", "not-well-formed"},
		{"undeclared prefix", iq + "<a:b/></iq>", "not-well-formed"},
		{"xmlns:xml", iq + "<a xmlns:xml='urn:x'/></iq>", "not-well-formed"},
		{"another prefix for xml", iq + "<a xmlns:p='http://www.w3.org/XML/1998/namespace'/></iq>", "not-well-formed"},
		{"xmlns as a prefix", iq + "<a xmlns:xmlns='urn:x'/></iq>", "not-well-formed"},
		{"prefix undeclared", iq + "<a xmlns:p=''/></iq>", "not-well-formed"},
		{"prefix of the stanza before", "<iq xmlns:p='urn:x' type='result' id='1'" + addressed + "/><p:iq/>", "not-well-formed"},
		{"]]> in text", iq + "<a>]]></a></iq>", "not-well-formed"},
		{"]]> after CDATA", iq + "<a><![CDATA[a]]>]]></a></iq>", "not-well-formed"},
		{"CDATA between stanzas", "<![CDATA[<iq/>]]>", "restricted-xml"},
		{"CDATA never closed", iq + "<a><![CDATA[" + strings.Repeat("]", 1<<20), "policy-violation"},
		{"CDATA in an attribute", "<iq a='<![CDATA[b]]>'/>", "not-well-formed"},
		{"byte order mark", "\ufeff<iq/>", "bad-format"},
		{"byte order mark of UTF-16", "\xff\xfe<\x00", "unsupported-encoding"},
		{"UTF-16", "\x00<\x00i\x00q", "unsupported-encoding"},
		{"NUL", iq + "<a>\x00</a></iq>", "not-well-formed"},
		{"wrong end tag", iq + "</message>", "not-well-formed"},
		{"invalid UTF-8", iq + "<a>\xff</a></iq>", "unsupported-encoding"},
		{"overlong UTF-8", iq + "<a>\xc0\xbc</a></iq>", "unsupported-encoding"},
		{"overlong UTF-8 of three octets", iq + "<a>\xe0\x80\xbc</a></iq>", "unsupported-encoding"},
		{"overlong UTF-8 of four octets", iq + "<a>\xf0\x80\x80\xbc</a></iq>", "unsupported-encoding"},
		{"overlong UTF-8 in a name", "<iq\xc0\xbc/>", "unsupported-encoding"},
		{"overlong UTF-8 in an attribute", "<iq a='\xc0\xa7'/>", "unsupported-encoding"},
		{"surrogate", iq + "<a>\xed\xa0\x80</a></iq>", "unsupported-encoding"},
		{"beyond Unicode", iq + "<a>\xf4\x90\x80\x80</a></iq>", "unsupported-encoding"},
		{"deep nesting", iq + strings.Repeat("<a>", 100000), "policy-violation"},
		{"endless attribute", "<iq a='" + strings.Repeat("a", 1<<20), "policy-violation"},
		{"endless name", "<" + strings.Repeat("a", 1<<20), "policy-violation"},
		{"endless text", iq + "<a>" + strings.Repeat("a", 1<<20), "policy-violation"},
		{"many elements", iq + strings.Repeat("<a/>", 100000), "policy-violation"},
		{"namespace flood in one tag", "<iq" + declarations(1000) + "/>", "policy-violation"},
		{"namespace flood in many tags", iq + strings.Repeat("<a"+declarations(20)+">", 30), "policy-violation"},
		{"long namespaces", iq + "<a xmlns='urn:" + strings.Repeat("a", 1<<20), "policy-violation"},
		{"attribute flood", "<iq" + attributes(1000) + "/>", "policy-violation"},
		{"namespace flood, nested", iq + strings.Repeat("<a xmlns:a='b' xmlns:c='d' xmlns:e='f' xmlns:g='h'>", 30), "policy-violation"},
		{"endless white space", strings.Repeat("\n", 1<<20), "policy-violation"},
		{"text between stanzas", "a", "bad-format"},
		{"no stanza", "<a xmlns='urn:x'/>", "unsupported-stanza-type"},
		{"client namespace", "<iq xmlns='jabber:client' type='get' id='1'" + addressed + "><a/></iq>", "unsupported-stanza-type"},
		{"features", "<stream:features/>", "unsupported-stanza-type"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := connect()
			in := []byte(tt.in)
			start := capulet.Snapshot()
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			r.conn.Write(in) // may be cut off on the way
			if c := r.streamError(); c != tt.condition {
				t.Fatalf("stream error %q, want %q", c, tt.condition)
			}
			runtime.ReadMemStats(&after)
			// No more than a few times the largest stanza, both sides and TLS
			// together, whatever was offered.
			if grew := after.TotalAlloc - before.TotalAlloc; grew > 6<<20 {
				t.Errorf("%d octets were allocated", grew)
			}
			eventually(t, "no link", func() bool { return capulet.Live("capulet.example", "mallory.example") == nil })
			if s := capulet.Snapshot(); s.StreamErrors != start.StreamErrors+1 || s.RequestsReceived != 0 {
				t.Errorf("%+v", s)
			}
		})
	}
}

// TestHostileMemory: floods of what never ends cost next to nothing. The
// bound is on all that is allocated here, the flood's own side and TLS of both
// sides included, while 32 MiB are offered.
func TestHostileMemory(t *testing.T) {
	_, connect := mallory(t, func(c *Config) { c.CloseTimeout = 200 * time.Millisecond })
	for name, in := range map[string][2]string{
		"attribute": {"<iq a='", "a"},
		"name":      {"<", "a"},
		"nesting":   {"", "<a>"},
		"space":     {"", " "},
	} {
		t.Run(name, func(t *testing.T) {
			r := connect()
			flood := []byte(strings.Repeat(in[1], 16<<10))
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			io.WriteString(r.conn, in[0])
			for range 32 << 20 / len(flood) {
				if _, err := r.conn.Write(flood); err != nil {
					break
				}
			}
			runtime.ReadMemStats(&after)
			if grew := after.TotalAlloc - before.TotalAlloc; grew > 3<<20 {
				t.Errorf("%d octets were allocated", grew)
			}
		})
	}
}

// TestCutAnywhere sends a request in two records, cut at every octet, and then
// octet by octet: each time there is the one answer.
func TestCutAnywhere(t *testing.T) {
	_, connect := mallory(t)
	r := connect()
	in := "<iq type='get' id='&#x1F4E7;&apos;'" + addressed + ">\r\n<q:echo xmlns:q='urn:test'>]]é<![CDATA[]]&]]>&gt;&#233;</q:echo></iq> "
	check := func(where int) {
		t.Helper()
		el := r.next()
		if el.Attr("id") != "📧'" || len(el.Children) != 1 || string(el.Children[0].Text) != "]]é]]&>é" {
			t.Fatalf("cut at %d: %v %s", where, el.Attrs, el.Children[0].Text)
		}
	}
	for i := 1; i < len(in); i++ {
		r.send(in[:i])
		r.send(in[i:])
		check(i)
	}
	for i := range len(in) {
		r.send(in[i : i+1])
	}
	check(-1)
}

func attributes(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, " a%d='1'", i)
	}
	return b.String()
}

func declarations(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, " xmlns:a%d='urn:x%d'", i, i)
	}
	return b.String()
}
