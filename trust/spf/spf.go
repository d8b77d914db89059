// Package spf finds out whether a client may use a domain in its reverse-path
// or HELO (RFC 7208). The evaluation is blitiri.com.ar/go/spf's; here are the
// questions put to it, the DNS it sees, and the bounds.
//
// Invariants: at most 10 terms that ask DNS and 2 void lookups a check (RFC
// 7208 section 4.6.4), each answer bounded, all within the context's time.
//
// Failure semantics: every check ends in a result of RFC 7208 section 2.6 with
// a reason. DNS that does not answer is a temperror.
package spf

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"

	"blitiri.com.ar/go/spf"

	"mailxmppd/dns"
	"mailxmppd/mail"
	"mailxmppd/trust/authres"
)

// Resolver asks DNS; *dns.Resolver does.
type Resolver interface {
	TXT(ctx context.Context, name string) dns.Answer[string]
	MX(ctx context.Context, domain string) dns.Answer[dns.MX]
	Family(ctx context.Context, host string, v6 bool) dns.Answer[netip.Addr]
	PTR(ctx context.Context, addr netip.Addr) dns.Answer[string]
}

// maxRecord bounds an SPF record that is read: RFC 7208 section 3.4 wants
// records to fit into 512 octets.
const maxRecord = 4096

// Check is the outcome of one check.
type Check struct {
	Result authres.Result
	Reason string
	Domain string // that was checked, A-labels; "" if there was none to check
}

// MailFrom checks the reverse-path; the null one stands for postmaster at the
// HELO name (RFC 7208 section 2.4).
func MailFrom(ctx context.Context, r Resolver, client netip.Addr, helo string, sender mail.Address) Check {
	if sender.IsNull() {
		return check(ctx, r, client, helo, "postmaster", heloDomain(helo))
	}
	return check(ctx, r, client, helo, sender.Local, sender.Domain)
}

// Helo checks the HELO name (RFC 7208 section 2.3).
func Helo(ctx context.Context, r Resolver, client netip.Addr, helo string) Check {
	return check(ctx, r, client, helo, "postmaster", heloDomain(helo))
}

// heloDomain is "" for what is no name: address literals and worse say nothing.
func heloDomain(helo string) string {
	d, err := mail.ParseDomain(strings.TrimSuffix(helo, "."))
	if err != nil {
		return ""
	}
	return d
}

func check(ctx context.Context, r Resolver, client netip.Addr, helo, local, domain string) Check {
	c := Check{Domain: domain}
	switch {
	case !client.IsValid():
		return c.end(authres.None, "the client's address is not known")
	case domain == "", mail.IsLiteral(domain), !strings.Contains(domain, "."): // RFC 7208 section 4.3
		c.Domain = ""
		return c.end(authres.None, "no domain to check")
	}
	client = client.Unmap().WithZone("")
	if heloDomain(helo) == "" {
		helo = "unknown" // of %{h}
	}
	// The library splits at the first "@", which a quoted local part may hold.
	sender := strings.ReplaceAll(local, "@", "_") + "@" + domain
	result, err := spf.CheckHostWithSender(net.IP(client.AsSlice()), helo, sender,
		spf.WithContext(ctx), spf.WithResolver(&adapter{r, client.Is6()}))
	switch {
	case ctx.Err() != nil && result != spf.Pass && result != spf.Fail:
		// An answer that did not come in time may look like any other.
		return c.end(authres.TempError, "DNS took too long")
	case !known[result]:
		return c.end(authres.PermError, "the record cannot be understood")
	}
	return c.end(authres.Result(result), reason(result, err))
}

func (c Check) end(r authres.Result, reason string) Check {
	c.Result, c.Reason = r, reason
	return c
}

var known = map[spf.Result]bool{
	spf.None: true, spf.Neutral: true, spf.Pass: true, spf.Fail: true, spf.SoftFail: true, spf.TempError: true, spf.PermError: true,
}

// reason puts a result into words that hold nothing of the record, which is
// the sender's to write.
func reason(r spf.Result, err error) string {
	switch r {
	case spf.Pass:
		return "the domain lists the client"
	case spf.Fail:
		return "the domain says that the client is not its"
	case spf.SoftFail:
		return "the domain says that the client is probably not its"
	case spf.Neutral:
		return "the domain says nothing about the client"
	case spf.None:
		return "the domain has no record"
	case spf.TempError:
		return "DNS does not answer"
	}
	for _, known := range []error{
		spf.ErrLookupLimitReached, spf.ErrVoidLookupLimitReached, spf.ErrTooManyMXRecords, spf.ErrMultipleRecords,
		spf.ErrUnknownField, spf.ErrInvalidIP, spf.ErrInvalidMask, spf.ErrInvalidMacro, spf.ErrInvalidDomain, errTooLong, errSyntax,
	} {
		if errors.Is(err, known) {
			return "the record is wrong: " + known.Error()
		}
	}
	return "the record, or one that it refers to, is wrong or missing"
}

var errTooLong = errors.New("too long")

// adapter shows our resolver to the library as it wants one.
type adapter struct {
	r  Resolver
	v6 bool
}

func (a *adapter) LookupTXT(ctx context.Context, name string) ([]string, error) {
	ans := a.r.TXT(ctx, name)
	if err := lookupError(ans.Status, name); err != nil {
		return nil, err
	}
	for _, t := range ans.Records {
		if len(t) < 6 || !strings.EqualFold(t[:6], "v=spf1") || len(t) > 6 && t[6] != ' ' {
			continue // RFC 7208 section 4.5: not a record, whatever it is
		}
		if len(t) > maxRecord {
			return nil, errTooLong
		}
		if err := checkSyntax(t); err != nil {
			return nil, err
		}
	}
	return ans.Records, nil
}

func (a *adapter) LookupMX(ctx context.Context, name string) ([]*net.MX, error) {
	ans := a.r.MX(ctx, name)
	if err := lookupError(ans.Status, name); err != nil {
		return nil, err
	}
	var out []*net.MX
	for _, mx := range ans.Records {
		if mx.Host != "." { // RFC 7505: no mail, so no address
			out = append(out, &net.MX{Host: mx.Host, Pref: mx.Preference})
		}
	}
	return out, nil
}

// LookupIPAddr asks for the client's family; "exists" wants A records whatever
// the client has (RFC 7208 section 5.7), and so both are asked for an IPv6
// client. Neither may be missing: half an answer could turn into a fail.
func (a *adapter) LookupIPAddr(ctx context.Context, host string) ([]net.IPAddr, error) {
	v4 := a.r.Family(ctx, host, false)
	err := lookupError(v4.Status, host)
	all := v4.Records
	if a.v6 && v4.Status != dns.NoDomain {
		v6 := a.r.Family(ctx, host, true)
		all = append(slices.Clone(all), v6.Records...)
		if err == nil {
			err = lookupError(v6.Status, host)
		}
	}
	if err != nil {
		return nil, err
	}
	var out []net.IPAddr
	for _, ip := range all {
		out = append(out, net.IPAddr{IP: net.IP(ip.AsSlice())})
	}
	return out, nil
}

func (a *adapter) LookupAddr(ctx context.Context, addr string) ([]string, error) {
	ip, err := netip.ParseAddr(addr)
	if err != nil {
		return nil, err
	}
	ans := a.r.PTR(ctx, ip)
	if err := lookupError(ans.Status, addr); err != nil {
		return nil, err
	}
	return ans.Records, nil
}

// lookupError is the library's form of a status; no records are no error.
func lookupError(s dns.Status, name string) error {
	switch s {
	case dns.Found, dns.NoData:
		return nil
	case dns.NoDomain:
		return &net.DNSError{Err: "no such domain", Name: name, IsNotFound: true}
	}
	return &net.DNSError{Err: "no answer", Name: name, IsTemporary: true}
}
