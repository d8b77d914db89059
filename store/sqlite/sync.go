//go:build !faults

package sqlite

import "time"

// levels returns the synchronous settings under which a commit is flushed
// before it returns, and is left to the next flush.
func levels() (flushed, lazy string) { return "FULL", "NORMAL" }

// systemTime is what the system takes for the time of day.
func systemTime() time.Time { return time.Now() }
