package store

import (
	"context"
	"time"
)

// Uses counts how often what we have given out is used.
type Uses interface {
	// Use notes that name is used by somebody, and reports whether it may be: that
	// user is among the first so many. Idempotence key: name with user, so that
	// who comes again is not counted twice. The note is kept for a time from now at
	// least.
	Use(ctx context.Context, name, user string, most int, valid time.Duration) (ok bool, err error)
}
