package store

// Report is what was found by looking at a store from outside, without opening
// it: beside a running gateway too.
type Report struct {
	Schema int64 `json:"schema"` // version of its tables; 0: there are none yet
	Knows  int64 `json:"knows"`  // the newest that this program knows
	// What it holds; not counted where Schema is not Knows.
	Messages    int64           `json:"messages"`
	Deliveries  map[State]int64 `json:"deliveries"`
	Acceptances int64           `json:"acceptances"`
	Transfers   int64           `json:"transfers"` // open ones
	Users       int64           `json:"users"`

	Signing []SigningKey `json:"-"` // private halves are in them
}
