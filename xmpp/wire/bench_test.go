package wire

import (
	"encoding/base64"
	"strconv"
	"testing"
)

func BenchmarkParseBase64(b *testing.B) {
	for _, size := range []int{20 << 10, 200 << 10} {
		stanza := []byte("<iq type='set' id='abcdefgh' from='capulet.example' to='montague.example'><offer xmlns='urn:x' tid='1'><rcpt to='a@b'/><content>" +
			base64.StdEncoding.EncodeToString(make([]byte, size)) + "</content></offer></iq>")
		b.Run(strconv.Itoa(size>>10)+"KB", func(b *testing.B) {
			p := NewParser(&loop{head: []byte(header), body: stanza}, Default())
			if _, err := p.Header(); err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(len(stanza)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := p.Next(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// loop gives out head once and body for ever, a TLS record at most a read.
type loop struct {
	head, body []byte
	at         int
}

func (l *loop) Read(p []byte) (int, error) {
	if len(l.head) > 0 {
		n := copy(p, l.head)
		l.head = l.head[n:]
		return n, nil
	}
	n := copy(p[:min(len(p), 16<<10)], l.body[l.at:])
	l.at = (l.at + n) % len(l.body)
	return n, nil
}

func BenchmarkEncodeBase64(b *testing.B) {
	content := make([]byte, 20<<10)
	var buf []byte
	b.SetBytes(int64(len(content)))
	for b.Loop() {
		e := NewEncoder(buf[:0])
		e.Start("offer", "urn:x")
		e.Start("content", "")
		e.Base64(content)
		e.End()
		e.End()
		buf, _ = e.Bytes()
	}
}
