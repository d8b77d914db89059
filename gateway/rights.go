package gateway

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"mime"
	"net/textproto"
	"strings"

	netmail "net/mail"

	"mailxmppd/mail"
)

// Owners knows which addresses authenticated users may write from. Safe for
// concurrent use; an error means that it cannot be told now.
type Owners interface {
	// Owns lists a user's own addresses: mailboxes, or "@example.org" for every
	// mailbox of a domain. Of somebody unknown it lists none.
	Owns(ctx context.Context, user string) ([]string, error)
}

// maxRightsHeader bounds how much of a header is searched for authors: more
// than any listener lets in.
const maxRightsHeader = 32 << 20

// mayUseSender judges the reverse-path of an authenticated user. The null one
// is everybody's: notifications to the sender of a message have it (RFC 8098
// section 2.1), and their From is judged like any other.
func (g *Gateway) mayUseSender(ctx context.Context, user string, sender mail.Address) *mail.Failure {
	if user == "" || sender.IsNull() {
		return nil
	}
	return g.mayWriteAs(ctx, user, "reverse-path", []mail.Address{sender})
}

// mayUseAuthors judges From and Sender of an authenticated user's message
// (RFC 6409 section 6.1). What cannot be read cannot be judged, and is refused:
// a mail client could show an author in it.
func (g *Gateway) mayUseAuthors(ctx context.Context, user string, content mail.Content) *mail.Failure {
	if user == "" {
		return nil
	}
	rc, err := content.Open()
	if err != nil {
		return mail.AsFailure(err)
	}
	defer rc.Close()
	from, sender, err := authorFields(rc)
	switch {
	case err != nil:
		return mail.AsFailure(err)
	case len(from) != 1 || len(sender) > 1: // RFC 5322 section 3.6
		return notTheirs("a submitted message needs one From field, and at most one Sender field")
	}
	for _, field := range []struct {
		name   string
		values []string
	}{{"From", from}, {"Sender", sender}} {
		for _, value := range field.values {
			authors, err := mailboxes(value)
			if err != nil {
				return notTheirs("the " + field.name + " field cannot be read as a list of mailboxes")
			}
			if f := g.mayWriteAs(ctx, user, field.name, authors); f != nil {
				return f
			}
		}
	}
	return nil
}

// mayWriteAs refuses the first address that is not the user's own.
func (g *Gateway) mayWriteAs(ctx context.Context, user, where string, addrs []mail.Address) *mail.Failure {
	var own []string
	if g.Owners != nil {
		var err error
		if own, err = g.Owners.Owns(ctx, user); err != nil {
			return mail.AsFailure(err)
		}
	}
	for _, a := range addrs {
		if !owns(own, a) {
			return notTheirs("user " + user + " may not write from " + a.Path() + " (" + where + ")")
		}
	}
	return nil
}

// notTheirs is the refusal that clients show to their user: of the address,
// hence 553, by policy.
func notTheirs(text string) *mail.Failure {
	f := mail.Fail(mail.NotPermitted, text, nil)
	f.Code = 553
	return f
}

// owns reports whether an address is one of a user's own, with or without a
// detail (RFC 5233). Capital letters make no difference: a user's rights are no
// place for two mailboxes that differ in nothing else.
func owns(own []string, a mail.Address) bool {
	local := lowerASCII(a.Local)
	base, _, _ := strings.Cut(local, "+")
	for _, s := range own {
		if domain, whole := strings.CutPrefix(s, "@"); whole {
			if domain == a.Domain && domain != "" {
				return true
			}
			continue
		}
		o, err := mail.ParseAddress(s)
		if err != nil || o.Domain != a.Domain {
			continue
		}
		if l := lowerASCII(o.Local); l == local || l == base {
			return true
		}
	}
	return false
}

// authorFields returns the unfolded values of all From and Sender fields.
func authorFields(r io.Reader) (from, sender []string, err error) {
	tp := textproto.NewReader(bufio.NewReader(io.LimitReader(r, maxRightsHeader)))
	for {
		line, err := tp.ReadContinuedLineBytes()
		switch {
		case errors.Is(err, io.EOF), err == nil && len(line) == 0:
			return from, sender, nil
		case err != nil:
			return nil, nil, err
		}
		key, value, _ := bytes.Cut(line, []byte(":"))
		// White space before the colon is obsolete, and read by many (RFC 5322
		// section 4.5).
		switch name := strings.ToLower(strings.TrimSpace(string(key))); name {
		case "from":
			from = append(from, string(value))
		case "sender":
			sender = append(sender, string(value))
		}
	}
}

// mailboxes reads the addresses of a From or Sender field, those in groups
// (RFC 6854) included; display names may be in any charset.
func mailboxes(field string) ([]mail.Address, error) {
	parser := netmail.AddressParser{WordDecoder: &mime.WordDecoder{
		CharsetReader: func(_ string, in io.Reader) (io.Reader, error) { return in, nil },
	}}
	list, err := parser.ParseList(field)
	if err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, errors.New("no mailbox")
	}
	out := make([]mail.Address, len(list))
	for i, l := range list {
		at := strings.LastIndexByte(l.Address, '@')
		if at <= 0 {
			return nil, errors.New("no mailbox")
		}
		domain, err := mail.ParseDomain(l.Address[at+1:])
		if err != nil {
			return nil, err
		}
		out[i] = mail.Address{Local: l.Address[:at], Domain: domain}
	}
	return out, nil
}
