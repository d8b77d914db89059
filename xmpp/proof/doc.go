// Package proof decides what shows that a peer speaks for its domain, beyond
// the certificate chain that package stream checks itself: a pinned key, TLSA
// records (DANE, RFC 7673 and RFC 7712), or fingerprints that the domain's web
// site publishes (POSH, RFC 7711).
//
// Invariants: a peer with pins is proven by them and by nothing else. For all
// others one proof is enough, and they are tried in the order of their cost:
// PKIX, DANE, POSH. A TLSA record counts only where the way to it was signed:
// the SRV record that names the host (or the operator, who configured it) and
// the record itself. What is looked up comes from whoever connects, so every
// lookup is bounded in time, size and number, and shared by all that ask for
// the same domain at once.
//
// Failure semantics: whatever cannot be had proves nothing, and the error, an
// *Unproven, says of each proof where it was looked for and why it does not
// hold. Nothing is written down: a stream that was refused may be tried again.
package proof
