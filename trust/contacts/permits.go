package contacts

import (
	"context"
	"sync"

	"mailxmppd/mail"
	"mailxmppd/trust"
)

// messagesAtOnce is how many messages are remembered while their recipients are
// asked about, one after the other.
const messagesAtOnce = 8

// Keys is a Book as the verdict asks it.
type Keys struct {
	book *Book

	mu     sync.Mutex
	recent [messagesAtOnce]known
	next   int
}

// known is a message that is being judged: all its recipients come with the
// same evidence.
type known struct {
	ev       *trust.Evidence
	m        *Message
	attested []attested
}

var (
	_ trust.Permits  = (*Keys)(nil)
	_ trust.Attester = (*Keys)(nil)
)

// NewKeys makes Keys.
func NewKeys(b *Book) *Keys { return &Keys{book: b} }

// Permits implements trust.Permits.
func (k *Keys) Permits(ctx context.Context, recipient, author mail.Address, ev *trust.Evidence) (reason string, ok bool, err error) {
	f, err := k.book.Check(ctx, recipient, author, k.message(ev))
	k.note(recipient, author, ev, f)
	return f.Reason, f.Permitted, err
}

// MayPermit implements trust.Permits: which key has signed is known only at the
// end, so that every sender might be permitted where anybody has a key.
func (k *Keys) MayPermit(ctx context.Context, _ mail.Address, r mail.Recipient) (bool, error) {
	return k.book.conf.Store.HasContactKeys(ctx, r.Address.Domain)
}

func (k *Keys) message(ev *trust.Evidence) *Message {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, r := range k.recent {
		if r.ev == ev {
			return r.m
		}
	}
	m := NewMessage(ev.Message.Content)
	k.recent[k.next] = known{ev: ev, m: m}
	k.next = (k.next + 1) % len(k.recent)
	return m
}
