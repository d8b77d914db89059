package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
	"mailxmppd/xmpp/stream"
	"mailxmppd/xmpp/transfer"
)

// The leg itself: real streams and the real transfer protocol, with a receiver
// that keeps nothing.

// newReceivingManager makes the streams and the transfer server of the
// receiving side.
func newReceivingManager(p LegSetup) (*stream.Manager, error) {
	transfers := &passing{at: map[store.TransferKey]int64{}}
	server := transfer.NewServer(transfer.ServerConfig{Receiver: keepsNothing{transfers}, Transfers: transfers})
	return newManager(p, receiving, server.Handle)
}

func newManager(p LegSetup, name func(int) string, handle func(context.Context, *stream.Link, *stream.IQ) stream.Reply) (*stream.Manager, error) {
	roots, err := loadRoots(p.Dir)
	if err != nil {
		return nil, err
	}
	certificate, err := loadCertificates(p.Dir, p.Pairs, name)
	if err != nil {
		return nil, err
	}
	return stream.NewManager(stream.Config{
		Certificate: certificate, Roots: roots, Handle: handle, Binary: transfer.Binary(),
		MaxPerAddress: p.Pairs, // all of them come from one address here
	}), nil
}

func shutDown(m *stream.Manager) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	m.Shutdown(ctx)
}

// streams is the sending side.
type streams struct {
	m      *stream.Manager
	sender *transfer.Sender
	target []stream.Target

	content *mail.Buffer
	facts   mail.Facts
}

// openStreams opens a stream for every pair.
func openStreams(m *stream.Manager, p LegSetup) (*streams, error) {
	s := &streams{m: m, target: []stream.Target{{Host: "receiving side", Addr: p.Addr}}, content: mail.NewBuffer("")}
	s.sender = transfer.NewSender(transfer.SenderConfig{Links: s})
	return s, each(p.Pairs, 16, func(i int) error {
		_, err := m.Link(context.Background(), sending(i), receiving(i), s.target)
		return err
	})
}

// Link is transfer.Links without discovery: the receiving side is known.
func (s *streams) Link(ctx context.Context, local, remote string) (transfer.Link, transfer.Capabilities, error) {
	l, err := s.m.Link(ctx, local, remote, s.target)
	if err != nil {
		return nil, transfer.Capabilities{}, err
	}
	return l, transfer.Announced(), nil
}

// Forget has nothing to forget: what the receiving side takes is fixed here.
func (s *streams) Forget(local, remote string) {}

func (s *streams) tls() string {
	if l := s.m.Live(sending(0), receiving(0)); l != nil {
		return l.Binding().TLS
	}
	return ""
}

// load takes content in as a gateway does, in pieces: a large one is never in
// memory whole.
func (s *streams) load(size int) error {
	s.content.Close()
	s.content = mail.NewBuffer(os.TempDir())
	for size > 0 {
		piece := legContent(min(size, 64<<10))
		if _, err := s.content.Write(piece); err != nil {
			return err
		}
		size -= len(piece)
	}
	s.facts = s.content.Facts()
	return nil
}

func (s *streams) close() {
	shutDown(s.m)
	s.content.Close()
}

// send delivers messages over the first stream. What is one in a gateway is
// one here: an attempt for each message with an id of its own, its facts (the
// hash among them) known from when it was accepted, its content read anew.
func (s *streams) send(p LegLoad) error {
	return each(p.Messages, p.InFlight, func(int) error {
		a := mail.Attempt{ID: mail.NewID(), Number: 1, Content: s.content, Facts: s.facts, Domain: receiving(0), Local: sending(0)}
		a.Envelope.Sender = mail.Address{Local: "romeo", Domain: a.Local}
		a.Envelope.Recipients = []mail.Recipient{{Address: mail.Address{Local: "juliet", Domain: a.Domain}}}
		// Without Message-ID the id is random: equal messages are all meant.
		a.Transfer = mail.TransferID(a.Envelope.Sender, mail.Facts{})
		a.Trace = []byte("Received: from client.example (client.example [192.0.2.1])\r\n\tby mx." + a.Local +
			" with ESMTPS id " + string(a.ID) + ";\r\n\tTue, 24 Nov 2026 10:00:00 +0000\r\n")
		if f := s.sender.Deliver(context.Background(), a)[0].Failure; f != nil {
			return fmt.Errorf("not delivered: %w", f)
		}
		return nil
	})
}

// legContent is a short header and a body of text lines.
func legContent(size int) []byte {
	const header = "From: romeo@capulet0.example\r\nTo: juliet@montague0.example\r\nSubject: load\r\n\r\n"
	const line = "What's in a name? That which we call a rose by any other name.\r\n"
	b := []byte(header + strings.Repeat(line, max(0, size-len(header))/len(line)))
	return append(b, strings.Repeat("x", max(0, size-len(b)))...)[:size]
}

// keepsNothing accepts everything.
type keepsNothing struct{ transfers *passing }

func (keepsNothing) Check(_ context.Context, _ mail.Binding, env mail.Envelope) []*mail.Failure {
	return make([]*mail.Failure, len(env.Recipients))
}

func (r keepsNothing) Accept(ctx context.Context, k store.TransferKey, h store.ContentHash, _ mail.Binding, m *mail.Message) ([]mail.ID, []*mail.Failure) {
	ids, _, err := r.transfers.Accept(ctx, k, h, store.NewMessage{Message: *m})
	if err != nil {
		return nil, []*mail.Failure{mail.AsFailure(err)}
	}
	return ids, nil
}

// passing is a store.Transfers that knows of each open transfer how far it
// got, which the protocol needs, and nothing else.
type passing struct {
	mu sync.Mutex
	at map[store.TransferKey]int64
}

func (s *passing) Lookup(context.Context, store.TransferKey) (store.Transfer, error) {
	return store.Transfer{}, nil
}

func (s *passing) TransferBegin(_ context.Context, k store.TransferKey, h store.ContentHash) (store.Transfer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at[k] = 0
	return store.Transfer{Known: true, Hash: h, Open: true}, nil
}

func (s *passing) Append(_ context.Context, k store.TransferKey, offset int64, p []byte) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at, ok := s.at[k]
	if !ok {
		return 0, store.ErrNotFound
	}
	if offset == at {
		at += int64(len(p))
		s.at[k] = at
	}
	return at, nil
}

func (s *passing) OpenTransfer(context.Context, store.TransferKey) (io.ReadCloser, error) {
	return nil, store.ErrNotFound
}

func (s *passing) Accept(_ context.Context, k store.TransferKey, _ store.ContentHash, m store.NewMessage) ([]mail.ID, []store.Lease, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.at, k)
	ids := make([]mail.ID, len(m.Envelope.Recipients))
	for i := range ids {
		ids[i] = m.ID
	}
	return ids, nil, nil
}

func (s *passing) TransferAbort(_ context.Context, k store.TransferKey) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.at, k)
	return nil
}
