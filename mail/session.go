package mail

import "net/netip"

// Client is who is at the other end of an SMTP or LMTP session.
type Client struct {
	Addr  netip.AddrPort
	Local netip.AddrPort // the listener's side of the connection
	Helo  string         // as given, sanitised
	ESMTP bool           // EHLO or LHLO was used
	LMTP  bool
	TLS   string // e.g. "TLS1.3 TLS_AES_128_GCM_SHA256", empty without TLS
	User  string // authenticated user, empty without AUTH
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
