// Package peers knows which domains take mail over XMPP and how to reach them:
// configured peers, SRV records, service discovery, and what was learned of a
// domain before (xep-draft section 4). Rule decides how a domain's mail goes,
// and Link and Bulk find the stream for it.
//
// Invariants: a host is never guessed from address records. A domain that is
// configured as required, that has _xmpps-mail records, that has pinned itself
// or that was seen with the feature within 30 days is a peer whatever fails
// now, so that nobody who can break XMPP pushes its mail back to SMTP (section
// 4.3). Only its own word ends that, and not for required peers: another
// policy, or absence said by the service that has shown the feature, on a
// stream that we have opened to it; or a withdrawal at its web server. A domain
// to which nothing binds us is legacy on any failure. docs/downgrade.md has the
// whole table.
//
// What was learned is in the store, with ages that only the store measures; a
// bounded part is held here for a minute at most, so that nodes agree. Every
// question to the network is bounded: discovery by Config.Timeout, records,
// addresses and withdrawals by number.
//
// A service of another name (section 4.5) has a domain's mail only where both
// have said so: the domain lists it, on a stream of ours to the domain, and it
// names the domain. Chat servers list whatever runs beside them, and a service
// that takes but its own name's mail would refuse the domain's for good.
//
// Failure semantics: Rule and Standing answer Unsure only where our own memory
// cannot be read. Link's errors are *mail.Failure and temporary.
package peers
