package transfer

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// TestPieceNotTaken holds that the memory of a chunk goes back to its stream
// only when the store has taken it: a store whose answer was a failure may
// still be reading.
func TestPieceNotTaken(t *testing.T) {
	x := newSetup()
	content := text(3000)
	x.ask(t, montague, "set", offerXML(content, false, nil, ""))
	send := func(offset, end int) []byte {
		el := parse(t, chunkXML(tid1, offset, content[offset:end]))
		x.server.handle(context.Background(), montague, "set", el)
		return el.Text
	}
	if send(0, 1000) == nil {
		t.Error("a piece that was taken is not given back")
	}
	x.store.mu.Lock()
	x.store.fail = errors.New("disk on fire")
	x.store.mu.Unlock()
	if send(1000, 2000) != nil {
		t.Error("a piece that the store may still be reading is given back")
	}
	x.store.mu.Lock()
	x.store.fail = nil
	x.store.mu.Unlock()
	if send(1000, 2000) != nil {
		t.Error("a piece of a transfer that is not open is given back")
	}
}

// TestPieces holds that content is sent the same from memory and from
// elsewhere, from any offset on.
func TestPieces(t *testing.T) {
	content := text(1000)
	inMemory, inFile := mail.NewBuffer(t.TempDir()), mail.NewBuffer(t.TempDir())
	defer inMemory.Close()
	defer inFile.Close()
	inMemory.Write(content)
	inFile.Write(content)
	inFile.Write(make([]byte, 300<<10)) // more than is kept in memory
	for name, c := range map[string]mail.Content{
		"bytes": mail.Bytes(content), "buffer": inMemory, "file": inFile, "stored": stored{content},
	} {
		for _, from := range []int{0, 1, 999, 1000} {
			p, err := openAt(c, int64(from))
			if err != nil {
				t.Fatalf("%s from %d: %v", name, from, err)
			}
			var buf, got []byte
			for len(got) < 1000-from {
				piece, err := p.next(&buf, min(300, 1000-from-len(got)))
				if err != nil {
					t.Fatalf("%s from %d: %v", name, from, err)
				}
				got = append(got, piece...)
			}
			if !bytes.Equal(got, content[from:]) {
				t.Errorf("%s from %d: other octets", name, from)
			}
			if _, err := p.next(&buf, 400<<10); err == nil {
				t.Errorf("%s: pieces beyond the end", name)
			}
			p.close()
		}
		if _, err := openAt(c, 400<<10); err == nil && name != "file" { // a seek finds no end
			t.Errorf("%s: opened beyond the end", name)
		}
	}
}

// stored is content that is not in memory and cannot seek.
type stored struct{ content []byte }

func (s stored) Open() (io.ReadCloser, error) {
	return io.NopCloser(io.MultiReader(bytes.NewReader(s.content))), nil
}

func (s stored) Size() int64 { return int64(len(s.content)) }

// keeper accepts everything, and keeps content or not.
type keeper struct {
	gateway
	keep bool
	kept []byte
	fail error
}

func (k *keeper) Accept(_ context.Context, _ store.TransferKey, _ store.ContentHash, _ mail.Binding, m *mail.Message) ([]mail.ID, []*mail.Failure) {
	if k.keep {
		k.kept, _ = m.Content.(interface{ Memory() (mail.Bytes, bool) }).Memory()
	}
	if k.fail != nil {
		return nil, []*mail.Failure{mail.AsFailure(k.fail)}
	}
	return []mail.ID{m.ID}, nil
}

// TestLentContent holds that the memory of content in an offer goes back to
// its stream only when nobody may be using it any more.
func TestLentContent(t *testing.T) {
	content := text(3000)
	for _, c := range []struct {
		name string
		keep bool
		fail error
		back bool
	}{
		{"let go of", false, nil, true}, {"kept", true, nil, false}, {"failed", false, errors.New("disk on fire"), false},
	} {
		x := newSetup()
		k := &keeper{gateway: gateway{store: x.store}, keep: c.keep, fail: c.fail}
		server := NewServer(ServerConfig{Receiver: k, Transfers: x.store})
		el := parseBinary(t, offerXML(content, true, nil, ""))
		server.handle(context.Background(), montague, "set", el)
		text := el.Child(Namespace, "content").Text
		if (text != nil) != c.back {
			t.Errorf("%s: given back: %v", c.name, text != nil)
		}
		if c.keep && !bytes.Equal(k.kept, content) {
			t.Errorf("%s: other octets", c.name)
		}
	}
}
