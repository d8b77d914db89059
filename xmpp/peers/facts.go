package peers

import (
	"encoding/json"
	"fmt"
	"time"

	"mailxmppd/xmpp/transfer"
)

// The times of xep-draft section 4.3.
const (
	sightingFor = 30 * 24 * time.Hour // how long a domain seen with the feature stays a peer
	longestPin  = 90 * 24 * time.Hour // whatever its max-age
	absenceGap  = 24 * time.Hour      // between the two absences that end a pin
)

// service is where a stream was dialled, as far as it matters: a domain's mail
// service and its chat server may be two programs that prove the same domain.
type service string

const (
	atUnknown    service = "" // it was opened by the peer
	atConfigured service = "configured"
	atMail       service = "mail"   // _xmpps-mail
	atServer     service = "server" // _xmpps-server, _xmpp-server
)

// known is what is known of a domain. The times are of this process's clock;
// the zero time means never.
type known struct {
	sighted  time.Time // when it was last seen with the feature
	service  service   // where a stream of ours last found the feature
	via      string    // the service of another name that showed it; "" for the domain itself
	pinned   time.Time // until when its own policy holds it to XMPP
	xmppOnly bool      // it says that its own mail comes over XMPP alone; holds as long as the pin
	absent   time.Time // when it first said, with no sighting since, that it takes no mail
	negative time.Time // when it was last found not to take mail
	why      string    // of negative
	deniedBy service   // who said so, of negative; atUnknown where something failed instead
}

// Basis is what the way of a domain's mail rests on (xep-draft section 4.3).
type Basis string

// The bases. Announced comes of DNS alone and is never stored.
const (
	Unknown   Basis = "unknown"
	Negative  Basis = "negative" // found not to take mail a while ago
	Seen      Basis = "seen"
	Pinned    Basis = "pinned"
	Announced Basis = "announced"
	Operator  Basis = "configured"
)

// basis says what holds now. negativeFor is how long absence is believed.
func (k known) basis(now time.Time, negativeFor time.Duration) Basis {
	switch {
	case now.Before(k.pinned):
		return Pinned
	case !k.sighted.IsZero() && now.Sub(k.sighted) < sightingFor:
		return Seen
	case !k.negative.IsZero() && now.Sub(k.negative) < negativeFor:
		return Negative
	}
	return Unknown
}

// sight notes that the domain has shown the feature on an authenticated stream.
// Its policy there replaces what it said before: the domain itself has spoken.
func (k *known) sight(now time.Time, caps transfer.Capabilities, at service) {
	if at == atUnknown {
		at = k.service
	}
	*k = known{sighted: now, service: at}
	if caps.Policy == "enforce" && caps.MaxAge > 0 {
		k.pinned, k.xmppOnly = now.Add(min(caps.MaxAge, longestPin)), caps.Sends == "xmpp-only"
	}
}

// sightThrough notes that a service which the domain lists has shown that it
// takes the domain's mail (xep-draft section 6.3). Its policy is the domain's.
func (k *known) sightThrough(now time.Time, caps transfer.Capabilities, listedBy service, via string) {
	k.sight(now, caps, listedBy)
	k.via = via
}

// deny notes that the domain has said, where its word counts, that it takes no
// mail. A sighting ends at once; a pin only when it is said a second time, a
// day after the first, so that a certificate issued by mistake diverts nothing
// before it can be noticed.
func (k *known) deny(now time.Time, why string, at service) {
	if now.Before(k.pinned) && (k.absent.IsZero() || now.Sub(k.absent) < absenceGap) {
		if k.absent.IsZero() {
			k.absent = now
		}
		k.sighted = time.Time{}
		return
	}
	*k = known{negative: now, why: why, deniedBy: at}
}

// refuse notes that a domain to which nothing binds us was found not to take
// mail, by whatever failed. A failure takes nothing from one that is held to
// XMPP.
func (k *known) refuse(now time.Time, why string) {
	if !k.held(now) {
		k.negative, k.why, k.deniedBy = now, why, atUnknown
	}
}

// held reports whether the domain is pinned or seen.
func (k known) held(now time.Time) bool {
	b := k.basis(now, 0)
	return b == Pinned || b == Seen
}

// final reports whether what is held against the domain is its mail service's
// own word. Against any other, _xmpps-mail records make it a peer (xep-draft
// section 4.3: announced).
func (k known) final(now time.Time, negativeFor time.Duration) bool {
	return k.deniedBy == atMail && k.basis(now, negativeFor) == Negative
}

// withdraw notes the domain's withdrawal (xep-draft section 4.4).
func (k *known) withdraw() { *k = known{} }

// recordVersion is that of the form below.
const recordVersion = 1

// record is the form in which known is stored. The store tells how old a
// record is, so every time is kept as an age at its writing, in milliseconds:
// no clock but the store's takes part.
type record struct {
	Version  int     `json:"v"`
	Sighted  *int64  `json:"sighted_ms,omitempty"`
	Service  service `json:"service,omitempty"`
	Via      string  `json:"via,omitempty"`
	PinLeft  int64   `json:"pin_left_ms,omitempty"`
	XMPPOnly bool    `json:"xmpp_only,omitempty"`
	Absent   *int64  `json:"absent_ms,omitempty"`
	Negative *int64  `json:"negative_ms,omitempty"`
	Why      string  `json:"why,omitempty"`
	DeniedBy service `json:"denied_by,omitempty"`
}

func (k known) encode(now time.Time) ([]byte, error) {
	r := record{
		Version: recordVersion, Sighted: ageOf(k.sighted, now), Service: k.service, Via: k.via,
		Absent: ageOf(k.absent, now), Negative: ageOf(k.negative, now), Why: k.why,
		DeniedBy: k.deniedBy,
	}
	if now.Before(k.pinned) {
		r.PinLeft, r.XMPPOnly = k.pinned.Sub(now).Milliseconds(), k.xmppOnly
	}
	return json.Marshal(r)
}

// decode reads a record that is age old. One that cannot be read is an error:
// to take it for nothing would forget a pin.
func decode(facts []byte, age time.Duration, now time.Time) (known, error) {
	var r record
	if err := json.Unmarshal(facts, &r); err != nil {
		return known{}, fmt.Errorf("record of a peer: %w", err)
	}
	switch {
	case r.Version > recordVersion:
		return known{}, fmt.Errorf("record of a peer has version %d, this program knows %d", r.Version, recordVersion)
	case r.Version < recordVersion:
		return known{}, nil // from before there were pins
	}
	written := now.Add(-max(age, 0))
	k := known{
		sighted: timeOf(r.Sighted, written), service: r.Service, via: r.Via,
		absent: timeOf(r.Absent, written), negative: timeOf(r.Negative, written), why: r.Why,
		deniedBy: r.DeniedBy,
	}
	if r.PinLeft > 0 {
		k.pinned = written.Add(millis(r.PinLeft, longestPin))
		k.xmppOnly = r.XMPPOnly
	}
	return k, nil
}

func ageOf(t, now time.Time) *int64 {
	if t.IsZero() {
		return nil
	}
	return new(max(now.Sub(t).Milliseconds(), 0))
}

func timeOf(age *int64, written time.Time) time.Time {
	if age == nil {
		return time.Time{}
	}
	return written.Add(-millis(*age, 100*365*24*time.Hour))
}

// millis is n milliseconds, within 0 and most.
func millis(n int64, most time.Duration) time.Duration {
	return time.Duration(min(max(n, 0), most.Milliseconds())) * time.Millisecond
}
