package mail

import (
	"slices"
	"time"
)

// BodyType is the BODY parameter of MAIL (RFC 6152, RFC 3030).
type BodyType string

const (
	Body7Bit       BodyType = "7BIT" // also what an absent parameter means
	Body8BitMIME   BodyType = "8BITMIME"
	BodyBinaryMIME BodyType = "BINARYMIME"
)

// Envelope is what SMTP says about a message outside its content: RFC 5321
// section 2.3.1 and the parameters of the extensions that we carry. Its JSON
// form is stored.
type Envelope struct {
	Sender     Address     `json:"sender"`               // the reverse-path; zero is "<>"
	Recipients []Recipient `json:"recipients,omitempty"` // in the order given
	Body       BodyType    `json:"body,omitempty"`
	SMTPUTF8   bool        `json:"smtputf8,omitempty"`   // RFC 6531: the message needs it
	RequireTLS bool        `json:"requiretls,omitempty"` // RFC 8689
	Return     string      `json:"ret,omitempty"`        // RFC 3461 RET: "FULL", "HDRS" or ""
	EnvelopeID string      `json:"envid,omitempty"`      // RFC 3461 ENVID, xtext decoded
	DeliverBy  *DeliverBy  `json:"deliverby,omitempty"`  // RFC 2852
	Priority   *int        `json:"priority,omitempty"`   // RFC 6710 MT-PRIORITY, -9 to 9
}

// Recipient is one RCPT with its DSN parameters (RFC 3461 section 4).
type Recipient struct {
	Address  Address `json:"address"`
	Notify   Notify  `json:"notify,omitempty"`
	Original string  `json:"orcpt,omitempty"` // ORCPT as "type;address", xtext decoded

	// Verdict is what the recipient's mail client will be shown about who sent
	// this: Judged.Verdict, kept with the message so that every attempt says
	// the same. It never comes from outside.
	Verdict string `json:"verdict,omitempty"`
	Results string `json:"results,omitempty"` // Judged.Results; the same holds for it

	// Grant is the key of a grant that a peer shows, or is shown, as octets
	// (xep-draft section 10.3). It is judged at once and never kept.
	Grant string `json:"-"`
}

// DeliverBy is the BY parameter of RFC 2852, made absolute when the message
// was received.
type DeliverBy struct {
	Deadline time.Time `json:"deadline"`
	Mode     byte      `json:"mode"` // 'N' notify, 'R' return
	Trace    bool      `json:"trace,omitempty"`
}

// Notify is the set of events of RFC 3461 section 4.1 that the sender wants a
// DSN for; 0 means that the parameter was absent (failure and delay).
type Notify uint8

const (
	NotifyNever Notify = 1 << iota
	NotifySuccess
	NotifyFailure
	NotifyDelay
)

// notifyNames lists the keywords in the order in which they are written.
var notifyNames = []struct {
	bit  Notify
	name string
}{{NotifyNever, "NEVER"}, {NotifySuccess, "SUCCESS"}, {NotifyFailure, "FAILURE"}, {NotifyDelay, "DELAY"}}

// Names returns the keywords of n, e.g. ["SUCCESS", "DELAY"]; nil for 0.
func (n Notify) Names() []string {
	var out []string
	for _, k := range notifyNames {
		if n&k.bit != 0 {
			out = append(out, k.name)
		}
	}
	return out
}

// ParseNotify is the inverse of Names for already split, upper-case keywords;
// ok is false for an unknown or repeated keyword and for NEVER with others.
func ParseNotify(names []string) (n Notify, ok bool) {
	for _, name := range names {
		i := slices.IndexFunc(notifyNames, func(k struct {
			bit  Notify
			name string
		}) bool {
			return k.name == name
		})
		if i < 0 || n&notifyNames[i].bit != 0 {
			return 0, false
		}
		n |= notifyNames[i].bit
	}
	return n, n&NotifyNever == 0 || n == NotifyNever
}

// WantsFailure reports whether a permanent failure of r is to be reported.
func (r Recipient) WantsFailure() bool { return r.Notify == 0 || r.Notify&NotifyFailure != 0 }

// WantsDelay reports whether a delay of r is to be reported.
func (r Recipient) WantsDelay() bool { return r.Notify == 0 || r.Notify&NotifyDelay != 0 }

// WantsSuccess reports whether the delivery of r is to be reported.
func (r Recipient) WantsSuccess() bool { return r.Notify&NotifySuccess != 0 }

// NeedsUTF8 reports whether an address of e can only be sent with SMTPUTF8.
func (e Envelope) NeedsUTF8() bool {
	return !e.Sender.IsASCII() || slices.ContainsFunc(e.Recipients, func(r Recipient) bool { return !r.Address.IsASCII() })
}
