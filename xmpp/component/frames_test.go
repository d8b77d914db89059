package component

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"mailxmppd/xmpp/wire"
)

const head = "<?xml version='1.0'?>\n<stream:stream xmlns:stream='http://etherx.jabber.org/streams' xmlns='jabber:component:accept' id='a>b'>"

// TestFrames: stanzas are cut where they end, however they arrive.
func TestFrames(t *testing.T) {
	pieces := []string{
		"<a/>", "<a></a>", "<a x='>' y=\"'/>\"/>", "<a><b><c/></b>text</a>", "<a x='/'>/</a>", "<a >&lt;</a >", "<a\nx='1'\n/>",
		"<a>" + strings.Repeat("x", 40<<10) + "</a>", "<a x='" + strings.Repeat("/", 40<<10) + "'/>",
	}
	whole := head + strings.Join(pieces, " \n") + "</stream:stream>"
	for name, r := range map[string]io.Reader{
		"at once": strings.NewReader(whole), "octet by octet": iotest.OneByteReader(strings.NewReader(whole)), "by halves": iotest.HalfReader(strings.NewReader(whole)),
	} {
		t.Run(name, func(t *testing.T) {
			f := newFrames(r, maxTag)
			if got, err := f.header(); err != nil || string(got) != head {
				t.Fatalf("%q, %v", got, err)
			}
			for _, want := range pieces {
				if got, err := f.next(64 << 10); err != nil || string(got) != want {
					t.Fatalf("%.80q, %v; want %.80q", got, err, want)
				}
			}
			if _, err := f.next(64 << 10); err != io.EOF {
				t.Error(err)
			}
		})
	}
}

// TestSkipped: a stanza beyond the limit is skipped to its end and not kept.
func TestSkipped(t *testing.T) {
	f := newFrames(strings.NewReader(head+"<a>"+strings.Repeat("<b>x</b>", 1000)+"</a><c/>"), maxTag)
	if _, err := f.header(); err != nil {
		t.Fatal(err)
	}
	if got, err := f.next(1000); err != errTooLarge || got != nil || cap(f.whole) > 2000 {
		t.Errorf("%d octets, %v, %d kept", len(got), err, cap(f.whole))
	}
	if got, err := f.next(1000); err != nil || string(got) != "<c/>" {
		t.Errorf("%q, %v", got, err)
	}
}

// FuzzStanzas: whatever a server sends, each stanza that is taken reads the
// same alone, a refusal leaves the reader fit for what follows, and reading
// ends.
func FuzzStanzas(f *testing.F) {
	for _, s := range []string{
		"<iq type='get'><ping xmlns='urn:xmpp:ping'/></iq>", "<a/><b/>", "<a><b></a></b>", "<a x='>'/>", "<a", "</stream:stream>", "<!-- -->", "<?x?>",
		"<p:a/>", "<a>&x;</a><b/>", "<a><![CDATA[</a>]]></a>", "<stream:error><conflict/></stream:error>", "<a x='1' x='2'/><b/>", "<a></a",
	} {
		f.Add([]byte(s))
	}
	limits := wire.PreAuth()
	f.Fuzz(func(t *testing.T, in []byte) {
		s := newStanzas(io.MultiReader(strings.NewReader(head), bytes.NewReader(in)), limits)
		if _, err := s.header(); err != nil {
			t.Fatal(err)
		}
		for range len(in) + 1 {
			el, err := s.next()
			if _, refused := err.(*wire.Error); refused {
				continue
			}
			if err != nil {
				return
			}
			if el.Size > limits.StanzaBytes {
				t.Fatalf("%d octets taken", el.Size)
			}
		}
		t.Fatal("reading does not end")
	})
}
