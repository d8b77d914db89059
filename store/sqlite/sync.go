//go:build !faults

package sqlite

// levels returns the synchronous settings under which a commit is flushed
// before it returns, and is left to the next flush.
func levels() (flushed, lazy string) { return "FULL", "NORMAL" }
