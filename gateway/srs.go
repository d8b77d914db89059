package gateway

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"mailxmppd/mail"
)

// What SRS.Reverse and SRS.Forward answer beside an address. Only ErrNotSRS
// means that the address is an ordinary one.
var (
	ErrNotSRS     = errors.New("not a rewritten address")
	ErrSRSForged  = errors.New("rewritten address was not made here")
	ErrSRSExpired = errors.New("rewritten address is too old")
	ErrSRSTooLong = errors.New("address is too long to be rewritten")
	// ErrSRSStored is beside an address whose local part is the name under which
	// the true one is stored.
	ErrSRSStored = errors.New("rewritten address stands for a stored one")
)

// SRS rewrites foreign reverse-paths into addresses of one domain of ours that
// lead back, by the Sender Rewriting Scheme: a peer takes only mail whose
// reverse-path is of the domain that the stream has proven (xep-draft section
// 6.5). What it makes can be undone without memory, and by nobody without the
// key: an address that could be made at will would relay for anybody.
//
//	romeo@verona.example          -> SRS0=<hash>=<day>=verona.example=romeo@<ours>
//	SRS0=x=y=verona.example=r@fwd -> SRS1=<hash>=fwd==x=y=verona.example=r@<ours>
//
// Where the result would pass the limits of RFC 5321 section 4.5.3.1, as it does
// for the long reverse-paths of mailing lists and bulk mail, it is a name, under
// which the address has to be stored (Stored):
//
//	bounces+1f...=capulet.example@lists -> SRST=<hash>=<name>@<ours>
//
// Safe for concurrent use.
type SRS struct {
	keys   [][]byte
	domain string
	now    func() time.Time
}

const (
	srsValid    = 21      // days in which mail may come back; longer than any queue keeps it
	srsDays     = 1 << 10 // after which the day stamp begins again
	srsHash     = 8       // characters: 40 bits of the HMAC
	srsName     = 26      // characters: 130 bits of it
	leastSRSKey = 16      // octets
)

// srsText writes hashes and days: it survives a relay that changes the case of
// local parts.
var srsText = base32.StdEncoding.WithPadding(base32.NoPadding)

// NewSRS makes an SRS for addresses of a domain of ours (A-labels). The first
// key signs; the others, older ones, are still recognised.
func NewSRS(keys [][]byte, domain string) (*SRS, error) {
	if len(keys) == 0 {
		return nil, errors.New("srs: no key")
	}
	for _, k := range keys {
		if len(k) < leastSRSKey {
			return nil, fmt.Errorf("srs: a key is shorter than %d octets", leastSRSKey)
		}
	}
	if d, err := mail.ParseDomain(domain); err != nil || d != domain {
		return nil, fmt.Errorf("srs: %q is not a domain in A-labels", domain)
	}
	return &SRS{keys: keys, domain: domain, now: time.Now}, nil
}

// Forward rewrites a reverse-path. The null one, and addresses of the domain
// itself, stay what they are. ErrSRSTooLong where not even a name fits.
func (s *SRS) Forward(a mail.Address) (mail.Address, error) {
	if a.IsNull() || a.Domain == s.domain {
		return a, nil
	}
	if a.Domain == "" {
		return mail.Address{}, fmt.Errorf("%w: it has no domain", ErrNotSRS)
	}
	if name, short := s.Stored(a); short {
		return s.address("SRST=" + s.sign(s.keys[0], "T", name) + "=" + name)
	}
	return s.whole(a)
}

// Stored returns the name that Forward gives an address, if it gives it one:
// under it the address has to be stored as long as mail may come back. The name
// is the same each time, and nobody finds it without the key.
func (s *SRS) Stored(a mail.Address) (name string, ok bool) {
	if a.IsNull() || a.Domain == s.domain || a.Domain == "" {
		return "", false
	}
	if _, err := s.whole(a); !errors.Is(err, ErrSRSTooLong) {
		return "", false
	}
	// Capital letters may make a difference to whoever gets it back.
	return s.mac(s.keys[0], "N", a.Domain, hex.EncodeToString([]byte(a.Local)))[:srsName], true
}

// whole rewrites an address into one that holds all of it.
func (s *SRS) whole(a mail.Address) (mail.Address, error) {
	kind, rest := cutSRS(a.Local)
	switch kind {
	case 0:
		// Made by another forwarder: it is asked to undo its part, so that
		// mail comes back over two hosts, however many there were.
		return s.address("SRS1=" + s.sign(s.keys[0], "1", a.Domain, rest) + "=" + a.Domain + "=" + rest)
	case 1:
		// Its own hash goes, that of the first forwarder stays.
		if _, first, opaque, ok := cutSRS1(rest); ok {
			return s.address("SRS1=" + s.sign(s.keys[0], "1", first, opaque) + "=" + first + "=" + opaque)
		}
	}
	day := dayStamp(s.now())
	return s.address("SRS0=" + s.sign(s.keys[0], "0", day, a.Domain, a.Local) + "=" + day + "=" + a.Domain + "=" + a.Local)
}

// Reverse undoes Forward, one step of it for SRS1, which bears no day: the
// forwarder that it leads to judges the one of its own.
func (s *SRS) Reverse(a mail.Address) (mail.Address, error) {
	kind, rest := cutSRS(a.Local)
	if kind < 0 || a.Domain != s.domain {
		return mail.Address{}, ErrNotSRS
	}
	if kind == named {
		hash, name, _ := strings.Cut(rest[1:], "=")
		if name = strings.ToUpper(name); !s.verify(hash, "T", name) {
			return mail.Address{}, ErrSRSForged
		}
		return mail.Address{Local: name, Domain: a.Domain}, ErrSRSStored
	}
	if kind == 1 {
		hash, first, opaque, ok := cutSRS1(rest)
		if !ok || !s.verify(hash, "1", first, opaque) {
			return mail.Address{}, ErrSRSForged
		}
		return canonical("SRS0"+opaque, first)
	}
	parts := strings.SplitN(rest[1:], "=", 4)
	if len(parts) != 4 || !s.verify(parts[0], "0", parts[1:]...) {
		return mail.Address{}, ErrSRSForged
	}
	if !s.recent(parts[1]) {
		return mail.Address{}, ErrSRSExpired
	}
	return canonical(parts[3], parts[2])
}

// named is the form of addresses that are stored; nobody else has it.
const named = 2

// cutSRS tells which form a local part has, 0, 1 or named, and what follows its
// tag, the separator first; -1 if none.
func cutSRS(local string) (kind int, rest string) {
	if len(local) < 6 || !strings.EqualFold(local[:3], "SRS") || !strings.ContainsRune("=+-", rune(local[4])) {
		return -1, ""
	}
	switch local[3] {
	case '0':
		return 0, local[4:]
	case '1':
		return 1, local[4:]
	case 'T', 't':
		return named, local[4:]
	}
	return -1, ""
}

// cutSRS1 takes "=hash=domain=opaque" apart; opaque begins with the separator
// of the SRS0 address that it is the rest of.
func cutSRS1(rest string) (hash, first, opaque string, ok bool) {
	parts := strings.SplitN(rest[1:], "=", 3)
	if len(parts) != 3 || len(parts[2]) < 2 || !strings.ContainsRune("=+-", rune(parts[2][0])) {
		return "", "", "", false
	}
	if d, err := mail.ParseDomain(parts[1]); err != nil || !strings.EqualFold(d, parts[1]) {
		return "", "", "", false
	}
	return parts[0], parts[1], parts[2], true
}

// address puts our domain behind a local part, if it is still one.
func (s *SRS) address(local string) (mail.Address, error) {
	a, err := canonical(local, s.domain)
	if err != nil {
		return mail.Address{}, ErrSRSTooLong
	}
	return a, nil
}

// canonical makes an address that ParseAddress would make too.
func canonical(local, domain string) (mail.Address, error) {
	d, err := mail.ParseDomain(domain)
	if err != nil {
		return mail.Address{}, ErrSRSForged
	}
	a := mail.Address{Local: local, Domain: d}
	if parsed, err := mail.ParseAddress(a.String()); err != nil || parsed != a {
		return mail.Address{}, ErrSRSForged
	}
	return a, nil
}

// sign hashes the parts, each with its length before it so that none can
// borrow from the next, in lower case as relays may write them.
func (s *SRS) sign(key []byte, kind string, parts ...string) string {
	return s.mac(key, kind, parts...)[:srsHash]
}

func (s *SRS) mac(key []byte, kind string, parts ...string) string {
	h := hmac.New(sha256.New, key)
	for _, p := range append([]string{kind, s.domain}, parts...) {
		fmt.Fprintf(h, "%d:%s", len(p), lowerASCII(p))
	}
	return srsText.EncodeToString(h.Sum(nil))
}

// verify compares in constant time, with every key.
func (s *SRS) verify(hash, kind string, parts ...string) bool {
	given := []byte(strings.ToUpper(hash))
	ok := 0
	for _, k := range s.keys {
		ok |= subtle.ConstantTimeCompare(given, []byte(s.sign(k, kind, parts...)))
	}
	return ok == 1
}

func lowerASCII(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
}

// dayStamp is the day in two characters: ten bits of it.
func dayStamp(t time.Time) string {
	n := uint16(t.Unix() / (24 * 60 * 60) % srsDays)
	return srsText.EncodeToString([]byte{byte(n >> 2), byte(n << 6)})[:2]
}

// recent reports whether a stamp, whose hash was right, is of the last days;
// of tomorrow too, as nodes' clocks differ.
func (s *SRS) recent(stamp string) bool {
	now := s.now()
	for age := -1; age <= srsValid; age++ {
		if strings.EqualFold(stamp, dayStamp(now.AddDate(0, 0, -age))) {
			return true
		}
	}
	return false
}
