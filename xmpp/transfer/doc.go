// Package transfer is the mail transport protocol of docs/xep-draft.md: the
// Sender offers messages to peer domains and the Server takes them, both as
// IQ payloads over streams that others keep (see Link and Server.Handle).
//
// Invariants: the reverse-path's domain is the domain that the stream has
// proven, or the reverse-path is null; recipients are of the domain that the
// stream speaks to. Content crosses octet for octet. `accepted` is only
// answered after the Receiver has made the message durable, and an acceptance
// asked for again is answered from the store's memory.
//
// A transfer in chunks is held by whoever took its last offer: another node, or
// another stream to this one, takes it up from what the store has, and a fencing
// token keeps the former from adding to it or committing it.
//
// Failure semantics: what went wrong before a request was written is
// temporary; a connection lost between a request that can move responsibility
// (an offer with its content, a commit) and its answer leaves the message in
// doubt, and the next attempt asks for its status first. A peer's own words
// become the recipients' failures by the table of mail.Failures.
//
// One message in five hops: Server.Handle (hop 1, over XMPP) calls the
// Receiver, which is gateway/accept (hop 2); gateway/deliver (hop 3) calls
// Sender.Deliver (hop 4), whose outcomes go to gateway/settle (hop 5).
package transfer

// Namespace qualifies every element of the protocol and is its service
// discovery feature (xep-draft section 4).
const Namespace = "urn:xmpp:mail-transport:0"
