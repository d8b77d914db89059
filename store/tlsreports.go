package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"time"
)

// TLSReports adds up how TLS with the MX hosts of other domains fared, for the
// daily reports of RFC 8460: per UTC day and policy domain, over all nodes, and
// hands each day of a domain to one node at a time, to be reported.
type TLSReports interface {
	// AddTLS adds to what is there, in one transaction. A day of a domain keeps
	// at most MaxTLSCounts counts: further ones are left out, those that are
	// there go on. Durable. No idempotence key: who repeats a call that failed
	// may count twice.
	AddTLS(ctx context.Context, days []TLSDay) error

	// TLSDays returns what is known of a day, in the order of the domains'
	// octets, the domain "" standing for all.
	TLSDays(ctx context.Context, day, domain string) ([]TLSDay, error)

	// ClaimTLSReport leases one day of a domain whose report is due, the longest
	// due first; ok is false where none is. A lease that has run out is due like
	// anything else. The first claim of a day makes id its report's. Durable.
	ClaimTLSReport(ctx context.Context, id string, lease time.Duration) (d TLSDay, ok bool, err error)

	// SettleTLSReport ends a lease: with TLSWaiting it is due again after delay,
	// with any other state it is over. said is for the operator. Fencing token:
	// d.Token; ErrLeaseLost as in Settle. Durable.
	SettleTLSReport(ctx context.Context, d TLSDay, state TLSState, said string, delay time.Duration) error
}

// MaxTLSCounts bounds what is counted apart for one domain and day: a host that
// shows another fault each time must not fill the store.
const MaxTLSCounts = 500

// TLSState is what became of a report.
type TLSState string

const (
	TLSWaiting  TLSState = "waiting"
	TLSSent     TLSState = "sent"
	TLSUnwanted TLSState = "unwanted" // the domain publishes no place for it
	TLSFailed   TLSState = "failed"   // it could not be handed over in time
)

// TLSDay is one day of one domain.
type TLSDay struct {
	Day    string     `json:"day"` // "2006-01-02", UTC
	Domain string     `json:"domain"`
	Due    time.Time  `json:"-"` // of AddTLS: when its report is to go out; the first call for the day decides
	Counts []TLSCount `json:"counts"`

	// Set by the store.
	State  TLSState      `json:"state"`
	ID     string        `json:"report_id,omitempty"` // "" before the first claim
	Tries  int           `json:"tries"`               // claims so far
	Said   string        `json:"said,omitempty"`
	Token  int64         `json:"-"` // of a claim
	Waited time.Duration `json:"-"` // of a claim: since it was first due
}

// TLSCount is a number of sessions that went the same way. Policy and Result are
// the caller's, two counts being the same if both are equal.
type TLSCount struct {
	Policy   string `json:"policy"`
	Result   string `json:"result"`
	Sessions int64  `json:"sessions"`
}

// Key is what a backend tells counts of one day and domain apart by.
func (c TLSCount) Key() string {
	sum := sha256.Sum256([]byte(c.Policy + "\x00" + c.Result))
	return hex.EncodeToString(sum[:16])
}
