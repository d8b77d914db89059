package config

import (
	"time"

	"mailxmppd/mail"
)

// defaulter is a table that knows its own defaults; an array's new element is
// asked before its keys are read.
type defaulter interface{ defaults() }

func (c *Config) defaults() {
	c.Store = Store{URL: "sqlite:///var/lib/mailxmppd/mail.db", Schema: "mailxmppd"}
	c.DNS.Timeout = span(5 * time.Second)
	c.XMPP.defaults()
	c.SRS.Enabled = true
	c.SRS.SMTP = RewriteAliases
	c.DKIM.defaults()
	c.Trust.defaults()
	c.Grants.defaults()
	c.ARC.Seal = true
	c.Contacts.defaults()
	c.SMTP.MXPort = 25
	c.SMTP.TLS = TLSOpportunistic
	c.SMTP.MTASTS = true
	c.SMTP.IPFamily = FamilyIPv6First
	c.SMTP.Legacy = LegacyMX
	c.Queue.defaults()
	c.Limits.defaults()
	c.OAuth.Claim = "sub"
	c.Log = Log{Level: "info", Format: "text"}
	c.Admin.Socket = "/run/mailxmppd/admin.sock"
}

func (d *Domain) defaults() {
	d.Verify = VerifyNeighbour
	d.Trust = DomainTrust{Default: DefaultAllow, Forged: ForgedTag, AutoGrant: On}
}

func (l *Listener) defaults() { l.TLS = ListenStartTLS }

func (x *XMPP) defaults() {
	x.Listen = []string{":5270"}
	x.Policy = PolicyNone
	x.PolicyMaxAge = span(30 * 24 * time.Hour)
	x.Sends = SendsAny
	x.InDoubt = InDoubtWait
	x.POSH = true
	x.MaxMessage = 50e6
	x.MaxInline = 64 << 10
	x.Chunk = 128 << 10
	x.Window = 8
	x.MaxStreams = 1000
	x.PerAddress = 20
	x.IdleClose = span(10 * time.Minute)
	x.RequestTimeout = span(time.Minute)
	x.Retain = span(14 * 24 * time.Hour)
	x.CutThrough = true
	x.CutThroughDeadline = span(20 * time.Second)
	x.CutThroughPerPeer = 64
	x.OffersPerMinute = 600_000
	x.NullPerMinute = 600
	x.ChecksPerMinute = 3000
}

// The queue keeps RFC 5321 section 4.5.4.1's four to five days, and Postfix's
// spacing of attempts.
func (q *Queue) defaults() {
	q.Lifetime = span(5 * 24 * time.Hour)
	q.RetryFirst = span(5 * time.Minute)
	q.RetryMax = span(4 * time.Hour)
	q.DelayNotice = span(4 * time.Hour)
	q.Concurrency = 64
	q.PerDomain = 20
	q.KeepTrace = span(30 * 24 * time.Hour)
}

func (c *Component) defaults() { c.MaxStanza = 500_000 }

func (p *Peer) defaults() { p.Policy = PolicyRequired }

func (r *Route) defaults() { r.Next = NextMX }

func (l *Limits) defaults() {
	l.MaxMessage = 50e6
	l.MaxRecipients = 1000
	l.Connections = 1000
	l.PerAddress = 100
	l.Commands = 10000
	l.Errors = 100
	l.HeaderLines = 1000
	l.HeaderBytes = 256 << 10
	l.Hops = mail.MaxHops
	l.ConnectionsPerMinute = 600
	l.MessagesPerMinute = 600
	l.MessagesPerHour = 500
	l.AuthTries = 5
	l.AuthFailuresByAddress = 100
	l.AuthFailuresByUser = 50
	l.FieldBytes = 100 << 10
	l.LineBytes = 1 << 20
	// RFC 5321 section 4.5.3.2 wants 5 minutes for a command; what it gives
	// clients for content goes for servers too.
	l.CommandTimeout = span(5 * time.Minute)
	l.DataStartTimeout = span(2 * time.Minute)
	l.DataBlockTimeout = span(3 * time.Minute)
	l.DataTimeout = span(time.Hour)
	l.AuthTimeout = span(2 * time.Minute)
}

func span(d time.Duration) Duration { return Duration{d} }
