package wire

import (
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
)

const (
	header = `<?xml version='1.0'?><stream:stream xmlns='jabber:server' ` +
		`xmlns:stream='http://etherx.jabber.org/streams' from='a.example' to='b.example' version='1.0'>`
	footer = `</stream:stream>`
)

// readAll parses a header and elements to the stream's end.
func readAll(r io.Reader, l Limits) (*Header, []*Element, error) {
	p := NewParser(r, l)
	h, err := p.Header()
	if err != nil {
		return nil, nil, err
	}
	var out []*Element
	for {
		e, err := p.Next()
		if err == io.EOF {
			return h, out, nil
		}
		if err != nil {
			return h, out, err
		}
		out = append(out, e)
	}
}

// canon writes an element in a form that shows all of it.
func canon(e *Element) string {
	var b strings.Builder
	fmt.Fprintf(&b, "{%s}%s", e.Name.Space, e.Name.Local)
	for _, a := range e.Attrs {
		fmt.Fprintf(&b, " {%s}%s=%q", a.Name.Space, a.Name.Local, a.Value)
	}
	fmt.Fprintf(&b, " %q [", e.Text)
	for _, c := range e.Children {
		b.WriteString(canon(c))
	}
	b.WriteString("]")
	return b.String()
}

var accepted = []struct{ name, in, want string }{
	{"empty element", `<iq/>`, `{jabber:server}iq "" []`},
	{"empty element, spaced", "<iq\t\r\n/>", `{jabber:server}iq "" []`},
	{"attributes", `<iq a='1' b = "2"/>`, `{jabber:server}iq {}a="1" {}b="2" "" []`},
	{"other quote inside", `<iq a='"' b="'"/>`, `{jabber:server}iq {}a="\"" {}b="'" "" []`},
	{"end tag, spaced", "<iq></iq \n>", `{jabber:server}iq "" []`},
	{"children", `<iq><a xmlns='x'><b/></a><c/></iq>`, `{jabber:server}iq "" [{x}a "" [{x}b "" []]{jabber:server}c "" []]`},
	{"prefix", `<p:iq xmlns:p='x' p:a='1' a='2'/>`, `{x}iq {x}a="1" {}a="2" "" []`},
	{"prefix redeclared inside", `<iq xmlns:p='x'><p:a xmlns:p='y'/><p:b/></iq>`, `{jabber:server}iq "" [{y}a "" []{x}b "" []]`},
	{"default namespace undeclared", `<iq><a xmlns=''/></iq>`, `{jabber:server}iq "" [{}a "" []]`},
	{"xml prefix", `<iq xml:lang='de'/>`, `{jabber:server}iq {http://www.w3.org/XML/1998/namespace}lang="de" "" []`},
	{"xml declared as it is", `<iq xmlns:xml='http://www.w3.org/XML/1998/namespace'/>`, `{jabber:server}iq "" []`},
	{"text around children", `<iq>a<b/>c</iq>`, `{jabber:server}iq "ac" [{jabber:server}b "" []]`},
	{"five entities", `<iq a='&amp;&lt;&gt;&apos;&quot;'>&amp;&lt;&gt;&apos;&quot;</iq>`, `{jabber:server}iq {}a="&<>'\"" "&<>'\"" []`},
	{"character references", `<iq a='&#65;&#x42;&#x1F4E7;'>&#65;&#x42;&#x1F4E7;</iq>`, `{jabber:server}iq {}a="AB📧" "AB📧" []`},
	{"references keep white space", `<iq a='&#9;&#10;&#13;'>&#13;&#10;</iq>`, `{jabber:server}iq {}a="\t\n\r" "\r\n" []`},
	{"line ends in text", "<iq>a\r\nb\rc\nd\r\r\n</iq>", `{jabber:server}iq "a\nb\nc\nd\n\n" []`},
	{"line ends in attributes", "<iq a='a\r\nb\rc\nd\te'/>", `{jabber:server}iq {}a="a b c d e" "" []`},
	{"CDATA", `<iq>a<![CDATA[<&]]]]>b</iq>`, `{jabber:server}iq "a<&]]b" []`},
	{"CDATA with line ends", "<iq><![CDATA[a\r\nb]]></iq>", `{jabber:server}iq "a\nb" []`},
	{"]]> in two parts", `<iq>]]<![CDATA[x]]>&gt;</iq>`, `{jabber:server}iq "]]x>" []`},
	{"]] and > apart", `<iq>]] > ]&gt;</iq>`, `{jabber:server}iq "]] > ]>" []`},
	{"]]> in an attribute", `<iq a=']]>'/>`, `{jabber:server}iq {}a="]]>" "" []`},
	{"UTF-8", "<iq a='é'>日本語𝄞</iq>", `{jabber:server}iq {}a="é" "日本語𝄞" []`},
	{"UTF-8 name", "<é·/>", `{jabber:server}é· "" []`},
	{"long text", "<iq>" + strings.Repeat("QUJD", 20000) + "</iq>", `{jabber:server}iq "` + strings.Repeat("QUJD", 20000) + `" []`},
}

func TestAccepts(t *testing.T) {
	for _, tt := range accepted {
		t.Run(tt.name, func(t *testing.T) {
			for how, r := range map[string]io.Reader{
				"whole":          strings.NewReader(header + tt.in + footer),
				"octet by octet": iotest.OneByteReader(strings.NewReader(header + tt.in + footer)),
			} {
				_, got, err := readAll(r, Default())
				if err != nil || len(got) != 1 {
					t.Fatalf("%s: %d elements, error %v", how, len(got), err)
				}
				if c := canon(got[0]); c != tt.want {
					t.Errorf("%s:\n got %.300s\nwant %.300s", how, c, tt.want)
				}
				if got[0].Size != len(tt.in) {
					t.Errorf("%s: size %d, want %d", how, got[0].Size, len(tt.in))
				}
			}
		})
	}
}

// TestSplitAnywhere cuts a stream that has everything at each octet.
func TestSplitAnywhere(t *testing.T) {
	in := header + "<iq a='&#x1F4E7;\r\n'>é\r\n]]<![CDATA[]]&]]>&amp;<p:x xmlns:p='y' p:b=\"]\"/></iq> \n<é/>" + footer
	_, want, err := readAll(strings.NewReader(in), Default())
	if err != nil || len(want) != 2 {
		t.Fatal(len(want), err)
	}
	for i := 1; i < len(in); i++ {
		_, got, err := readAll(io.MultiReader(strings.NewReader(in[:i]), strings.NewReader(in[i:])), Default())
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("cut at %d: %v", i, err)
		}
		// And a connection that ends there is not the end of the stream.
		_, _, err = readAll(strings.NewReader(in[:i]), Default())
		if err != io.ErrUnexpectedEOF {
			t.Fatalf("ended at %d: %v", i, err)
		}
	}
}

func TestHeader(t *testing.T) {
	const open = `<stream:stream xmlns='jabber:server' xmlns:stream='http://etherx.jabber.org/streams'`
	tests := []struct {
		name, in  string
		want      Header
		condition string
	}{
		{"full", `<?xml version="1.0" encoding='utf-8' standalone='yes'?>` + open + ` from='a' to='b' id='c' version='1.0' xml:lang='en'>`,
			Header{"a", "b", "c", "1.0", "en", "jabber:server"}, ""},
		{"bare", open + `>`, Header{Content: "jabber:server"}, ""},
		{"keepalive first", " \r\n" + open + `>`, Header{Content: "jabber:server"}, ""},
		{"line end after the declaration", "<?xml version='1.0'?>\n" + open + `>`, Header{Content: "jabber:server"}, ""},
		{"another prefix", `<s:stream xmlns='jabber:server' xmlns:s='http://etherx.jabber.org/streams'>`, Header{Content: "jabber:server"}, ""},
		{"another content", `<s:stream xmlns='jabber:client' xmlns:s='http://etherx.jabber.org/streams'>`, Header{Content: "jabber:client"}, ""},
		{"no prefix", `<stream xmlns='http://etherx.jabber.org/streams'>`, Header{}, BadNamespacePrefix},
		{"wrong namespace", `<stream:stream xmlns:stream='x'>`, Header{}, InvalidNamespace},
		{"wrong element", `<s:features xmlns:s='http://etherx.jabber.org/streams'>`, Header{}, BadFormat},
		{"empty stream", open + `/>`, Header{}, BadFormat},
		{"XML 1.1", `<?xml version='1.1'?>` + open + `>`, Header{}, NotWellFormed},
		{"no version", `<?xml encoding='UTF-8'?>` + open + `>`, Header{}, NotWellFormed},
		{"junk in the declaration", `<?xml version='1.0' a='b'?>` + open + `>`, Header{}, NotWellFormed},
		{"Latin-1", `<?xml version='1.0' encoding='ISO-8859-1'?>` + open + `>`, Header{}, UnsupportedEncoding},
		{"other instruction", `<?xml-stylesheet a?>` + open + `>`, Header{}, RestrictedXML},
		{"endless declaration", `<?xml ` + strings.Repeat(" ", 4096), Header{}, RestrictedXML},
		{"two declarations", `<?xml version='1.0'?><?xml version='1.0'?>` + open + `>`, Header{}, RestrictedXML},
		{"DTD", `<!DOCTYPE stream>` + open + `>`, Header{}, RestrictedXML},
		{"comment", `<!-- -->` + open + `>`, Header{}, RestrictedXML},
		{"byte order mark", "\ufeff" + open + `>`, Header{}, NotWellFormed},
		{"UTF-16", "\xfe\xff\x00<", Header{}, UnsupportedEncoding},
		{"UTF-16 without a mark", "\x00<", Header{}, UnsupportedEncoding},
		{"HTTP", "GET / HTTP/1.1\r\n\r\n", Header{}, NotWellFormed},
		{"endless space", strings.Repeat("\n", 1<<20), Header{}, PolicyViolation},
		{"too large", open + " " + strings.Repeat(" ", 20000), Header{}, PolicyViolation},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h, err := NewParser(strings.NewReader(tt.in), PreAuth()).Header()
			if tt.condition == "" {
				if err != nil || *h != tt.want {
					t.Fatalf("%+v, %v; want %+v", h, err, tt.want)
				}
				return
			}
			if e, ok := errors.AsType[*Error](err); !ok || e.Condition != tt.condition {
				t.Fatalf("%v, want %s", err, tt.condition)
			}
		})
	}
}

func TestReset(t *testing.T) {
	p := NewParser(strings.NewReader(header+"<auth/> \n"), PreAuth())
	p.Header()
	p.Next()
	if err := p.Reset(strings.NewReader(header + "<iq/>" + footer)); err != nil {
		t.Fatal(err)
	}
	if h, err := p.Header(); err != nil || h.From != "a.example" {
		t.Fatal(h, err)
	}
	if e, err := p.Next(); err != nil || e.Name.Local != "iq" {
		t.Fatal(e, err)
	}
	if _, err := p.Next(); err != io.EOF {
		t.Fatal(err)
	}

	p = NewParser(strings.NewReader(header+"<auth/><iq/>"), PreAuth())
	p.Header()
	p.Next()
	err := p.Reset(strings.NewReader(header))
	if e, ok := errors.AsType[*Error](err); !ok || e.Condition != PolicyViolation {
		t.Fatal("data ahead of the restart taken:", err)
	}
	if _, again := p.Header(); again != err {
		t.Fatal("read on after", err)
	}
}
