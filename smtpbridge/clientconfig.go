package smtpbridge

import (
	"context"
	"crypto/x509"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"mailxmppd/dns"
)

// Resolver is what the client asks of DNS. Safe for concurrent use; bounds its
// own waits and honours ctx.
type Resolver interface {
	MX(ctx context.Context, domain string) dns.Answer[dns.MX]
	Addrs(ctx context.Context, host string) dns.Answer[netip.Addr]
	CNAME(ctx context.Context, name string) dns.Answer[string]
	TLSA(ctx context.Context, name string) dns.Answer[dns.TLSA]
	TXT(ctx context.Context, name string) dns.Answer[string]
}

// ClientTimeouts bound the client's waits, phase by phase. The zero value of
// each stands for what RFC 5321 section 4.5.3.2 says.
type ClientTimeouts struct {
	Connect   time.Duration // 30 s: of a TCP connection and of a TLS handshake, each
	Greeting  time.Duration // 5 min (4.5.3.2.1)
	Command   time.Duration // 5 min: EHLO, MAIL, RCPT and others (4.5.3.2.2, 4.5.3.2.3)
	DataStart time.Duration // 2 min: from DATA to 354 (4.5.3.2.4)
	DataBlock time.Duration // 3 min: for each block of up to 64 KiB (4.5.3.2.5)
	DataEnd   time.Duration // 10 min: for each reply after the final dot (4.5.3.2.6)
	Policy    time.Duration // 30 s: to fetch an MTA-STS policy (RFC 8461 section 3.3 proposes up to a minute)
}

func (t ClientTimeouts) withDefaults() ClientTimeouts {
	for _, d := range []struct {
		set      *time.Duration
		standard time.Duration
	}{
		{&t.Connect, 30 * time.Second},
		{&t.Greeting, 5 * time.Minute},
		{&t.Command, 5 * time.Minute},
		{&t.DataStart, 2 * time.Minute},
		{&t.DataBlock, 3 * time.Minute},
		{&t.DataEnd, 10 * time.Minute},
		{&t.Policy, 30 * time.Second},
	} {
		if *d.set <= 0 {
			*d.set = d.standard
		}
	}
	return t
}

// Family says which IP addresses of a host are tried, and which first.
type Family string

// The families. The zero value counts as FamilyIPv6First.
const (
	FamilyIPv6First Family = "ipv6-first" // in turns, IPv6 first
	FamilyIPv4First Family = "ipv4-first" // in turns, IPv4 first
	FamilyIPv4      Family = "ipv4"
	FamilyIPv6      Family = "ipv6"
)

// ClientConfig is what a Client needs. Zero values stand for the defaults
// given.
type ClientConfig struct {
	Hostname  string         // for EHLO and LHLO; "localhost"
	DNS       Resolver       // nil: by MX nothing can be delivered, fixed hops resolve as the system does
	MXPort    int            // 25
	Roots     *x509.CertPool // for verified TLS and for MTA-STS policies; nil: the system's
	Timeouts  ClientTimeouts
	MaxPerHop int           // connections at a time to one address; 20
	MaxIdle   int           // of them kept open while idle; as MaxPerHop
	IdleFor   time.Duration // how long; 30 s
	FailedFor time.Duration // how long a place that could not be connected to comes last, five times that at most; 1 min
	OwnNames  []string      // by which MX records may name this gateway, beside Hostname
	OwnAddrs  []netip.Addr  // at which an MX host is this gateway, those of a NAT before it included
	Family    Family        // FamilyIPv6First
	Literals  bool          // mail to address literals is sent (RFC 5321 section 2.3.5)
	Log       *slog.Logger  // nil: none

	// Validating: DNS validates, and the path to it is safe. Only then does
	// DNSSEC status count, and DANE is honoured (RFC 7672).
	Validating bool
	MTASTS     bool        // MTA-STS policies are honoured (RFC 8461)
	Policies   PolicyStore // keeps them over restarts; nil: in memory alone
	// PolicyDial connects to policy hosts, "mta-sts.<domain>:443"; nil: at the
	// addresses that DNS tells.
	PolicyDial func(ctx context.Context, network, addr string) (net.Conn, error)
	Reports    ReportSink // is told how TLS with MX hosts fares (RFC 8460); nil: nobody
}

func (cfg ClientConfig) withDefaults() ClientConfig {
	if cfg.Hostname == "" {
		cfg.Hostname = "localhost"
	}
	if cfg.MXPort == 0 {
		cfg.MXPort = 25
	}
	if cfg.MaxPerHop <= 0 {
		cfg.MaxPerHop = 20
	}
	if cfg.MaxIdle <= 0 {
		cfg.MaxIdle = cfg.MaxPerHop
	}
	if cfg.IdleFor <= 0 {
		cfg.IdleFor = 30 * time.Second
	}
	if cfg.FailedFor <= 0 {
		cfg.FailedFor = time.Minute
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	cfg.Timeouts = cfg.Timeouts.withDefaults()
	return cfg
}
