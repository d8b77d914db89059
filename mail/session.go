package mail

import (
	"net/netip"
	"strings"
)

// Client is who is at the other end of an SMTP or LMTP session. Where a
// trusted proxy or neighbour tells who its own client is (PROXY protocol,
// XCLIENT), that is the client, and Via the neighbour.
type Client struct {
	Addr      netip.AddrPort // invalid for a local socket, and where a neighbour does not know it
	Local     netip.AddrPort // the listener's side of the connection
	Via       netip.AddrPort // where the connection came from, if not from Addr; else invalid
	Helo      string         // as given, sanitised
	Name      string         // of the client's host as a neighbour found it in DNS, sanitised; mostly empty
	ESMTP     bool           // EHLO or LHLO was used
	LMTP      bool
	TLS       string     // e.g. "TLS1.3 TLS_AES_128_GCM_SHA256", empty without TLS
	User      string     // authenticated user, empty without AUTH
	Forwarded *Forwarded // of the message in hand; nil where no neighbour told
}

// Forwarded is what a trusted neighbour tells by XFORWARD about the client
// that it had the message from. It describes the message and gives no right:
// those are the neighbour's own. Fields are empty where it does not know.
type Forwarded struct {
	Addr   netip.AddrPort // the port 0 if unknown
	Name   string         // of the host, sanitised
	Helo   string         // sanitised
	Proto  string         // "SMTP" or "ESMTP"
	Ident  string         // the neighbour's queue id, sanitised
	Source string         // "LOCAL" or "REMOTE"
}

// Local reports whether the neighbour made the message itself, for a user of its
// own machine.
func (f *Forwarded) Local() bool { return strings.EqualFold(f.Source, "LOCAL") }

// Author is the client that the message in hand came from: the one that a
// neighbour tells of, or the client itself.
func (c Client) Author() (addr netip.AddrPort, helo string) {
	if c.Forwarded != nil && c.Forwarded.Addr.IsValid() {
		return c.Forwarded.Addr, c.Forwarded.Helo
	}
	return c.Addr, c.Helo
}

// Verdict answers a message that a client has handed over.
type Verdict struct {
	Failure *Failure // nil: responsibility has been taken
	Text    string   // of the positive reply, e.g. "queued as 01J..."
}

// Standing says how mail to a domain travels.
type Standing int

const (
	Legacy Standing = iota // by SMTP: no peer, or the operator says so
	Peer                   // over XMPP; a failure of XMPP defers
	Unsure                 // cannot be told now: defer
)
