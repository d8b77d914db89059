package proof

import "strings"

// Reason is why one proof does not hold.
type Reason struct {
	Proof string // "pinned", "pkix", "dane", "posh"
	Where string // the DNS name or URL looked at; "" for the certificate itself
	Err   error
}

// Unproven is the error of a certificate that no proof holds for.
type Unproven struct {
	Domain  string
	Reasons []Reason // in the order of trying
}

// Error gives all reasons. Texts of the network may be among them.
func (u *Unproven) Error() string {
	var b strings.Builder
	b.WriteString("nothing proves ")
	b.WriteString(u.Domain)
	for i, r := range u.Reasons {
		b.WriteString([]string{": ", "; "}[min(i, 1)])
		b.WriteString(r.Proof)
		if r.Where != "" {
			b.WriteString(" at " + r.Where)
		}
		b.WriteString(": " + r.Err.Error())
	}
	return b.String()
}

// Unwrap returns the causes.
func (u *Unproven) Unwrap() []error {
	errs := make([]error, len(u.Reasons))
	for i, r := range u.Reasons {
		errs[i] = r.Err
	}
	return errs
}

func (u *Unproven) because(proof, where string, err error) *Unproven {
	u.Reasons = append(u.Reasons, Reason{proof, where, err})
	return u
}
