package smtpbridge

import (
	"crypto/sha256"
	"net/netip"
	"strings"
	"time"
)

// AuthLimits bound failed authentications; 0 is no bound. What is used up comes
// back evenly.
type AuthLimits struct {
	PerAddress int // failures an hour from one address, one /64 for IPv6
	PerUser    int // failures an hour for one user name, whether it exists or not
}

// DefaultAuthLimits returns the limits that hold where the operator set none.
func DefaultAuthLimits() AuthLimits { return AuthLimits{PerAddress: 100, PerUser: 50} }

// AuthGuard counts failed authentications. An attempt is counted before
// anything is checked, so that many at once get no more than the limit, and
// given back if it did not fail. Its memory is bounded. Safe for concurrent use.
type AuthGuard struct{ addresses, users *rateTable }

// NewAuthGuard makes a guard that has counted nothing yet.
func NewAuthGuard(l AuthLimits) *AuthGuard {
	return &AuthGuard{newRateTable(l.PerAddress, time.Hour), newRateTable(l.PerUser, time.Hour)}
}

// address counts an exchange that begins.
func (g *AuthGuard) address(addr netip.AddrPort, now time.Time) bool {
	return g.addresses.take(clientKey(addr), now)
}

// user counts an attempt for a user.
func (g *AuthGuard) user(name string, now time.Time) bool {
	return g.users.take(userKey(name), now)
}

// giveBack undoes an attempt that did not fail; user is "" where none was
// counted for one.
func (g *AuthGuard) giveBack(addr netip.AddrPort, user string, now time.Time) {
	g.addresses.giveBack(clientKey(addr), now)
	g.users.giveBack(userKey(user), now)
}

// userKey makes a key of bounded length, the same for a name however it is
// capitalised.
func userKey(name string) string {
	if name == "" {
		return ""
	}
	sum := sha256.Sum256([]byte(strings.ToLower(name)))
	return string(sum[:16])
}
