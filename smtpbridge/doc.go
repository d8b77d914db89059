// Package smtpbridge speaks SMTP and LMTP: a server for the neighbour and for
// other domains' MTAs (RFC 5321, RFC 2033), and a client for the neighbour, for
// smarthosts and for the MX hosts of domains that take no mail over XMPP. It is
// the first of the five hops of a message that comes in by SMTP (the next is
// gateway's Accept, behind Handler) and the fourth of one that leaves by it.
//
// Invariants. Content is never altered: the server takes away what
// RFC 5321 section 4.5.2 had the client add, the client adds it again, nothing
// else; only on a submission listener does it put missing fields before it, and
// by setting repairs bare LFs. Lines end in CRLF and in nothing else, but for
// the body of BODY=BINARYMIME; what a client sent as content
// is never read as a command, whatever it looks like: where the end of the
// content is in doubt the connection is closed. Addresses are handed on parsed
// (mail.Address), never as text from the wire. Every line, command count,
// content, wait and connection has a bound.
//
// Failure semantics. The server gives its positive reply to content only after
// the Handler took responsibility; whatever goes wrong before that leads to a
// negative reply or to none, and the message stays the client's. The client
// returns one outcome per recipient, and in doubt where the connection was
// lost after the end of the content and before the reply to it. Where a domain's
// DANE or MTA-STS policy cannot be met, or the signed DNS that may hold one does
// not answer, its mail waits: it never goes out in plain text instead.
package smtpbridge
