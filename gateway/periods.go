//go:build !faults

package gateway

import "time"

const (
	leaseTime     = 2 * time.Minute // of an attempt, renewed while it runs
	patience      = 2 * leaseTime   // for how long a store that fails is asked again to settle
	maintainEvery = time.Minute     // how often the store is rid of what has outlived its time
)
