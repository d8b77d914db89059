package dns

import (
	"errors"
	"fmt"
	"strings"
	"time"

	mdns "github.com/miekg/dns"
)

// judge reads a reply: its status, and the records of the type asked for at
// the end of the chain of aliases that starts at fqdn. Other records in the
// answer section are not looked at.
func judge(m *mdns.Msg, fqdn string, qtype uint16) result {
	if m.Rcode != mdns.RcodeSuccess && m.Rcode != mdns.RcodeNameError {
		return result{status: Failed, err: fmt.Errorf("answered %s", rcodeName(m.Rcode))}
	}
	owner, ttl, err := followAliases(m.Answer, fqdn, qtype)
	if err != nil {
		return result{status: Failed, err: err}
	}
	res := result{secure: m.AuthenticatedData, owner: owner, ttl: ttl}
	if m.Rcode == mdns.RcodeNameError {
		res.status, res.ttl = NoDomain, min(ttl, negativeTTL(m.Ns))
		return res
	}
	for _, rr := range m.Answer {
		h := rr.Header()
		if h.Rrtype != qtype || h.Class != mdns.ClassINET || !strings.EqualFold(h.Name, owner) || len(res.records) == maxRecords {
			continue
		}
		res.records = append(res.records, rr)
		res.ttl = min(res.ttl, seconds(h.Ttl))
	}
	switch {
	case len(res.records) > 0:
		res.status = Found
	case isReferral(m.Ns):
		// Taking it for "no such record" would bounce mail because of a server
		// that does not recurse.
		return result{status: Failed, err: errors.New("answered with a referral: not a recursive server")}
	default:
		res.status, res.ttl = NoData, min(ttl, negativeTTL(m.Ns))
	}
	return res
}

// followAliases follows CNAME records from name within an answer and returns
// where they end, and the shortest time to live among them.
func followAliases(answer []mdns.RR, name string, qtype uint16) (string, time.Duration, error) {
	ttl := maxTTL
	for range maxChain {
		var next *mdns.CNAME
		for _, rr := range answer {
			if c, ok := rr.(*mdns.CNAME); ok && c.Hdr.Class == mdns.ClassINET && strings.EqualFold(c.Hdr.Name, name) {
				next = c
				break
			}
		}
		if next == nil || qtype == mdns.TypeCNAME {
			return name, ttl, nil
		}
		name, ttl = next.Target, min(ttl, seconds(next.Hdr.Ttl))
	}
	return "", 0, errors.New("chain of aliases is too long or a loop")
}

// negativeTTL is how long absence may be remembered: RFC 2308 section 5, the
// lesser of the SOA's own time to live and its minimum field; without an SOA
// not at all.
func negativeTTL(authority []mdns.RR) time.Duration {
	for _, rr := range authority {
		if soa, ok := rr.(*mdns.SOA); ok {
			return seconds(min(soa.Hdr.Ttl, soa.Minttl))
		}
	}
	return 0
}

// isReferral: RFC 2308 section 2.2, NS records without an SOA.
func isReferral(authority []mdns.RR) bool {
	ns := false
	for _, rr := range authority {
		switch rr.Header().Rrtype {
		case mdns.TypeSOA:
			return false
		case mdns.TypeNS:
			ns = true
		}
	}
	return ns
}

// seconds reads a TTL; one with the highest bit set counts as zero (RFC 2181
// section 8).
func seconds(ttl uint32) time.Duration {
	if ttl > 1<<31-1 {
		return 0
	}
	return time.Duration(ttl) * time.Second
}

func rcodeName(rcode int) string {
	if s, ok := mdns.RcodeToString[rcode]; ok {
		return s
	}
	return fmt.Sprintf("rcode %d", rcode)
}
