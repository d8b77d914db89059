package mail

import "time"

// PermissionType says what a Permission does.
type PermissionType string

const (
	PermissionRequest PermissionType = "request" // the author asks the mailbox
	PermissionGrant   PermissionType = "grant"   // the mailbox permits the author
	PermissionRevoke  PermissionType = "revoke"  // either side ends it
)

// Permission is what gateways tell each other about who may write to whom
// (xep-draft section 10).
type Permission struct {
	Type    PermissionType
	Mailbox Address
	Author  Address
	Key     []byte    // of a grant, 16 to 128 octets, or none
	Until   time.Time // of a grant; zero for no end
	Text    string    // what an author says; not to be shown unmarked
}
