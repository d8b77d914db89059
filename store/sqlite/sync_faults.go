//go:build faults

package sqlite

import "os"

// levels returns the synchronous settings under which a commit is flushed
// before it returns, and is left to the next flush. MAILXMPPD_SYNC=off is the
// control of the test that looks for the flush: with it there is none.
func levels() (flushed, lazy string) {
	if os.Getenv("MAILXMPPD_SYNC") == "off" {
		return "OFF", "OFF"
	}
	return "FULL", "NORMAL"
}
