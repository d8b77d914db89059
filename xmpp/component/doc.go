// Package component is the form of deployment in which a chat server holds the
// streams (XEP-0114): mailxmppd connects to it as a component whose name is
// the mail domain, and all peers share that one connection. A Component keeps
// the connection; a Link is what goes between it and one peer domain.
//
// What a peer has proven is known to the server alone. The proof of a Link is
// therefore "component", and no mail goes either way unless the operator has
// asserted that the server demands certificates of everybody it exchanges
// stanzas with (xep-draft section 6.4). Only what comes from a bare domain can
// be of a gateway; the server's users, and others', have addresses with more.
//
// Invariants: one node at a time is the component of a name (see alone.go).
// One peer's doing hurts no other: a stanza that is not as package wire wants
// it is dropped alone, since the server frames stanzas and peers fill them;
// only what the server itself gets wrong ends the connection. The reader never
// waits for the writer; every queue, table and wait is bounded. No error stanza
// ends a message unless a gateway wrote it: what the server, or the peer's, says
// about reaching the peer is a *Bounce, for the moment only.
//
// Failure semantics: those of package stream, whose errors these are. A *Bounce
// is one of the errors after which the request may have been carried out.
package component
