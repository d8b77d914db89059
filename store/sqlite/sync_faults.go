//go:build faults

package sqlite

import (
	"os"
	"time"
)

// levels returns the synchronous settings under which a commit is flushed
// before it returns, and is left to the next flush. MAILXMPPD_SYNC=off is the
// control of the test that looks for the flush: with it there is none.
func levels() (flushed, lazy string) {
	if os.Getenv("MAILXMPPD_SYNC") == "off" {
		return "OFF", "OFF"
	}
	return "FULL", "NORMAL"
}

// systemTime is what the system takes for the time of day, wrong by
// MAILXMPPD_CLOCK_BY.
func systemTime() time.Time {
	by, _ := time.ParseDuration(os.Getenv("MAILXMPPD_CLOCK_BY")) // what is no time is none
	return time.Now().Add(by)
}
