//go:build faults

package postgres

import (
	"os"
	"time"
)

// statementTimeout is as in bounds.go, or what MAILXMPPD_STATEMENT says, for the
// tests that wait for it and for what follows from it.
var (
	statementTimeout = statementBound()
	commitTimeout    = connectTimeout + statementTimeout
	silence          = statementTimeout + statementTimeout/3
	quiet            = statementTimeout
)

func statementBound() time.Duration {
	if d, err := time.ParseDuration(os.Getenv("MAILXMPPD_STATEMENT")); err == nil && d > 0 {
		return d
	}
	return 30 * time.Second
}
