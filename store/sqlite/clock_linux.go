package sqlite

import (
	"time"

	"golang.org/x/sys/unix"
)

// elapsed is the time since the system's start, what it slept included: the
// mail of a machine that wakes up is due.
func elapsed() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return 0 // no kernel since 2.6.39 is without it
	}
	return time.Duration(t.Nano())
}
