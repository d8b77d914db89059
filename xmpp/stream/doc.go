// Package stream is the link layer of mail over XMPP: server-to-server streams
// from dial or accept to close. A Link is one authenticated, bidirectional
// stream (RFC 6120, XEP-0288) between one of our domains and one peer domain;
// a Manager accepts and dials them, and knows which are live.
//
// Invariants: nothing is sent or read outside TLS but the handshake. A Link
// exists only once both domains have been proven to each other by certificate
// and SASL EXTERNAL, and speaks for exactly that pair: what comes from another
// domain ends it. The reader of a link never writes and never waits for the
// writer; stanzas leave whole or not at all; every queue and wait is bounded.
// One byte of XML that is not as package wire wants it ends the link with the
// stream error that fits; one request that is wrong gets a stanza error and
// the link lives.
//
// Failure semantics: Request returns *StanzaError when the peer refused,
// ErrNotSent when the request certainly never left, and anything else when it
// may have been carried out. Every waiter is released when its link dies.
package stream
