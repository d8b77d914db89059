//go:build !faults

package postgres

import "time"

const (
	statementTimeout = 30 * time.Second // of one statement, kept by the server
	// One transaction, connecting included.
	commitTimeout = connectTimeout + statementTimeout
	// For how long a connection may make no progress with a statement under
	// way: longer than the server itself gives a statement, so that it runs out
	// only where the server cannot keep its word any more: a backend that is
	// stopped, a machine or a network that is gone without a farewell.
	silence = statementTimeout + 10*time.Second
	// For how long the listener hears nothing before it asks whether the server
	// is there: where something between them swallows what is sent and confirms
	// it, no keep-alive finds out.
	quiet = 30 * time.Second
)
