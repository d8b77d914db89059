package peers

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"testing"

	"mailxmppd/xmpp/stream"
	"mailxmppd/xmpp/transfer"
	"mailxmppd/xmpp/wire"
)

// TestCommitOverOtherStreams: on real streams, another domain cannot commit an
// open transfer or add to it; a second stream of the same domain can.
func TestCommitOverOtherStreams(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	montague := startNode(t, ca, "montague.example")
	at := Configured{Domain: "montague.example", Addrs: []string{montague.addr}}
	capulet, mallory := startNode(t, ca, "capulet.example", at), startNode(t, ca, "mallory.example", at)
	ctx := context.Background()
	first, _, err := capulet.dir.Link(ctx, "capulet.example", "montague.example")
	if err != nil {
		t.Fatal(err)
	}
	second, err := capulet.dir.Bulk(ctx, "capulet.example", "montague.example")
	if err != nil || second == first {
		t.Fatal("no second stream", err)
	}
	foreign, _, err := mallory.dir.Link(ctx, "mallory.example", "montague.example")
	if err != nil {
		t.Fatal(err)
	}

	content := []byte("Message-ID: <1@capulet.example>\r\n\r\nArt thou not Romeo?\r\n")
	hash := sha256.Sum256(content)
	tid := fmt.Sprintf("%064x", 1)
	head := "xmlns='" + transfer.Namespace + "' tid='" + tid + "'"
	chunk := func(offset int, p []byte) string {
		return fmt.Sprintf("<chunk %s offset='%d'>%s</chunk>", head, offset, base64.StdEncoding.EncodeToString(p))
	}
	forged := bytes.Repeat([]byte("x"), len(content)-20)
	const commit = "commit"
	for i, s := range []struct {
		over          transfer.Link
		payload, want string // name and next offset of the answer
	}{
		{first, fmt.Sprintf("<offer %s size='%d' sha-256='%s' sender='juliet@capulet.example' hops='0'><rcpt to='romeo@montague.example'/></offer>",
			head, len(content), base64.StdEncoding.EncodeToString(hash[:])), "ready 0"},
		{foreign, chunk(0, content), "unknown"},
		{first, chunk(0, content[:20]), "next 20"},
		{foreign, chunk(20, forged), "unknown"},
		{foreign, commit, "unknown"},
		{second, chunk(20, content[20:]), fmt.Sprint("next ", len(content))},
		{foreign, commit, "unknown"},
		{second, commit, "accepted"},
		{first, commit, "unknown"},
	} {
		if s.payload == commit {
			s.payload = "<commit " + head + "/>"
		}
		el, err := s.over.Request(ctx, "set", []byte(s.payload))
		if got := said(el, err); got != s.want {
			t.Fatalf("step %d: %q, want %q (%v)", i, got, s.want, err)
		}
	}
	if got := montague.content(t, 1); !bytes.Equal(got[0], content) {
		t.Error("content changed")
	}
	for _, l := range []transfer.Link{first, second, foreign} {
		if _, err := l.(*stream.Link).Request(ctx, "get", []byte("<ping xmlns='urn:xmpp:ping'/>")); err != nil {
			t.Error("a stream was lost:", err)
		}
	}
}

func said(el *wire.Element, err error) string {
	if err != nil || el == nil {
		return "nothing"
	}
	for _, name := range []string{"next", "offset"} {
		if v := el.Attr(name); v != "" {
			return el.Name.Local + " " + v
		}
	}
	return el.Name.Local
}
