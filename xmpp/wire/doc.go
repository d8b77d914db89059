// Package wire reads and writes the XML of XMPP streams: a strict pull parser
// that yields one stanza at a time, and an encoder that appends to a buffer.
//
// The parser takes the subset of XML that RFC 6120 section 11 leaves and
// refuses everything else: DTD, processing instructions, comments, entities
// beyond the five, what is not well-formed or not namespace-well-formed, and
// anything past its Limits. A refusal is an *Error with the stream error
// condition of RFC 6120 section 4.9.3; after one, the stream cannot be read
// any further. An error of the connection is returned as it came; a connection
// that ends inside a stream is io.ErrUnexpectedEOF.
//
// Invariants: memory held for input is bounded by the Limits at every octet,
// wherever the input is cut; an Element refers to no buffer of the parser and
// belongs to whoever got it.
package wire
