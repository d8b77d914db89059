// Package author reads who a message says that it is from: the mailboxes of
// its From field (RFC 5322 section 3.6.2), and the tricks by which a mail
// client can be made to show somebody else.
//
// Invariants: Address of an Author is what every reader of RFC 5322 would find;
// where readers could differ, the field counts as unreadable and has no
// authors. Work and memory are bounded by the size of the header.
//
// Failure semantics: there is no error. What is wrong is a Problem, and what
// to make of it is up to the verdict.
package author

import (
	"errors"
	"io"
	"mime"
	"strings"

	"mailxmppd/mail"
	"mailxmppd/trust/header"
)

// maxAuthors bounds the mailboxes that are looked at.
const maxAuthors = 16

// Problem is something in From that a person could be deceived by.
type Problem string

const (
	NoFrom          Problem = "no From field"
	SeveralFields   Problem = "several From fields"
	SeveralAuthors  Problem = "several authors"
	Unreadable      Problem = "From cannot be read"
	ShownAddress    Problem = "the display name shows another address"
	EncodedAddress  Problem = "an encoded word where the address is"
	HiddenCharacter Problem = "invisible or direction characters in the display name"
	MixedScripts    Problem = "a domain with letters of several scripts"
	LookAlike       Problem = "a domain that looks like another"
	ManyDomains     Problem = "authors of more domains than are looked at"
)

// Author is one mailbox of From.
type Author struct {
	Address mail.Address
	Display string // the display name, decoded; for comparing, not for showing
	Shown   string // another address that the display name holds; "" if none
	Like    string // the domain that this one looks like; "" if none
}

// From is all that From says.
type From struct {
	Authors  []Author // none where a Problem makes it impossible to tell
	Problems []Problem
}

// Has reports whether there is a problem.
func (f From) Has(p Problem) bool {
	for _, q := range f.Problems {
		if q == p {
			return true
		}
	}
	return false
}

func (f *From) add(p Problem) {
	if !f.Has(p) {
		f.Problems = append(f.Problems, p)
	}
}

// Domains returns the authors' domains, each once, in their order.
func (f From) Domains() []string {
	var out []string
	seen := map[string]bool{}
	for _, a := range f.Authors {
		if d := a.Address.Domain; d != "" && !seen[d] {
			seen[d] = true
			out = append(out, d)
		}
	}
	return out
}

// Read reads From. known are domains that a reader could take another one for.
func Read(h header.Header, known []string) From {
	var f From
	fields := h.All("from")
	switch len(fields) {
	case 0:
		f.add(NoFrom)
		return f
	case 1:
	default:
		// RFC 5322 section 3.6: which of them is shown is anybody's guess. All
		// are read, so that each claim is judged.
		f.add(SeveralFields)
	}
	for _, field := range fields {
		authors, err := parseList(field.Unfolded())
		if err != nil || len(authors) == 0 || len(f.Authors)+len(authors) > maxAuthors {
			f.add(Unreadable)
			f.Authors = nil
			return f
		}
		f.Authors = append(f.Authors, authors...)
	}
	if len(f.Authors) > 1 {
		f.add(SeveralAuthors)
	}
	for i := range f.Authors {
		f.inspect(&f.Authors[i], known)
	}
	return f
}

// inspect looks for tricks in one mailbox.
func (f *From) inspect(a *Author, known []string) {
	if strings.Contains(a.Address.Local, "=?") { // RFC 2047 section 5
		f.add(EncodedAddress)
	}
	if hidden(a.Display) {
		f.add(HiddenCharacter)
	}
	if a.Shown = shownAddress(a.Display, a.Address); a.Shown != "" {
		f.add(ShownAddress)
	}
	if mixedScripts(a.Address.Domain) {
		f.add(MixedScripts)
	}
	if a.Like = likeKnown(a.Address.Domain, known); a.Like != "" {
		f.add(LookAlike)
	}
}

// hidden reports control, zero-width and direction characters, which make a
// name look like what it is not.
func hidden(s string) bool {
	for _, c := range s {
		switch {
		case c < ' ' && c != '\t', c >= 0x7f && c < 0xa0,
			c >= 0x200b && c <= 0x200f, c >= 0x202a && c <= 0x202e, c >= 0x2060 && c <= 0x2069, c == 0xfeff, c == 0x00ad:
			return true
		}
	}
	return false
}

// shownAddress returns an address in a display name that is another one than the
// author's: of another domain, or of somebody else of a domain that has many
// users. Capital letters and a detail (RFC 5233) make no other address.
func shownAddress(display string, author mail.Address) string {
	// The at signs that look like one.
	s := strings.NewReplacer("\uff20", "@", "\ufe6b", "@", "\uff0e", ".").Replace(display)
	for word := range strings.FieldsFuncSeq(s, func(c rune) bool {
		return c <= ' ' || strings.ContainsRune(`<>()[]{},;:"'`, c) || c == '\u00a0'
	}) {
		local, shown, ok := strings.Cut(word, "@")
		if !ok || local == "" {
			continue
		}
		d, err := mail.ParseDomain(strings.Trim(shown, ".!?"))
		if err == nil && strings.Contains(d, ".") && (d != author.Domain || !strings.EqualFold(withoutDetail(local), withoutDetail(author.Local))) {
			return local + "@" + d
		}
	}
	return ""
}

func withoutDetail(local string) string {
	base, _, _ := strings.Cut(local, "+")
	return base
}

var decoder = mime.WordDecoder{
	// Of other charsets the ASCII part is as good as it is here.
	CharsetReader: func(_ string, in io.Reader) (io.Reader, error) { return in, nil },
}

func decodeWords(s string) string {
	if !strings.Contains(s, "=?") {
		return s
	}
	d, err := decoder.DecodeHeader(s)
	if err != nil {
		return s
	}
	return d
}

var errForm = errors.New("not a list of mailboxes")
