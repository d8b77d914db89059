package mail

import (
	"crypto/sha256"
	"encoding/hex"
	"time"
)

// MaxHops is how many Received fields a message may carry before it counts as
// looping (RFC 5321 section 6.3 asks for at least 100).
const MaxHops = 100

// Message is a message on its way in: envelope, content and where it came
// from.
type Message struct {
	ID       ID
	Envelope Envelope
	Content  Content
	Facts    Facts  // of the content as received
	Trace    []byte // header fields added by gateways, CRLF-ended lines; prepended at final delivery, outside id and hash
	Origin   Origin
}

// Facts are what one pass over the content found.
type Facts struct {
	Size       int64    // octets
	SHA256     [32]byte // of all octets
	Received   int      // Received fields in the header, at most MaxHops+1 counted
	HasID      bool     // a Message-ID field is there
	EightBit   bool     // an octet above 127
	HeaderUTF8 bool     // an octet above 127 in the header
	Null       bool     // a NUL octet
	LongLine   bool     // a line longer than 998 octets before its CRLF
}

// Origin says how a message reached us; it is logged, stored and shown.
type Origin struct {
	Transport string    `json:"transport"`           // "smtp", "lmtp", "xmpp", or "local" for a DSN of our own
	Remote    string    `json:"remote"`              // address and port of the peer
	Helo      string    `json:"helo,omitempty"`      // as given, SMTP only
	User      string    `json:"user,omitempty"`      // authenticated submission user
	Peer      string    `json:"peer,omitempty"`      // domain proven by the stream, XMPP only
	Proof     string    `json:"proof,omitempty"`     // what proved it, see Binding
	TLS       string    `json:"tls,omitempty"`       // e.g. "TLS1.3 TLS_AES_128_GCM_SHA256", empty without TLS
	Local     string    `json:"local,omitempty"`     // our domain that speaks for a null reverse-path
	Forwarded bool      `json:"forwarded,omitempty"` // an alias of ours was among its recipients
	Marked    bool      `json:"marked,omitempty"`    // it leaves with a mark by which reports about it are known again
	Received  time.Time `json:"received"`

	// Results is Judgement.Results of the message; "" where nobody judged it.
	Results string `json:"results,omitempty"`
}

// TransferID returns the id under which a message travels to peers
// (xep-draft section 5.1): a hash over reverse-path and content, so that the
// same message handed over twice is recognised, or random where the content
// has neither Message-ID nor Received and two equal messages may both be
// meant. 64 lower-case hexadecimal digits.
func TransferID(sender Address, f Facts) string {
	if !f.HasID && f.Received == 0 {
		return randomTransferID()
	}
	h := sha256.New()
	h.Write([]byte(sender.String()))
	h.Write([]byte{0})
	h.Write(f.SHA256[:])
	return hex.EncodeToString(h.Sum(nil))
}

func randomTransferID() string {
	sum := sha256.Sum256([]byte(NewID() + NewID()))
	return hex.EncodeToString(sum[:])
}

// ServiceTransferID returns the id for a message whose id otherwise is tid, where
// it goes to a service that takes the mail of several domains: each of those
// has a transfer of its own there (xep-draft section 5.1).
func ServiceTransferID(tid, domain string) string {
	sum := sha256.Sum256([]byte(tid + "\x00" + domain))
	return hex.EncodeToString(sum[:])
}

// Binding is a domain that a stream speaks for, with what showed it
// (xep-draft section 6).
type Binding struct {
	Local  string // our domain on this stream, A-labels
	Remote string // the proven domain, A-labels
	Proof  string // "pkix" here; later "dane", "posh", "pinned", "component"
	TLS    string // e.g. "TLS1.3 TLS_AES_128_GCM_SHA256"
	Addr   string // remote address and port
}
