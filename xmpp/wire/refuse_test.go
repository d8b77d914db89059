package wire

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

var refused = []struct{ name, in, condition string }{
	{"DTD", `<!DOCTYPE a [<!ENTITY b 'c'>]>`, RestrictedXML},
	{"DTD inside", `<iq><!DOCTYPE a></iq>`, RestrictedXML},
	{"processing instruction", `<?a b?>`, RestrictedXML},
	{"processing instruction inside", `<iq><?a b?></iq>`, RestrictedXML},
	{"XML declaration late", `<?xml version='1.0'?>`, RestrictedXML},
	{"comment", `<!-- a -->`, RestrictedXML},
	{"comment inside", `<iq><!-- a --></iq>`, RestrictedXML},
	{"entity", `<iq>&nbsp;</iq>`, RestrictedXML},
	{"entity with a long name", `<iq>&` + strings.Repeat("a", 100) + `;</iq>`, RestrictedXML},
	{"entity in an attribute", `<iq a='&b;'/>`, RestrictedXML},
	{"bare ampersand", `<iq>a & b</iq>`, NotWellFormed},
	{"bare ampersand in an attribute", `<iq a='a&'/>`, NotWellFormed},
	{"empty reference", `<iq>&;</iq>`, NotWellFormed},
	{"empty character reference", `<iq>&#;</iq>`, NotWellFormed},
	{"empty hexadecimal reference", `<iq>&#x;</iq>`, NotWellFormed},
	{"capital X", `<iq>&#X41;</iq>`, NotWellFormed},
	{"signed reference", `<iq>&#+65;</iq>`, NotWellFormed},
	{"reference to NUL", `<iq>&#0;</iq>`, NotWellFormed},
	{"reference to a control", `<iq a='&#8;'/>`, NotWellFormed},
	{"reference to a surrogate", `<iq>&#xD800;</iq>`, NotWellFormed},
	{"reference to U+FFFE", `<iq>&#xFFFE;</iq>`, NotWellFormed},
	{"reference beyond Unicode", `<iq>&#x110000;</iq>`, NotWellFormed},
	{"reference without end", `<iq>&#65 and on and on and on</iq>`, NotWellFormed},
	{"undeclared prefix", `<p:iq/>`, NotWellFormed},
	{"undeclared attribute prefix", `<iq p:a='1'/>`, NotWellFormed},
	{"prefix out of scope", `<iq><a xmlns:p='x'/><p:b/></iq>`, NotWellFormed},
	{"prefix out of scope in the next stanza", `<iq xmlns:p='x'/><p:b/>`, NotWellFormed},
	{"duplicate attribute", `<iq a='1' a='2'/>`, NotWellFormed},
	{"duplicate after expansion", `<iq xmlns:p='x' xmlns:q='x' p:a='1' q:a='2'/>`, NotWellFormed},
	{"duplicate declaration", `<iq xmlns='x' xmlns='y'/>`, NotWellFormed},
	{"xml misdeclared", `<iq xmlns:xml='x'/>`, NotWellFormed},
	{"another prefix for xml", `<iq xmlns:p='http://www.w3.org/XML/1998/namespace'/>`, NotWellFormed},
	{"xml as the default", `<iq xmlns='http://www.w3.org/XML/1998/namespace'/>`, NotWellFormed},
	{"xmlns declared", `<iq xmlns:xmlns='http://www.w3.org/2000/xmlns/'/>`, NotWellFormed},
	{"another prefix for xmlns", `<iq xmlns:p='http://www.w3.org/2000/xmlns/'/>`, NotWellFormed},
	{"xmlns as the default", `<iq xmlns='http://www.w3.org/2000/xmlns/'/>`, NotWellFormed},
	{"element xmlns", `<xmlns:iq/>`, NotWellFormed},
	{"prefix undeclared", `<iq xmlns:p=''/>`, NotWellFormed},
	{"]]> in text", `<iq>a]]>b</iq>`, NotWellFormed},
	{"]]]> in text", `<iq>]]]></iq>`, NotWellFormed},
	{"< in an attribute", `<iq a='<'/>`, NotWellFormed},
	{"< in an attribute without end", `<iq a='` + strings.Repeat("<", 20000), NotWellFormed},
	{"attribute without quotes", `<iq a=1/>`, NotWellFormed},
	{"attribute without value", `<iq a/>`, NotWellFormed},
	{"attributes run together", `<iq a='1'b='2'/>`, NotWellFormed},
	{"wrong end tag", `<iq></message>`, NotWellFormed},
	{"end tag by namespace only", `<p:iq xmlns:p='x' xmlns:q='x'></q:iq>`, NotWellFormed},
	{"end tags crossed", `<iq><a><b></a></b></iq>`, NotWellFormed},
	{"end tag with attribute", `<iq></iq a='1'>`, NotWellFormed},
	{"wrong end of the stream", `</stream:iq>`, NotWellFormed},
	{"name starts with a digit", `<1iq/>`, NotWellFormed},
	{"name starts with a hyphen", `<-iq/>`, NotWellFormed},
	{"space before the name", `< iq/>`, NotWellFormed},
	{"two colons", `<a:b:c/>`, NotWellFormed},
	{"colon first", `<:a/>`, NotWellFormed},
	{"colon last", `<a:/>`, NotWellFormed},
	{"local name starts with a digit", `<stream:1/>`, NotWellFormed},
	{"name with a wrong character", "<a\u00d7/>", NotWellFormed},
	{"name that starts with a combining mark", "<\u0300a/>", NotWellFormed},
	{"slash astray", `<iq / a='1'>`, NotWellFormed},
	{"not CDATA", `<iq><![INCLUDE[a]]></iq>`, NotWellFormed},
	{"NUL", "<iq>a\x00b</iq>", NotWellFormed},
	{"control in text", "<iq>\x0b</iq>", NotWellFormed},
	{"control in an attribute", "<iq a='\x1f'/>", NotWellFormed},
	{"control in CDATA", "<iq><![CDATA[\x01]]></iq>", NotWellFormed},
	{"U+FFFF", "<iq>\uffff</iq>", NotWellFormed},
	{"stray octet", "<iq>\xff</iq>", UnsupportedEncoding},
	{"Latin-1", "<iq a='\xe9t\xe9'/>", UnsupportedEncoding},
	{"cut sequence", "<iq>\xe2\x82</iq>", UnsupportedEncoding},
	{"overlong slash", "<iq>\xc0\xaf</iq>", UnsupportedEncoding},
	{"overlong in an attribute", "<iq a='\xe0\x80\xaf'/>", UnsupportedEncoding},
	{"encoded surrogate", "<iq>\xed\xa0\x80</iq>", UnsupportedEncoding},
	{"not UTF-8 in a name", "<a\xff/>", UnsupportedEncoding},
	{"text between stanzas", `<iq/>x`, BadFormat},
	{"too deep", strings.Repeat("<a>", 40), PolicyViolation},
	{"too many elements", "<iq>" + strings.Repeat("<a/>", 9000), PolicyViolation},
	{"too many attributes", "<iq " + attributes(40) + "/>", PolicyViolation},
	{"too many namespaces", "<iq>" + strings.Repeat("<a "+declarations(30)+">", 3), PolicyViolation},
	{"too large", "<iq>" + strings.Repeat("QUJD", 200000), PolicyViolation},
	{"too large in small pieces", "<iq>" + strings.Repeat("a\n", 400000), PolicyViolation},
	{"endless attribute", "<iq a='" + strings.Repeat("a", 1<<20), PolicyViolation},
	{"endless name", "<" + strings.Repeat("a", 1<<20), PolicyViolation},
	{"endless attribute name", "<iq " + strings.Repeat("a", 1<<20), PolicyViolation},
	{"endless space in a tag", "<iq " + strings.Repeat(" ", 1<<20), PolicyViolation},
	{"endless space between stanzas", strings.Repeat(" ", 1<<20), PolicyViolation},
	{"endless CDATA", "<iq><![CDATA[" + strings.Repeat("]", 1<<20), PolicyViolation},
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
		fmt.Fprintf(&b, " xmlns:a%d='x'", i)
	}
	return b.String()
}

func TestRefuses(t *testing.T) {
	for _, tt := range refused {
		t.Run(tt.name, func(t *testing.T) {
			for how, r := range map[string]io.Reader{
				"whole":          strings.NewReader(header + tt.in + footer),
				"octet by octet": iotest.OneByteReader(strings.NewReader(header + tt.in + footer)),
			} {
				p := NewParser(r, Default())
				if _, err := p.Header(); err != nil {
					t.Fatal(err)
				}
				var err error
				for err == nil {
					_, err = p.Next()
				}
				e, ok := errors.AsType[*Error](err)
				if !ok || e.Condition != tt.condition {
					t.Errorf("%s: %v, want %s", how, err, tt.condition)
				}
				if _, again := p.Next(); again != err {
					t.Errorf("%s: read on after %v: %v", how, err, again)
				}
			}
		})
	}
}

// TestRefusesSplitAnywhere cuts what is refused at each octet: the condition
// is the same.
func TestRefusesSplitAnywhere(t *testing.T) {
	for _, tt := range refused {
		in := header + tt.in + footer
		if len(tt.in) > 200 {
			continue
		}
		for i := len(header); i < len(in); i++ {
			_, _, err := readAll(io.MultiReader(strings.NewReader(in[:i]), strings.NewReader(in[i:])), Default())
			if e, ok := errors.AsType[*Error](err); !ok || e.Condition != tt.condition {
				t.Fatalf("%s, cut at %d: %v", tt.name, i, err)
			}
		}
	}
}
