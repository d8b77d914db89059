package mail

// Attempt is one try to hand recipients of one message, all of one domain, to
// that domain's next hop. A transport is
//
//	Deliver(ctx context.Context, a Attempt) []Outcome
//
// with one Outcome per recipient of the envelope, in its order. A transport
// is safe for concurrent use, honours ctx, bounds its own waits, and has
// handed over nothing more once it has returned.
type Attempt struct {
	ID       ID     // of the message, for the log
	Transfer string // TransferID of the message
	Number   int    // 1 for the first attempt; 0 for cut-through, where none is recorded
	Envelope Envelope
	Content  Content
	Facts    Facts
	Trace    []byte // header fields to go before the content
	Domain   string // of the recipients, A-labels
	Local    string // our domain that the attempt speaks for
	InDoubt  bool   // an earlier attempt ended in doubt
}

// Outcome is what became of one recipient in an attempt.
type Outcome struct {
	Failure  *Failure // nil: delivered, responsibility has moved
	Remote   string   // the next hop: host, or domain over XMPP
	RemoteID string   // the next hop's queue id, if it told
	Text     string   // the next hop's words, sanitised
	Proof    string   // what proved the next hop's identity, if anything
	TLS      string   // e.g. "TLS1.3 TLS_AES_128_GCM_SHA256"

	// What a delivered recipient's success means for DSNs (RFC 3461 section
	// 5.2). Neither: the next hop took over the DSN parameters.
	Relayed bool // it takes no DSN parameters: "relayed" is the last thing known
	Final   bool // it is the mailbox server, and success is ours to report

	// Undated: it was relayed without its DELIVERBY deadline, which asks for a
	// "relayed" DSN even where success is not to be reported (RFC 2852 section
	// 4.1.4.2).
	Undated bool
}

// Delivered reports whether the next hop took the recipient.
func (o Outcome) Delivered() bool { return o.Failure == nil }

// AllFailed gives every one of n recipients the same failure.
func AllFailed(n int, f *Failure) []Outcome {
	out := make([]Outcome, n)
	for i := range out {
		out[i] = Outcome{Failure: f, Remote: f.Remote}
	}
	return out
}
