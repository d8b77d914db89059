package grants

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// beside is another node with the store of s; its mails go the same way.
func (s *side) beside() *Grants { return New(s.cfg) }

// TestTwoNodesAskOnce: a request that reaches two nodes, and is looked at by both,
// makes one mail to the recipient.
func TestTwoNodesAskOnce(t *testing.T) {
	const requests = 20
	montague := newSide(t, "montague.example")
	nodes := []*Grants{montague.Grants, montague.beside()}
	montague.most.askedOfBy, nodes[1].most.askedOfBy = requests, requests
	var all sync.WaitGroup
	for _, node := range nodes {
		all.Go(func() {
			for i := range requests {
				p := request(romeo, mail.Address{Local: fmt.Sprint("j", i), Domain: "capulet.example"})
				if f := node.Take(t.Context(), mail.Binding{Local: "montague.example", Remote: "capulet.example"}, p); f != nil {
					t.Error(f)
				}
				if err := node.lookAtHeard(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	montague.work()
	if len(montague.mails) != requests {
		t.Errorf("%d mails for %d requests", len(montague.mails), requests)
	}
	if left := montague.stored(store.GrantHeard); left != "" {
		t.Errorf("not looked at: %s", left)
	}
}

// TestRequestsOutliveAStop: what was answered is looked at by whoever runs next,
// whether the stop came before the look, or before the mail.
func TestRequestsOutliveAStop(t *testing.T) {
	montague := newSide(t, "montague.example")
	if f := montague.take(request(romeo, juliet)); f != nil { // and stops
		t.Fatal(f)
	}
	next := montague.beside()
	montague.asks = errors.New("the queue is full")
	if err := next.lookAtHeard(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(montague.mails) != 0 || montague.stored(store.GrantHeard) == "" {
		t.Fatalf("%d mails; waiting %q", len(montague.mails), montague.stored(store.GrantHeard))
	}
	montague.asks = nil
	for range 3 {
		if err := montague.beside().lookAtHeard(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if len(montague.mails) != 1 || montague.stored(store.GrantHeard) != "" || montague.stored(store.GrantAsked) == "" {
		t.Errorf("%d mails; waiting %q; asked %q", len(montague.mails), montague.stored(store.GrantHeard), montague.stored(store.GrantAsked))
	}
	if f := montague.Answer(t.Context(), romeo, address(t, replyTo(t, montague.lastMail())), mail.Bytes("From: romeo\r\n\r\nyes\r\n")); f != nil {
		t.Error(f)
	}
}

// TestRequestsOutliveANeighbour: while it cannot be told which mailboxes there are,
// what was asked waits.
func TestRequestsOutliveANeighbour(t *testing.T) {
	montague := newSide(t, "montague.example")
	montague.take(request(romeo, juliet))
	montague.take(request(mail.Address{Local: "nobody", Domain: "montague.example"}, juliet))
	montague.unsure = errors.New("the neighbour does not answer")
	montague.work()
	if len(montague.mails) != 0 || strings.Count(montague.stored(store.GrantHeard), "pending") != 2 {
		t.Fatalf("%d mails; waiting %q", len(montague.mails), montague.stored(store.GrantHeard))
	}
	montague.unsure = nil
	montague.work()
	if len(montague.mails) != 1 || montague.stored(store.GrantHeard) != "" {
		t.Errorf("%d mails; waiting %q", len(montague.mails), montague.stored(store.GrantHeard))
	}
}

// TestStopFinishes: what a user's mail grants is noted before the end.
func TestStopFinishes(t *testing.T) {
	montague := newSide(t, "montague.example")
	content := mail.Bytes("From: romeo\r\n\r\nhello\r\n")
	montague.Wrote(t.Context(), romeo, &mail.Message{Content: content, Envelope: mail.Envelope{Sender: romeo, Recipients: []mail.Recipient{{Address: juliet}}}})
	ctx, stop := context.WithCancel(t.Context())
	stop()
	montague.Run(ctx)
	if got := montague.stored(store.GrantGiven); got != "romeo@montague.example juliet@capulet.example granted" {
		t.Errorf("granted: %q", got)
	}
}

// TestHeardWithoutAStore: a request that could not be kept is not answered as if
// it were.
func TestHeardWithoutAStore(t *testing.T) {
	montague := newSide(t, "montague.example")
	ctx, cancel := context.WithTimeout(t.Context(), time.Nanosecond)
	defer cancel()
	<-ctx.Done()
	for _, mailbox := range []mail.Address{romeo, {Local: "nobody", Domain: "montague.example"}} {
		if f := montague.Take(ctx, mail.Binding{Local: "montague.example", Remote: "capulet.example"}, request(mailbox, juliet)); f == nil || f.Class != mail.Temporary {
			t.Errorf("%s: %v", mailbox, f)
		}
	}
}
