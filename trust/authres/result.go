// Package authres writes and reads Authentication-Results fields (RFC 8601),
// and holds the words in which all of package trust says how a check ended.
//
// Invariants: what Format writes is one header field whatever the values hold:
// no value can end it, start a comment or pose as another result. Parse takes
// any octets, in bounded time.
//
// Failure semantics: Parse returns an error for what is not the form of RFC
// 8601; what was read up to there is not returned, for a field cut in the
// middle could turn a failure into silence.
package authres

// Result says how a check ended (RFC 8601 section 2.7).
type Result string

// The results of RFC 8601 sections 2.7.1 to 2.7.6. The zero value is no
// result: the check was not made.
const (
	None      Result = "none"      // nothing there to check
	Pass      Result = "pass"      // checked and right
	Fail      Result = "fail"      // checked and wrong
	SoftFail  Result = "softfail"  // SPF: probably wrong
	Neutral   Result = "neutral"   // says nothing
	Policy    Result = "policy"    // right, but in a form that we do not take
	TempError Result = "temperror" // cannot be told now
	PermError Result = "permerror" // cannot be told, ever
)

// known lists the results that Parse takes.
var known = map[Result]bool{
	None: true, Pass: true, Fail: true, SoftFail: true, Neutral: true, Policy: true, TempError: true, PermError: true,
	"hardfail": true, "discard": true, "nxdomain": true, "signed": true, "unknown": true, "skipped": true,
}

// Method is one result with what it is about.
type Method struct {
	Name    string // "spf", "dkim", ...
	Result  Result
	Comment string // for people, e.g. "2048-bit key"
	Reason  string // why, in words
	Props   []Prop
}

// Prop is a property: what the result was found from, e.g. smtp.mailfrom.
type Prop struct {
	Type  string // "smtp", "header", "body" or "policy"
	Name  string
	Value string
}

// Prop returns the value of a property, "" if it is not there.
func (m Method) Prop(kind, name string) string {
	for _, p := range m.Props {
		if p.Type == kind && p.Name == name {
			return p.Value
		}
	}
	return ""
}
