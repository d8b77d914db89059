package contacts

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
	"mailxmppd/trust/author"
	"mailxmppd/trust/header"
)

// Message is a message to be checked for any number of recipients: what is
// found for one is not looked for again. Safe for concurrent use.
type Message struct {
	content mail.Content

	mu     sync.Mutex
	walked bool
	part   signedPart
	failed error
	done   map[string]outcome // by the key's fingerprint and the author
}

// NewMessage makes a Message, which reads nothing until it is asked.
func NewMessage(content mail.Content) *Message {
	return &Message{content: content, done: map[string]outcome{}}
}

// outcome is what came of one key.
type outcome struct {
	tried bool   // the message bears a signature of this key
	wrong string // why it does not count; "" if it does
}

// signed finds the signed part, once.
func (m *Message) signed() (signedPart, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.walked {
		m.walked = true
		m.part, m.failed = findSigned(m.content)
	}
	return m.part, m.failed
}

// by verifies with one key.
func (m *Message) by(ctx context.Context, k store.ContactKey, author string, now time.Time) (outcome, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	name := k.Kind + " " + k.Fingerprint + " " + author
	if o, ok := m.done[name]; ok {
		return o, nil
	}
	if err := ctx.Err(); err != nil {
		return outcome{}, err
	}
	o, err := m.verify(ctx, k, author, now)
	if err == nil {
		m.done[name] = o
	}
	return o, err
}

func (m *Message) verify(ctx context.Context, k store.ContactKey, author string, now time.Time) (outcome, error) {
	if m.part.form.kind() != k.Kind {
		return outcome{}, nil
	}
	c, err := Stored(k)
	if err != nil {
		return outcome{}, err
	}
	var o outcome
	if k.Kind == store.OpenPGP {
		o, err = m.verifyOpenPGP(ctx, c, now)
	} else {
		o, err = m.verifySMIME(ctx, c, now)
	}
	if err != nil || !o.tried || o.wrong != "" {
		return o, err
	}
	// A list's footer, or an attachment that somebody has added, is shown as if
	// it were the author's.
	if !m.part.whole {
		return outcome{true, "only a part of the message is signed"}, nil
	}
	same, err := m.sameAuthor(author)
	if err == nil && !same {
		o.wrong = "what is signed names another author"
	}
	return o, err
}

// verifyTime judges when a signature was made.
func verifyTime(made, now time.Time) string {
	switch {
	case made.After(now.Add(future)):
		return "the signature is from the future"
	case now.Sub(made) > maxAge:
		return fmt.Sprintf("the signature is %d days old", int(now.Sub(made).Hours()/24))
	}
	return ""
}

// octets opens the signed octets.
func (m *Message) octets() (io.ReadCloser, error) {
	if m.part.text != nil {
		return io.NopCloser(bytes.NewReader(m.part.text)), nil
	}
	rc, err := m.content.Open()
	if err != nil {
		return nil, fmt.Errorf("content: %w", err)
	}
	if _, err := io.CopyN(io.Discard, rc, m.part.start); err != nil {
		return nil, errors.Join(fmt.Errorf("content: %w", err), rc.Close())
	}
	return struct {
		io.Reader
		io.Closer
	}{io.LimitReader(rc, m.part.end-m.part.start), rc}, nil
}

// sameAuthor compares the author with the one that the signed part names, where
// it does (RFC 9788 section 2.2): signed mail of somebody must not be sent on as
// another's.
func (m *Message) sameAuthor(address string) (bool, error) {
	if m.part.form == cleartext {
		return true, nil // has no header of its own
	}
	r, err := m.octets()
	if err != nil {
		return false, err
	}
	defer r.Close()
	h, err := header.Read(bufio.NewReader(r))
	if errors.Is(err, header.ErrTooLarge) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("content: %w", err)
	}
	from := author.Read(h, nil)
	if from.Has(author.NoFrom) {
		return true, nil
	}
	return !from.Has(author.SeveralFields) && slices.ContainsFunc(from.Authors, func(a author.Author) bool { return Form(a.Address) == address }), nil
}

// cancelled stops reading once its context has ended.
type cancelled struct {
	ctx context.Context
	r   io.Reader
}

func (c cancelled) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
