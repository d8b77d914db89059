package grants

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"fmt"
	"strings"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// A recipient answers a request by writing to an address that only we can make
// for it: "permit=" or "refuse=" and a code over the request, its recipient and
// its author. It expires with the request, and is of no use once the request is
// answered, since each request has random octets of its own.
type answer string

const (
	permits answer = "permit"
	refuses answer = "refuse"
)

// codeLength is that of the code in octets, before base32.
const codeLength = 16

// codeText survives mail programs that change the case of local parts.
var codeText = base32.StdEncoding.WithPadding(base32.NoPadding)

// address is where to answer a request that was made to a mailbox.
func (g *Grants) address(what answer, asked store.Grant, domain string) mail.Address {
	return mail.Address{Local: string(what) + "=" + strings.ToLower(g.code(what, asked)), Domain: domain}
}

// code hashes each part with its length before it, so that none can borrow
// from the next.
func (g *Grants) code(what answer, asked store.Grant) string {
	h := hmac.New(sha256.New, g.cfg.Secret)
	for _, part := range []string{string(what), asked.Recipient, asked.Author, string(asked.Key)} {
		fmt.Fprintf(h, "%d:%s", len(part), part)
	}
	return codeText.EncodeToString(h.Sum(nil)[:codeLength])
}

// cutAnswer takes the local part of an address to answer to apart.
func cutAnswer(local string) (what answer, code string, ok bool) {
	word, code, ok := strings.Cut(local, "=")
	what = answer(strings.ToLower(word))
	if !ok || what != permits && what != refuses || len(code) != codeText.EncodedLen(codeLength) {
		return "", "", false
	}
	return what, strings.ToUpper(code), true
}

// IsAnswer implements gateway.Answers: it tells by its form alone whether an
// address is one to answer to.
func (g *Grants) IsAnswer(to mail.Address) bool {
	_, _, ok := cutAnswer(to.Local)
	return ok
}

// Expects implements gateway.Answers: whether a request waits for this answer
// of this recipient.
func (g *Grants) Expects(ctx context.Context, from, to mail.Address) *mail.Failure {
	_, _, f := g.waiting(ctx, from, to)
	return f
}

// waiting finds the request that is answered. Whoever has none hears the same,
// whatever is wrong.
func (g *Grants) waiting(ctx context.Context, from, to mail.Address) (what answer, asked store.Grant, f *mail.Failure) {
	what, code, ok := cutAnswer(to.Local)
	if !ok || from.IsNull() {
		return "", asked, notExpected()
	}
	all, err := g.cfg.Store.Grants(ctx, store.GrantFilter{Kind: store.GrantAsked, Recipient: Name(from), Limit: 2 * g.most.askedOf})
	if err != nil {
		return "", asked, mail.AsFailure(err)
	}
	found := false
	for _, a := range all {
		if a.State != store.Pending { // withdrawn
			continue
		}
		if subtle.ConstantTimeCompare([]byte(code), []byte(g.code(what, a))) == 1 && strings.HasSuffix(a.Recipient, "@"+to.Domain) {
			asked, found = a, true
		}
	}
	if !found {
		return "", asked, notExpected()
	}
	return what, asked, nil
}

func notExpected() *mail.Failure {
	return mail.Fail(mail.NoSuchMailbox, "nothing waits for this answer, or no longer", nil)
}

// Answer implements gateway.Answers: it does what a recipient has answered.
// That the mail is theirs has been shown before.
func (g *Grants) Answer(ctx context.Context, from, to mail.Address, content mail.Content) *mail.Failure {
	what, asked, f := g.waiting(ctx, from, to)
	if f != nil {
		return f
	}
	// A program that is away, or on a list, permits nobody.
	switch automatic, err := isAutomatic(content); {
	case err != nil:
		return mail.AsFailure(err)
	case automatic:
		g.add("answer-automatic")
		return mail.Fail(mail.NotPermitted, "an automatic reply answers nothing here", nil)
	}
	var err error
	if what == permits {
		err = Approve(ctx, g.cfg.Store, asked, store.ByRecipient, time.Time{})
		g.Changed()
	} else {
		err = Deny(ctx, g.cfg.Store, asked, store.ByRecipient)
	}
	if err != nil {
		return mail.AsFailure(err)
	}
	g.add("answer-" + string(what))
	g.cfg.Log.Info("request for permission answered", "mailbox", asked.Recipient, "author", asked.Author, "answer", string(what))
	return nil
}
