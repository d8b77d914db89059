package schema

import _ "embed"

//go:embed mail-transport.xsd
var mailTransport string

// MailTransport returns the XML schema of the mail transport protocol
// (xep-draft section 18).
func MailTransport() string { return mailTransport }
