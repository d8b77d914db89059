// Package peers knows which domains take mail over XMPP and how to reach them:
// configured peers, SRV records, service discovery, and what was seen of a
// domain before (xep-draft section 4).
//
// Invariants: a host is never guessed from address records. A domain that is
// configured as required, that has _xmpps-mail records or that has been seen
// with the feature within 30 days is a peer whatever fails now, so that nobody
// who can break XMPP pushes its mail back to SMTP (section 4.3); only its own
// word over an authenticated stream ends that, and not for required peers. A
// domain never seen is legacy on any failure.
//
// Failure semantics: Standing answers Unsure only where our own memory cannot
// be read. Link's errors are *mail.Failure and temporary.
package peers
