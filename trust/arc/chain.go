// Package arc validates and extends the chains by which forwarders vouch for
// what they have seen of a message before they changed it (RFC 8617).
//
// Invariants: at most 50 sets are looked at (RFC 8617 section 5.1.1.1); keys
// and body hash are shared with DKIM, so that a chain costs no second reading
// of the message.
//
// Failure semantics: a chain is valid, or it is not; a chain that is not says
// nothing, however good its parts are. What DNS cannot tell now is a temperror,
// which is no failure of the chain and must not be sealed as one.
package arc

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"mailxmppd/trust/authres"
	"mailxmppd/trust/dkim"
	"mailxmppd/trust/header"
)

// maxSets: RFC 8617 section 4.2.1.
const maxSets = 50

// The three fields of a set.
const (
	nameResults = "arc-authentication-results"
	nameMessage = "arc-message-signature"
	nameSeal    = "arc-seal"
)

// Chain is a message's ARC chain and what became of it.
type Chain struct {
	Result  authres.Result // cv of RFC 8617 section 4.4: none, pass or fail; or temperror
	Reason  string
	Length  int              // the number of sets
	Sealer  string           // the domain of the last seal; believe it only if the chain passed
	Trusted bool             // the chain passed, and the last seal is of a domain that we trust
	Unsure  bool             // DNS could not tell now whether the chain is one of a sealer that we trust
	From    int              // the first set from which on all sealers are trusted; 0 if none
	Results []authres.Method // what the trusted sealer of set From had found when it took the message

	sets    []set
	highest int  // the highest instance that is there
	broken  bool // an earlier hop has said so, and its word stands
}

// set is one hop's three fields.
type set struct {
	results header.Field
	message header.Field
	seal    header.Field
	signed  *dkim.Signature // the ARC-Message-Signature
	sealed  *dkim.Signature // the ARC-Seal
	cv      string
}

// Collect reads the chain of a header. What no key could make valid has its
// Result at once.
func Collect(h header.Header, now time.Time) Chain {
	var c Chain
	byInstance := map[int]*set{}
	for _, f := range h {
		var place func(*set) *header.Field
		switch f.Name {
		case nameResults:
			place = func(s *set) *header.Field { return &s.results }
		case nameMessage:
			place = func(s *set) *header.Field { return &s.message }
		case nameSeal:
			place = func(s *set) *header.Field { return &s.seal }
		default:
			continue
		}
		i, ok := instance(f)
		switch {
		case !ok:
			return c.fail("a field has no valid instance")
		case i > maxSets:
			c.broken = true // there is no instance left to say it in
			return c.fail(fmt.Sprintf("more than %d sets", maxSets))
		}
		c.highest = max(c.highest, i)
		if byInstance[i] == nil {
			byInstance[i] = &set{}
		}
		at := place(byInstance[i])
		if at.Name != "" {
			return c.fail(fmt.Sprintf("set %d has a field twice", i))
		}
		*at = f
	}
	c.Length = len(byInstance)
	if c.Length == 0 {
		c.Result = authres.None
		return c
	}
	for i := 1; i <= c.Length; i++ {
		s := byInstance[i]
		if s == nil || s.results.Name == "" || s.message.Name == "" || s.seal.Name == "" {
			return c.fail(fmt.Sprintf("set %d is not complete", i))
		}
		c.sets = append(c.sets, *s)
	}
	return c.readSets(now)
}

func (c Chain) fail(reason string) Chain {
	c.Result, c.Reason, c.sets = authres.Fail, reason, nil
	return c
}

// readSets reads the signatures and checks what the seals claim (RFC 8617
// section 5.2, steps 2 and 3).
func (c Chain) readSets(now time.Time) Chain {
	for n := range c.sets {
		s, i := &c.sets[n], n+1
		var tags dkim.Tags
		s.sealed, tags = dkim.ParseARC(s.seal, true, now)
		if _, has := tags["h"]; s.sealed.Result != "" || has {
			return c.fail(fmt.Sprintf("seal %d: %s", i, orElse(s.sealed.Reason, "it has h=")))
		}
		s.cv = strings.ToLower(tags["cv"])
		switch {
		case s.cv == "fail":
			c.broken = true
			return c.fail(fmt.Sprintf("set %d says that the chain was broken before", i))
		case i == 1 && s.cv != "none", i > 1 && s.cv != "pass":
			return c.fail(fmt.Sprintf("seal %d: cv= is wrong", i))
		}
		if i < len(c.sets) {
			continue // only the last signature must still fit (step 4)
		}
		s.signed, _ = dkim.ParseARC(s.message, false, now)
		if s.signed.Result != "" {
			return c.fail(fmt.Sprintf("message signature %d: %s", i, s.signed.Reason))
		}
		for _, name := range s.signed.Signed {
			if name == nameSeal { // RFC 8617 section 4.1.2
				return c.fail(fmt.Sprintf("message signature %d covers a seal", i))
			}
		}
		c.Sealer = s.sealed.Domain
	}
	return c
}

func orElse(s, otherwise string) string {
	if s != "" {
		return s
	}
	return otherwise
}

// instance reads i= of any of the three fields: the first tag of
// ARC-Authentication-Results, one of the tags of the others.
func instance(f header.Field) (int, bool) {
	v := f.Value()
	if f.Name == nameResults {
		v, _, _ = strings.Cut(v, ";")
	}
	for spec := range strings.SplitSeq(v, ";") {
		name, value, ok := strings.Cut(spec, "=")
		if ok && strings.TrimSpace(name) == "i" {
			n, err := strconv.Atoi(strings.TrimSpace(value))
			return n, err == nil && n >= 1
		}
	}
	return 0, false
}

// FetchKeys starts the lookups of the keys that Verify needs.
func (c *Chain) FetchKeys(ctx context.Context, keys *dkim.Keys) {
	if c.Result != "" {
		return
	}
	for _, s := range c.sets {
		keys.Fetch(ctx, s.sealed.Selector, s.sealed.Domain)
		if s.signed != nil {
			keys.Fetch(ctx, s.signed.Selector, s.signed.Domain)
		}
	}
}

// BodyForms returns the form of the body that Verify needs.
func (c *Chain) BodyForms() []dkim.Canonicalization {
	if c.Result != "" {
		return nil
	}
	return []dkim.Canonicalization{c.sets[len(c.sets)-1].signed.BodyForm()}
}

// Verify sets the Result of a chain that has none (RFC 8617 section 5.2, steps
// 4 to 6), and finds the trusted part of a valid one.
func (c *Chain) Verify(h header.Header, keys *dkim.Keys, body *dkim.Body, trusted []string) {
	if c.Result != "" {
		return
	}
	last := &c.sets[len(c.sets)-1]
	defer func() {
		// Both of its signatures: else a stranger could put that domain's name above
		// a signature of his own, and see to it that DNS does not answer for that.
		c.Unsure = c.Result == authres.TempError && contains(trusted, last.sealed.Domain) && last.signed.Domain == last.sealed.Domain
	}()
	last.signed.Verify(dkim.NewIndex(h), keys, body)
	if !c.accept(last.signed, fmt.Sprintf("message signature %d", len(c.sets))) {
		return
	}
	for i := len(c.sets); i >= 1; i-- {
		s := c.sets[i-1].sealed
		s.VerifySeal(c.before(i), keys)
		if !c.accept(s, fmt.Sprintf("seal %d", i)) {
			return
		}
	}
	c.Result = authres.Pass
	c.findTrusted(trusted)
}

// accept takes a signature's result into the chain's unless it is a pass.
func (c *Chain) accept(s *dkim.Signature, what string) bool {
	switch s.Result {
	case authres.Pass:
		return true
	case authres.TempError:
		c.Result = authres.TempError
	default:
		c.Result = authres.Fail
	}
	c.Reason = what + ": " + s.Reason
	return false
}

// before returns the fields that seal i covers, itself not among them: of each
// set in turn results, signature and seal (RFC 8617 section 5.1.1).
func (c *Chain) before(i int) []string {
	var out []string
	for n, s := range c.sets[:i] {
		out = append(out, s.results.Raw, s.message.Raw)
		if n+1 < i {
			out = append(out, s.seal.Raw)
		}
	}
	return out
}

// findTrusted finds how far down from the top all sealers are trusted: what the
// lowest of them saw is as good as if we had seen it.
func (c *Chain) findTrusted(trusted []string) {
	for i := len(c.sets); i >= 1; i-- {
		if !contains(trusted, c.sets[i-1].sealed.Domain) {
			break
		}
		c.From = i
	}
	if c.From == 0 {
		return
	}
	c.Trusted = true
	_, value, _ := strings.Cut(c.sets[c.From-1].results.Value(), ";")
	if _, methods, err := authres.Parse(value); err == nil {
		c.Results = methods
	}
}

func contains(list []string, s string) bool {
	for _, l := range list {
		if l == s {
			return true
		}
	}
	return false
}

// Summary describes the chain for people.
func (c *Chain) Summary() string {
	if c.Length == 0 || c.Result != authres.Pass {
		return ""
	}
	return fmt.Sprintf("%d sets, last sealed by %s", c.Length, c.Sealer)
}
