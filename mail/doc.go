// Package mail holds what every part of the gateway agrees on: addresses,
// envelopes, messages with their content, attempts with their outcomes, and
// Failure, the one error that crosses parts.
//
// Invariants: an Address holds no control character, its domain is in A-label
// form and lower case; content is octets with CRLF line ends that are never
// re-serialised; a Failure always has a row of the failure table, so that its
// SMTP reply, enhanced status and stanza error cannot disagree.
package mail
