package config

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// Duration is a time span written as in "90s", "4h", "1h30m" or "5d".
type Duration struct{ time.Duration }

// UnmarshalText reads a span of whole days or one of time.ParseDuration's.
func (d *Duration) UnmarshalText(b []byte) error {
	s := string(b)
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		if err != nil {
			return fmt.Errorf("%q is not a time span such as \"90s\", \"4h\" or \"5d\"", clip(s))
		}
		d.Duration = time.Duration(n) * 24 * time.Hour
		return nil
	}
	v, err := time.ParseDuration(s)
	if err != nil || v < 0 {
		return fmt.Errorf("%q is not a time span such as \"90s\", \"4h\" or \"5d\"", clip(s))
	}
	d.Duration = v
	return nil
}

// MarshalText writes the span in the largest unit that divides it.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// String returns the span in the form that UnmarshalText reads.
func (d Duration) String() string {
	units := []struct {
		span time.Duration
		name string
	}{{24 * time.Hour, "d"}, {time.Hour, "h"}, {time.Minute, "m"}, {time.Second, "s"}}
	for _, u := range units {
		if d.Duration > 0 && d.Duration%u.span == 0 {
			return strconv.FormatInt(int64(d.Duration/u.span), 10) + u.name
		}
	}
	return d.Duration.String()
}

// Size is a number of octets, written as in "64KiB", "50MB" or "6000".
type Size int64

// sizeUnits: KB and its like are decimal, KiB and its like are binary
// (IEC 80000-13). The longest first, so that a suffix is found whole.
func sizeUnits() []sizeUnit {
	return []sizeUnit{
		{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10},
		{"GB", 1e9}, {"MB", 1e6}, {"KB", 1e3}, {"kB", 1e3}, {"B", 1}, {"", 1},
	}
}

type sizeUnit struct {
	name string
	size int64
}

// UnmarshalText reads a whole number with or without a unit.
func (z *Size) UnmarshalText(b []byte) error {
	s := string(b)
	for _, u := range sizeUnits() {
		digits, ok := strings.CutSuffix(s, u.name)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(digits), 10, 64)
		if err != nil || n < 0 || n > math.MaxInt64/u.size {
			break
		}
		*z = Size(n * u.size)
		return nil
	}
	return fmt.Errorf("%q is not a size such as \"6000\", \"64KiB\" or \"50MB\"", clip(s))
}

// MarshalText writes the size in the largest unit that divides it.
func (z Size) MarshalText() ([]byte, error) { return []byte(z.String()), nil }

// String returns the size in the form that UnmarshalText reads.
func (z Size) String() string {
	for _, u := range sizeUnits() {
		if u.size > 1 && z > 0 && int64(z)%u.size == 0 {
			return strconv.FormatInt(int64(z)/u.size, 10) + u.name
		}
	}
	return strconv.FormatInt(int64(z), 10)
}

// Mode is who may open a local socket, written as in "0660".
type Mode uint32

// UnmarshalText reads an octal number that lets somebody read and write.
func (m *Mode) UnmarshalText(b []byte) error {
	if len(b) == 0 { // the default
		*m = 0
		return nil
	}
	n, err := strconv.ParseUint(string(b), 8, 32)
	if err != nil || n > 0o777 || n&0o600 != 0o600 {
		return fmt.Errorf("%q is not a mode such as \"0600\", \"0660\" or \"0666\"", clip(string(b)))
	}
	*m = Mode(n)
	return nil
}

// MarshalText writes what UnmarshalText reads; nothing for no mode.
func (m Mode) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// String returns the mode as chmod takes it; "" for none.
func (m Mode) String() string {
	if m == 0 {
		return ""
	}
	return fmt.Sprintf("%04o", uint32(m))
}

// Network is a range of IP addresses, written as in "192.0.2.0/24"; a single
// address stands for itself.
type Network struct{ netip.Prefix }

// UnmarshalText reads an address or a prefix. Bits after the prefix are a
// mistake: the range that the operator had in mind is not known then.
func (n *Network) UnmarshalText(b []byte) error {
	s := string(b)
	if ip, err := netip.ParseAddr(s); err == nil && ip.Zone() == "" {
		n.Prefix = netip.PrefixFrom(ip, ip.BitLen())
		return nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return fmt.Errorf("%q is not an address range such as \"192.0.2.0/24\"", clip(s))
	}
	if p != p.Masked() {
		return fmt.Errorf("%q has bits set after the prefix; %s is the whole range", s, p.Masked())
	}
	n.Prefix = p
	return nil
}

// Secret is a text that no output shows.
type Secret string

// String hides the secret from %s, %v and the log.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return redacted
}

// GoString hides the secret from %#v.
func (s Secret) GoString() string { return strconv.Quote(s.String()) }

// MarshalText hides the secret from every encoder.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText refuses: a secret is never read from the file itself.
func (s *Secret) UnmarshalText([]byte) error {
	return errors.New("a secret is not written into this file")
}

const redacted = "[redacted]"

// clip bounds what a message repeats of the file.
func clip(s string) string {
	if len(s) > 60 {
		return s[:60] + "..."
	}
	return s
}
