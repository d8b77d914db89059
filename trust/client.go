package trust

import (
	"context"
	"net/netip"

	"mailxmppd/dns"
	"mailxmppd/trust/authres"
)

// maxNames bounds the names of an address that are looked up.
const maxNames = 5

// iprev looks for a name of the client that leads back to it (RFC 8601 section
// 3). A name that a trusted neighbour has already found and checked is taken.
func (e *Evaluator) iprev(ctx context.Context, client netip.Addr, told string) IPRev {
	if !client.IsValid() {
		return IPRev{}
	}
	r := IPRev{Client: client.String()}
	if told != "" && told != "unknown" {
		r.Result, r.Name, r.Reason = authres.Pass, told, "as the neighbour found it"
		return r
	}
	names := e.conf.DNS.PTR(ctx, client)
	switch names.Status {
	case dns.Failed:
		r.Result, r.Reason = authres.TempError, "DNS does not answer"
		return r
	case dns.Found:
	default:
		r.Result, r.Reason = authres.PermError, "the address has no name"
		return r
	}
	r.Result, r.Reason = authres.Fail, "no name of the address leads back to it"
	for _, name := range names.Records[:min(len(names.Records), maxNames)] {
		ans := e.conf.DNS.Family(ctx, name, client.Is6())
		if ans.Status == dns.Failed {
			r.Result, r.Reason = authres.TempError, "DNS does not answer"
		}
		for _, ip := range ans.Records {
			if ip == client {
				r.Result, r.Reason, r.Name = authres.Pass, "", name
				return r
			}
		}
	}
	return r
}

// secondary returns the trusted secondary that a message came from.
func (e *Evaluator) secondary(in Input, client netip.Addr) *Secondary {
	if in.Arrival != BySMTP || !client.IsValid() {
		return nil
	}
	for i, s := range e.conf.Secondaries {
		for _, p := range s.Networks {
			if p.Contains(client) {
				return &e.conf.Secondaries[i]
			}
		}
	}
	return nil
}
