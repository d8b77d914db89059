package config

import (
	"net/netip"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"mailxmppd/mail"
)

// maxSocketPath is what a Unix socket's address holds on every system that we
// run on, less the room for the name under which the socket is made.
const maxSocketPath = 90

// check applies the rules that go beyond a value's form and completes cfg:
// names in the form they are compared in, paths absolute under base, secrets
// read. It goes on after a mistake.
func check(r *report, base string, cfg *Config) {
	c := checker{report: r, base: base, own: map[string]bool{}}
	c.domains(cfg)
	c.listeners(cfg)
	c.store(&cfg.Store)
	c.dns(&cfg.DNS)
	c.roots(&cfg.TLS)
	c.xmpp(cfg)
	c.smtp(cfg)
	c.queue(&cfg.Queue)
	c.peers(cfg.Peers)
	c.components(cfg)
	c.srs(cfg)
	c.oneOf("srs.smtp", cfg.SRS.SMTP, RewriteAliases, RewriteAll, RewriteNone)
	c.dkim(&cfg.DKIM)
	c.contacts(&cfg.Contacts)
	c.trust(cfg)
	c.grants(&cfg.Grants)
	c.aliases(cfg.Aliases)
	c.routes(cfg)
	c.limits(&cfg.Limits)
	c.oauth(&cfg.OAuth)
	c.oneOf("log.level", cfg.Log.Level, "debug", "info", "warn", "error")
	c.oneOf("log.format", cfg.Log.Format, "text", "json")
	if cfg.Admin.Socket != "" {
		cfg.Admin.Socket = c.path(cfg.Admin.Socket)
		if len(cfg.Admin.Socket) > maxSocketPath {
			c.add("admin.socket", "the path is longer than %d octets, too long for a Unix socket", maxSocketPath)
		}
	}
}

type checker struct {
	*report
	base    string
	own     map[string]bool // our domains
	sockets []socket        // addresses taken so far
}

func (c *checker) store(s *Store) {
	var sources []string
	if _, ok := c.lines["store.url"]; ok && s.URL != "" {
		sources = append(sources, "store.url")
	}
	if s.URLFile != "" {
		sources = append(sources, "store.url_file")
	}
	if s.URLEnv != "" {
		sources = append(sources, "store.url_env")
	}
	switch {
	case len(sources) > 1:
		c.add(sources[1], "only one of url, url_file and url_env can be given")
		return
	case s.URLFile != "" || s.URLEnv != "":
		text, ok := c.secret(sources[0], &s.URLFile, s.URLEnv)
		if !ok {
			return
		}
		s.URL = text
	}
	c.storeURL(s)
	if !schemaName.MatchString(s.Schema) {
		c.add("store.schema", "%q is not a schema name: lower-case letters, digits and _, at most 63", clip(s.Schema))
	}
	if len(s.Node) > 64 || mail.Sanitise(s.Node) != s.Node {
		c.add("store.node", "wants at most 64 printable characters")
	}
}

var schemaName = regexp.MustCompile(`^[a-z_][a-z0-9_]{0,62}$`)

// SQLitePath returns the file of an SQLite store; ok is false for Postgres.
func (s Store) SQLitePath() (path string, ok bool) {
	u, err := url.Parse(s.URL)
	if err != nil || u.Scheme != "sqlite" {
		return "", false
	}
	return u.Path, true
}

// storeURL checks the URL without repeating it: it may hold a password.
func (c *checker) storeURL(s *Store) {
	u, err := url.Parse(s.URL)
	if err != nil {
		c.add("store.url", "is not a URL such as sqlite:///var/lib/mailxmppd/mail.db or postgres://user@host/database")
		return
	}
	switch u.Scheme {
	case "sqlite":
		path := u.Path
		if u.Opaque != "" {
			path = u.Opaque
		}
		if u.Host != "" || path == "" || strings.HasSuffix(path, "/") || u.RawQuery != "" {
			c.add("store.url", "wants sqlite:///absolute/path.db, or sqlite:path.db beside this file")
			return
		}
		s.URL = (&url.URL{Scheme: "sqlite", Path: c.path(path)}).String()
	case "postgres", "postgresql":
	default:
		c.add("store.url", "wants a URL that begins with sqlite: or postgres:")
	}
}

func (c *checker) dns(d *DNS) {
	for i, s := range d.Servers {
		server, ok := resolverAddress(s)
		if !ok {
			c.add(item("dns.servers", i), "%q is not an IP address, with or without a port", clip(s))
			continue
		}
		d.Servers[i] = server
	}
	c.span("dns.timeout", d.Timeout, 100*time.Millisecond, time.Minute)
}

func (c *checker) xmpp(cfg *Config) {
	x := &cfg.XMPP
	for i, s := range x.Listen {
		c.socket(item("xmpp.listen", i), s)
	}
	for i, s := range x.ListenStartTLS {
		c.socket(item("xmpp.listen_starttls", i), s)
	}
	c.oneOf("xmpp.policy", x.Policy, PolicyNone, PolicyTesting, PolicyEnforce)
	// xep-draft section 4: nobody relies on it for longer.
	c.span("xmpp.policy_max_age", x.PolicyMaxAge, 0, 90*24*time.Hour)
	c.oneOf("xmpp.sends", x.Sends, SendsAny, SendsXMPPOnly)
	c.oneOf("xmpp.in_doubt", x.InDoubt, InDoubtWait, InDoubtOtherPath)
	c.size("xmpp.max_message", x.MaxMessage, 64<<10, 1<<40)
	c.size("xmpp.max_inline", x.MaxInline, 0, 256<<10)
	// Every peer must take 6,000 octets a chunk (xep-draft section 5.3).
	// And ours must fit, in base64, into the stanzas that we read.
	c.size("xmpp.chunk", x.Chunk, 6000, 256<<10)
	c.count("xmpp.window", x.Window, 1, 64)
	c.count("xmpp.max_streams", x.MaxStreams, 1, 1_000_000)
	c.count("xmpp.per_address", x.PerAddress, 1, 1_000_000)
	c.span("xmpp.idle_close", x.IdleClose, time.Second, 24*time.Hour)
	c.span("xmpp.request_timeout", x.RequestTimeout, 100*time.Millisecond, 10*time.Minute)
	// RFC 5321 section 4.5.3.2.6: the client waits ten minutes for its answer.
	c.span("xmpp.cut_through_deadline", x.CutThroughDeadline, 100*time.Millisecond, 5*time.Minute)
	c.count("xmpp.cut_through_per_peer", x.CutThroughPerPeer, 1, 100_000)
	c.count("xmpp.offers_per_minute", x.OffersPerMinute, 1, 10_000_000)
	c.count("xmpp.null_per_minute", x.NullPerMinute, 1, 1_000_000)
	c.count("xmpp.checks_per_minute", x.ChecksPerMinute, 1, 1_000_000)
	// xep-draft section 5.6: a sender may ask again for as long as it queues,
	// which is 7 days at most.
	c.span("xmpp.retain", x.Retain, 7*24*time.Hour, 365*24*time.Hour)
}

func (c *checker) smtp(cfg *Config) {
	s := &cfg.SMTP
	switch {
	case s.Hostname != "":
		c.name("smtp.hostname", &s.Hostname)
	case len(cfg.Domains) > 0:
		s.Hostname = cfg.Domains[0].Name
	}
	c.count("smtp.mx_port", s.MXPort, 1, 65535)
	c.oneOf("smtp.tls", s.TLS, TLSNone, TLSOpportunistic, TLSVerified)
	c.oneOf("smtp.ip_family", s.IPFamily, FamilyIPv6First, FamilyIPv4First, FamilyIPv4, FamilyIPv6)
	for i := range s.OwnNames {
		c.name(item("smtp.own_names", i), &s.OwnNames[i])
	}
	for i, a := range s.OwnAddresses {
		ip, err := netip.ParseAddr(a)
		if err != nil || ip.Zone() != "" {
			c.add(item("smtp.own_addresses", i), "%q is not an IP address", clip(a))
			continue
		}
		s.OwnAddresses[i] = ip.String()
	}
	c.oneOf("smtp.legacy", s.Legacy, LegacyMX, LegacyNeighbour)
	switch {
	case s.Legacy == LegacyNeighbour:
		c.hop("smtp.neighbour", &s.Neighbour, "smtp")
	case s.Neighbour != "":
		c.add("smtp.neighbour", `is of no use without legacy = "neighbour"`)
	}
	c.tlsReports(s)
}

// tlsReports checks who reports. Answers and bounces come to the address, so that
// it must be one of ours.
func (c *checker) tlsReports(s *SMTP) {
	if !s.TLSReports {
		return
	}
	a, err := mail.ParseAddress(s.TLSReportsFrom)
	switch {
	case s.TLSReportsFrom == "":
		c.add("smtp.tls_reports_from", "is missing: wants an address at a domain of ours")
		return
	case err != nil || !c.own[a.Domain] || !a.IsASCII():
		c.add("smtp.tls_reports_from", "%q is not an address at a domain of ours", clip(s.TLSReportsFrom))
		return
	}
	s.TLSReportsFrom = a.String()
	if s.TLSReportsOrganisation == "" {
		s.TLSReportsOrganisation = a.Domain
	}
	if len(s.TLSReportsOrganisation) > 200 || mail.Sanitise(s.TLSReportsOrganisation) != s.TLSReportsOrganisation {
		c.add("smtp.tls_reports_organisation", "wants at most 200 printable characters")
	}
}

func (c *checker) queue(q *Queue) {
	// xep-draft section 5.6: peers remember what they accepted for 7 days.
	c.span("queue.lifetime", q.Lifetime, time.Second, 7*24*time.Hour)
	c.span("queue.retry_first", q.RetryFirst, 100*time.Millisecond, 24*time.Hour)
	c.span("queue.retry_max", q.RetryMax, 100*time.Millisecond, 24*time.Hour)
	if q.RetryMax.Duration < q.RetryFirst.Duration {
		c.add("queue.retry_max", "%s is shorter than retry_first, %s", q.RetryMax, q.RetryFirst)
	}
	c.span("queue.delay_notice", q.DelayNotice, time.Second, 90*24*time.Hour)
	c.count("queue.concurrency", q.Concurrency, 1, 10_000)
	c.count("queue.per_domain", q.PerDomain, 1, 10_000)
	if q.PerDomain > q.Concurrency {
		c.add("queue.per_domain", "%d is more than concurrency, %d", q.PerDomain, q.Concurrency)
	}
	c.span("queue.keep_trace", q.KeepTrace, 0, 3650*24*time.Hour)
}

func (c *checker) limits(l *Limits) {
	c.size("limits.max_message", l.MaxMessage, 64<<10, 1<<40)
	// RFC 5321 section 4.5.3.1.8: at least 100 recipients must be taken.
	c.count("limits.max_recipients", l.MaxRecipients, 100, 100_000)
	c.count("limits.connections", l.Connections, 1, 1_000_000)
	c.count("limits.per_address", l.PerAddress, 1, 1_000_000)
	c.count("limits.commands", l.Commands, 100, 10_000_000)
	c.count("limits.errors", l.Errors, 1, 10_000)
	c.count("limits.header_lines", l.HeaderLines, 100, 100_000)
	c.size("limits.header_bytes", l.HeaderBytes, 16<<10, 16<<20)
	// RFC 5322 section 2.1.1: lines of 998 octets are everybody's right.
	c.size("limits.line_bytes", l.LineBytes, 998, 64<<20)
	c.size("limits.field_bytes", l.FieldBytes, 998, 16<<20)
	if l.FieldBytes > l.HeaderBytes {
		c.add("limits.field_bytes", "%s is more than header_bytes, %s", l.FieldBytes, l.HeaderBytes)
	}
	c.span("limits.command_timeout", l.CommandTimeout, time.Second, time.Hour)
	c.span("limits.data_start_timeout", l.DataStartTimeout, time.Second, time.Hour)
	c.span("limits.data_block_timeout", l.DataBlockTimeout, time.Second, time.Hour)
	c.span("limits.data_timeout", l.DataTimeout, time.Second, 24*time.Hour)
	c.span("limits.auth_timeout", l.AuthTimeout, time.Second, time.Hour)
	// RFC 5321 section 6.3 proposes 100 at least; no more are counted.
	c.count("limits.hops", l.Hops, 10, mail.MaxHops)
	c.count("limits.connections_per_minute", l.ConnectionsPerMinute, 0, 1_000_000)
	c.count("limits.messages_per_minute", l.MessagesPerMinute, 0, 1_000_000)
	c.count("limits.messages_per_hour", l.MessagesPerHour, 0, 1_000_000)
	c.count("limits.auth_tries", l.AuthTries, 1, 100)
	c.count("limits.auth_failures_address", l.AuthFailuresByAddress, 0, 1_000_000)
	c.count("limits.auth_failures_user", l.AuthFailuresByUser, 0, 1_000_000)
}

func (c *checker) oneOf(path, value string, allowed ...string) {
	if slices.Contains(allowed, value) {
		return
	}
	quoted := make([]string, len(allowed))
	for i, a := range allowed {
		quoted[i] = strconv.Quote(a)
	}
	list := strings.Join(quoted, ", ")
	if value == "" {
		c.add(path, "is missing; one of %s", list)
		return
	}
	c.add(path, "%q is not one of %s", clip(value), list)
}

func (c *checker) count(path string, n, low, high int) {
	if n < low || n > high {
		c.add(path, "%d is not between %d and %d", n, low, high)
	}
}

func (c *checker) size(path string, n, low, high Size) {
	if n < low || n > high {
		c.add(path, "%s is not between %s and %s", n, low, high)
	}
}

func (c *checker) span(path string, d Duration, low, high time.Duration) {
	if d.Duration < low || d.Duration > high {
		c.add(path, "%s is not between %s and %s", d, span(low), span(high))
	}
}

// path makes a path of the file absolute.
func (c *checker) path(p string) string {
	if filepath.IsAbs(p) {
		return filepath.Clean(p)
	}
	return filepath.Join(c.base, p)
}

func item(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }
