//go:build !linux

package sqlite

import "time"

// begun is when the program was.
var begun = time.Now()

// elapsed is the time since the program's start; whether it counts what the
// system slept is the system's to say.
func elapsed() time.Duration { return time.Since(begun) }
