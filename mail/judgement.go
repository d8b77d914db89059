package mail

// VerdictField is the header field that shows a recipient's mail client the
// verdict: "permitted; reason".
const VerdictField = "X-Mail-Trust"

// Source is who hands us a message.
type Source struct {
	Client  Client  // by SMTP and LMTP
	Binding Binding // over XMPP; else zero
	Trusted bool    // a neighbour that may relay: what it brings is other people's
}

// Judgement is what the evidence for a message comes to.
type Judgement struct {
	Results    string   // the Authentication-Results field, its CRLF included; it is the same for all recipients
	Recipients []Judged // one for each of the envelope's, in their order

	// Vouch returns the header fields with which the message may go on to others,
	// made of what was found here; nil from who has found nothing.
	Vouch func() []byte
}

// Judged is what the evidence comes to for one recipient.
type Judged struct {
	Verdict string   // what the recipient's mail client is shown: "permitted; reason"
	Results string   // another Authentication-Results field, about what only this recipient's keys tell; "" for none
	Forged  bool     // an answer to the reverse-path would go to somebody who has not sent this
	Refusal *Failure // nil: to be taken
	// Borrowed says why the message is not to be forwarded though it is not Forged:
	// in our name it would be proven to be ours, and it is not. nil where it may.
	Borrowed *Failure
}
