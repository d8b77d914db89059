//go:build faults

package gateway

import (
	"os"
	"time"
)

// leaseTime is that of an attempt, renewed while it runs, patience for how long
// a store that fails is asked again to settle, and maintainEvery how often the
// store is rid of what has outlived its time. MAILXMPPD_LEASE and
// MAILXMPPD_MAINTAIN make them short, for the tests that have leases run out or
// wait for the other.
var (
	leaseTime     = period("MAILXMPPD_LEASE", 2*time.Minute)
	patience      = 2 * leaseTime
	maintainEvery = period("MAILXMPPD_MAINTAIN", time.Minute)
)

func period(variable string, otherwise time.Duration) time.Duration {
	if d, err := time.ParseDuration(os.Getenv(variable)); err == nil && d > 0 {
		return d
	}
	return otherwise
}
