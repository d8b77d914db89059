// Package stream is the link layer of mail over XMPP: server-to-server streams
// from dial or accept to close. A Link is one authenticated, bidirectional
// stream (RFC 6120, XEP-0288) between one of our domains and one peer domain;
// a Manager accepts and dials them, with direct TLS or STARTTLS, and knows
// which are live. A pair of domains may have several: the oldest serves small
// requests, the youngest bulk.
//
// Invariants: nothing is sent or read outside TLS but a stream header and
// STARTTLS, and nothing of that counts inside. A Link exists only once both
// domains have been proven to each other by certificate and SASL EXTERNAL, and
// speaks for exactly that pair: what comes from another domain ends it, and
// dialback proves nothing. A Link ends in order with the first certificate that
// it rests on, and is never older than MaxLife. The reader of a link never
// writes and never waits for the writer; stanzas leave whole or not at all;
// every queue and wait is bounded. One byte of XML that is not as package wire
// wants it ends the link with the stream error that fits; one request that is
// wrong gets a stanza error and the link lives.
//
// Ordinary servers have no bidi: they send on the streams that they open and
// nowhere else. Such streams, authenticated alike, are kept apart and are never
// handed out as a Link, so that no mail goes over them either way. Over them
// such a server is answered: ping, version, disco and stanza errors, each over
// a stream of ours to it, dialled where Config.Targets says; and Probe asks it
// for disco#info, which it answers over a stream of its own.
//
// Failure semantics: Request returns *StanzaError when the peer refused,
// ErrNotSent when the request certainly never left, and anything else when it
// may have been carried out. Every waiter is released when its link dies. A
// dial that fails, or makes a link that ends before a stanza has come over it,
// is followed by a pause that doubles.
package stream
