package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	mdns "github.com/miekg/dns"
)

const (
	// payload is the EDNS0 buffer size that passes every path unfragmented.
	payload = 1232
	// rounds is how often the list of servers is gone through.
	rounds = 2
	// maxStrays bounds the datagrams that do not fit the query, which one try
	// passes over while it waits for the one that does.
	maxStrays = 64
	// maxRecords bounds what is kept of an answer.
	maxRecords = 64
	// maxChain bounds the aliases followed within an answer.
	maxChain = 16
)

// result is a lookup before its records are read.
type result struct {
	records []mdns.RR
	status  Status
	secure  bool
	owner   string // fully qualified: where the chain of aliases ends
	err     error
	ttl     time.Duration // how long it may be remembered; 0: not at all
}

// resolve answers from memory or asks.
func (r *Resolver) resolve(ctx context.Context, name string, qtype uint16) result {
	fqdn, ok := queryName(name)
	if !ok {
		return result{status: NoDomain, err: fmt.Errorf("dns: %.80q cannot be a domain name", name)}
	}
	key := cacheKey{name: fqdn, qtype: qtype}
	if res, ok := r.cache.get(key); ok {
		return res
	}
	res := r.ask(ctx, fqdn, qtype)
	if res.status != Failed {
		r.cache.put(key, res)
	}
	return res
}

// ask goes through the servers until one gives a definite answer. A server
// that answered with a failure is not asked twice; one that was silent may
// have lost a datagram and gets its second chance in the next round.
func (r *Resolver) ask(ctx context.Context, fqdn string, qtype uint16) result {
	var failures []error
	done := make([]bool, len(r.servers))
	for range rounds {
		for i, server := range r.servers {
			if done[i] || ctx.Err() != nil {
				continue
			}
			reply, err := r.try(ctx, server, fqdn, qtype)
			if err == nil {
				res := judge(reply, fqdn, qtype)
				if res.status != Failed {
					return res
				}
				done[i], err = true, res.err
			}
			failures = append(failures, fmt.Errorf("server %s: %w", server, err))
		}
	}
	if err := ctx.Err(); err != nil {
		failures = append(failures, err)
	}
	return result{status: Failed, err: fmt.Errorf("dns %s %s: %w", fqdn, mdns.TypeToString[qtype], errors.Join(failures...))}
}

// try asks one server once, over TCP too if its datagram was cut short: what a
// truncated answer holds is not to be used (RFC 7766 section 5). Each of the
// two has the whole timeout, since a server that was heard is worth the wait.
func (r *Resolver) try(ctx context.Context, server, fqdn string, qtype uint16) (*mdns.Msg, error) {
	reply, err := r.exchange(ctx, "udp", server, fqdn, qtype)
	if err != nil || !reply.Truncated {
		return reply, err
	}
	return r.exchange(ctx, "tcp", server, fqdn, qtype)
}

func question(fqdn string, qtype uint16) *mdns.Msg {
	q := new(mdns.Msg)
	q.SetQuestion(fqdn, qtype) // with a random id
	q.AuthenticatedData = true // RFC 6840 section 5.7: tell us whether you validated
	q.SetEdns0(payload, true)
	return q
}

// exchange sends one query on a socket of its own, hence from a port of the
// system's choosing (RFC 5452 section 9.2), and returns the reply to it.
func (r *Resolver) exchange(ctx context.Context, network, server, fqdn string, qtype uint16) (*mdns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	var d net.Dialer
	nc, err := d.DialContext(ctx, network, server)
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	stop := context.AfterFunc(ctx, func() { nc.SetDeadline(time.Unix(1, 0)) })
	defer stop()

	q := question(fqdn, qtype)
	conn := &mdns.Conn{Conn: nc, UDPSize: payload}
	if err := conn.WriteMsg(q); err != nil {
		return nil, waitError(ctx, err)
	}
	for range maxStrays {
		var head mdns.Header
		packet, err := conn.ReadMsgHeader(&head)
		switch {
		case errors.Is(err, mdns.ErrShortRead):
			continue // too short for a header: somebody else's
		case err != nil:
			return nil, waitError(ctx, err)
		case head.Id != q.Id:
			continue // RFC 5452 section 9.1: not the reply to this query
		}
		reply := new(mdns.Msg)
		if err := reply.Unpack(packet); err != nil {
			return nil, fmt.Errorf("malformed answer: %w", err)
		}
		if answers(reply, q) {
			return reply, nil
		}
	}
	return nil, errors.New("no fitting answer among too many")
}

// waitError names the time-out that our own deadline shows as an I/O error.
func waitError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// answers checks that m is a reply to q, its question included.
func answers(m, q *mdns.Msg) bool {
	if !m.Response || m.Opcode != mdns.OpcodeQuery || len(m.Question) != 1 {
		return false
	}
	got, want := m.Question[0], q.Question[0]
	return got.Qtype == want.Qtype && got.Qclass == want.Qclass && strings.EqualFold(got.Name, want.Name)
}
