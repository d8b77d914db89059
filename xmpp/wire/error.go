package wire

// Conditions of RFC 6120 section 4.9.3 that reading can end in.
const (
	BadFormat           = "bad-format"
	BadNamespacePrefix  = "bad-namespace-prefix"
	InvalidNamespace    = "invalid-namespace"
	NotWellFormed       = "not-well-formed"
	PolicyViolation     = "policy-violation"
	RestrictedXML       = "restricted-xml"
	UnsupportedEncoding = "unsupported-encoding"
)

// Error says why the input was refused.
type Error struct {
	Condition string // of RFC 6120 section 4.9.3
	Text      string // constant, repeats nothing of the input
}

func (e *Error) Error() string { return e.Condition + ": " + e.Text }

func refuse(condition, text string) error { return &Error{Condition: condition, Text: text} }
