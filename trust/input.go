package trust

import (
	"net/netip"

	"mailxmppd/mail"
)

// Arrival is the way a message came to us.
type Arrival int

const (
	// Unjudged mail comes from a neighbour that stands between us and the world
	// and tells us nothing about it: its evidence says so, and nothing else.
	Unjudged Arrival = iota
	// BySMTP is mail from the network, with the client's address.
	BySMTP
	// BySubmission is mail of an authenticated user of ours.
	BySubmission
	// ByXMPP is mail over a stream that a peer domain is bound to.
	ByXMPP
)

// Input is a message with all that is known about where it came from. Content
// and Trace are read, never changed.
type Input struct {
	Arrival Arrival

	Binding mail.Binding // ByXMPP
	User    string       // BySubmission

	// Of BySMTP: the client that the message came from, as far as a trusted
	// neighbour told about it the real one; see mail.Client.Author.
	Client     netip.Addr
	Helo       string
	ClientName string // as a trusted neighbour found it in DNS and checked it; "" where it told none

	Sender  mail.Address // the reverse-path
	Content mail.Content
	Trace   []byte // header fields that gateways added on the way, read as if they stood before the content

	// Known are domains that a recipient could take others for, as our own. They do
	// not make anybody trusted.
	Known []string
}
