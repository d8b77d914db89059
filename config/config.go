// Package config reads the one configuration file: a struct with a field for
// every key, its defaults, and the checks that a file must pass.
//
// Load reports everything that is wrong with a file at once, each mistake with
// its line; only a syntax error stands alone. What Load returns without an
// error is complete: names are in the form they are compared in, paths are
// absolute, secrets are read, enumerations hold one of their values. Load
// reads files and nothing else: no DNS, no sockets.
package config

import (
	"strings"

	"mailxmppd/mail"
)

// Config is the configuration. Every field with a toml key is described, with
// its default, in docs/mailxmppd.sample.toml.
type Config struct {
	Domains    []Domain    `toml:"domain"`
	Listeners  []Listener  `toml:"listener"`
	Store      Store       `toml:"store"`
	DNS        DNS         `toml:"dns"`
	TLS        TLS         `toml:"tls"`
	XMPP       XMPP        `toml:"xmpp"`
	SMTP       SMTP        `toml:"smtp"`
	Queue      Queue       `toml:"queue"`
	Peers      []Peer      `toml:"peer"`
	Components []Component `toml:"component"`
	SRS        SRS         `toml:"srs"`
	DKIM       DKIM        `toml:"dkim"`
	Trust      Trust       `toml:"trust"`
	Grants     Grants      `toml:"grants"`
	ARC        ARC         `toml:"arc"`
	Aliases    []Alias     `toml:"alias"`
	Contacts   Contacts    `toml:"contacts"`
	Routes     []Route     `toml:"route"`
	Limits     Limits      `toml:"limits"`
	Log        Log         `toml:"log"`
	OAuth      OAuth       `toml:"oauth"`
	Admin      Admin       `toml:"admin"`
}

// Domain is a mail domain of ours.
type Domain struct {
	Name        string      `toml:"name"`        // A-labels
	Certificate string      `toml:"certificate"` // PEM file, leaf first
	Key         string      `toml:"key"`         // PEM file
	Deliver     string      `toml:"deliver"`     // final delivery: lmtp://host:port, lmtp:///socket, smtp://host:port
	Verify      string      `toml:"verify"`      // which recipients exist: VerifyNeighbour, VerifyTable, VerifyNone
	Recipients  []string    `toml:"recipients"`  // with VerifyTable; full addresses once loaded
	Service     string      `toml:"service"`     // name under which its mail goes over XMPP; "" for its own; see XMPPName
	Trust       DomainTrust `toml:"trust"`
	Default     bool        `toml:"default"` // null reverse-paths speak for this domain; exactly one is true once loaded
}

// Values of Domain.Verify.
const (
	VerifyNeighbour = "neighbour" // ask the next hop with RCPT
	VerifyTable     = "table"     // Domain.Recipients
	VerifyNone      = "none"      // take every local part
)

// Listener is a socket that takes mail by SMTP or LMTP, or at which an MTA
// beside us asks.
type Listener struct {
	Kind     string    `toml:"kind"`      // ListenRelay, ListenSubmission, ListenLMTP, ListenLookup, ListenMilter, ListenFilter
	Address  string    `toml:"address"`   // host:port, or ListenUnix and a path
	TLS      string    `toml:"tls"`       // ListenPlain, ListenStartTLS, ListenImplicit
	Trusted  []Network `toml:"trusted"`   // clients that may relay to any domain
	Auth     string    `toml:"auth"`      // with ListenSubmission: AuthStore, or AuthDovecot and a path; set once loaded
	RepairLF bool      `toml:"repair_lf"` // with ListenSubmission
	Proxies  []Network `toml:"proxies"`   // whose connections begin with a PROXY header
	XClient  []Network `toml:"xclient"`   // who may use XCLIENT
	XForward []Network `toml:"xforward"`  // who may use XFORWARD
	Mode     Mode      `toml:"mode"`      // of a socket in the file system; set once loaded

	Answer    string `toml:"answer"`     // with ListenLookup: for a peer's domain
	OwnAnswer string `toml:"own_answer"` // with ListenLookup: for a domain of ours; "" for not found
	Next      string `toml:"next"`       // with ListenFilter: smtp://host:port
}

// Values of Listener.Kind, Listener.TLS and Listener.Auth.
const (
	ListenRelay      = "relay"
	ListenSubmission = "submission"
	ListenLMTP       = "lmtp"
	ListenLookup     = "lookup" // which domains are peers now
	ListenMilter     = "milter"
	ListenFilter     = "filter" // Postfix's smtpd_proxy_filter

	ListenUnix = "unix:" // and the path of a socket, in Listener.Address

	ListenPlain    = "none"
	ListenStartTLS = "starttls"
	ListenImplicit = "implicit"

	AuthStore   = "store"
	AuthDovecot = "dovecot:" // and the path of Dovecot's socket for authentication clients
)

// Beside reports whether an MTA beside us uses the listener, and no client of
// its own.
func (l Listener) Beside() bool {
	return l.Kind == ListenLookup || l.Kind == ListenMilter || l.Kind == ListenFilter
}

// UnixSocket returns the path of a listener in the file system.
func (l Listener) UnixSocket() (path string, ok bool) {
	return strings.CutPrefix(l.Address, ListenUnix)
}

// DovecotSocket returns the socket of a listener whose users Dovecot knows.
func (l Listener) DovecotSocket() (path string, ok bool) {
	return strings.CutPrefix(l.Auth, AuthDovecot)
}

// Store says where the durable memory is.
type Store struct {
	URL     string `toml:"url"` // sqlite:///path or postgres://...; holds a secret, see Redacted
	URLFile string `toml:"url_file"`
	URLEnv  string `toml:"url_env"`
	Schema  string `toml:"schema"` // Postgres only
	Node    string `toml:"node"`   // Postgres only; "" leaves the name to the store
}

// DNS says whom to ask.
type DNS struct {
	Servers []string `toml:"servers"` // ip:port; none: those of the system
	Timeout Duration `toml:"timeout"`
	// The servers validate DNSSEC, and nobody stands between them and us: their
	// AD bit is believed.
	Validating bool `toml:"validating"`
}

// TLS holds what all TLS connections share.
type TLS struct {
	Roots string `toml:"roots"` // PEM file of trusted CAs; "" for the system's
}

// XMPP is about streams and transfers.
type XMPP struct {
	Listen             []string `toml:"listen"`          // host:port, direct TLS
	ListenStartTLS     []string `toml:"listen_starttls"` // host:port, STARTTLS
	Policy             string   `toml:"policy"`          // what peers may rely on: PolicyNone, PolicyTesting, PolicyEnforce
	PolicyMaxAge       Duration `toml:"policy_max_age"`  // for how long
	Sends              string   `toml:"sends"`           // SendsAny, SendsXMPPOnly
	RequireTLS         bool     `toml:"requiretls"`      // the next hop keeps RFC 8689's promise
	POSH               bool     `toml:"posh"`            // RFC 7711 counts as a proof
	MaxMessage         Size     `toml:"max_message"`
	MaxInline          Size     `toml:"max_inline"`
	Chunk              Size     `toml:"chunk"`
	Window             int      `toml:"window"`
	MaxStreams         int      `toml:"max_streams"`
	PerAddress         int      `toml:"per_address"`
	IdleClose          Duration `toml:"idle_close"`
	RequestTimeout     Duration `toml:"request_timeout"`
	Retain             Duration `toml:"retain"`   // memory of acceptances
	InDoubt            string   `toml:"in_doubt"` // InDoubtWait, InDoubtOtherPath
	CutThrough         bool     `toml:"cut_through"`
	CutThroughDeadline Duration `toml:"cut_through_deadline"`
	CutThroughPerPeer  int      `toml:"cut_through_per_peer"`
	OffersPerMinute    int      `toml:"offers_per_minute"` // of one peer
	NullPerMinute      int      `toml:"null_per_minute"`   // offers with a null reverse-path, of one peer
	ChecksPerMinute    int      `toml:"checks_per_minute"` // recipients asked about, by one peer
}

// Values of XMPP.Policy and XMPP.Sends (xep-draft section 4).
const (
	PolicyNone    = "none"
	PolicyTesting = "testing"
	PolicyEnforce = "enforce"

	SendsAny      = "any"
	SendsXMPPOnly = "xmpp-only"
)

// Values of XMPP.InDoubt (xep-draft section 9.3).
const (
	InDoubtWait      = "wait"
	InDoubtOtherPath = "other-path"
)

// SMTP is about our side of SMTP.
type SMTP struct {
	Hostname string `toml:"hostname"` // in greetings, EHLO and Received; set once loaded
	MXPort   int    `toml:"mx_port"`
	TLS      string `toml:"tls"` // to MX hosts: TLSNone, TLSOpportunistic, TLSVerified
	MTASTS   bool   `toml:"mta_sts"`
	IPFamily string `toml:"ip_family"` // FamilyIPv6First and its like

	// What makes an MX host this gateway, beside Hostname: mail that would go
	// there loops.
	OwnNames        []string `toml:"own_names"`     // A-labels
	OwnAddresses    []string `toml:"own_addresses"` // IP addresses
	AddressLiterals bool     `toml:"address_literals"`

	Legacy    string `toml:"legacy"`    // mail of domains that are no peers: LegacyMX, LegacyNeighbour
	Neighbour string `toml:"neighbour"` // with LegacyNeighbour: smtp://host:port

	TLSReports             bool   `toml:"tls_reports"`              // daily, to domains that want them
	TLSReportsFrom         string `toml:"tls_reports_from"`         // an address at one of Domains
	TLSReportsOrganisation string `toml:"tls_reports_organisation"` // set once loaded
}

// Values of SMTP.Legacy.
const (
	LegacyMX        = "mx"        // by our own client, as the routes say
	LegacyNeighbour = "neighbour" // handed back to the local MTA
)

// Values of SMTP.IPFamily.
const (
	FamilyIPv6First = "ipv6-first"
	FamilyIPv4First = "ipv4-first"
	FamilyIPv4      = "ipv4"
	FamilyIPv6      = "ipv6"
)

// Values of SMTP.TLS and Route.TLS.
const (
	TLSNone          = "none"
	TLSOpportunistic = "opportunistic" // used where offered, not verified
	TLSVerified      = "verified"      // demanded, the host's name verified
)

// Queue is about attempts and what is kept of them.
type Queue struct {
	Lifetime    Duration `toml:"lifetime"`
	RetryFirst  Duration `toml:"retry_first"`
	RetryMax    Duration `toml:"retry_max"`
	DelayNotice Duration `toml:"delay_notice"`
	Concurrency int      `toml:"concurrency"`
	PerDomain   int      `toml:"per_domain"`
	KeepTrace   Duration `toml:"keep_trace"` // of finished messages
}

// Peer is a remote domain about whose mail over XMPP the operator decides.
type Peer struct {
	Domain  string   `toml:"domain"`  // A-labels
	Address []string `toml:"address"` // host:port, direct TLS; none: by SRV
	Policy  string   `toml:"policy"`  // PolicyRequired, PolicyPreferred, PolicyNever
	Pins    []string `toml:"pins"`    // SHA-256 of public keys, hexadecimal; with any, nothing else is a proof
}

// Values of Peer.Policy.
const (
	PolicyRequired  = "required"
	PolicyPreferred = "preferred"
	PolicyNever     = "never"
)

// Component is a domain of ours that is a component (XEP-0114) of a chat server.
type Component struct {
	Domain              string `toml:"domain"` // the name of one of Domains over XMPP
	Server              string `toml:"server"` // host:port
	SecretFile          string `toml:"secret_file"`
	SecretEnv           string `toml:"secret_env"`
	Secret              Secret `toml:"-"`                    // read from one of the two
	AssertAuthenticated bool   `toml:"assert_authenticated"` // the server takes streams with certificates only
	MaxStanza           Size   `toml:"max_stanza"`           // that the server and its peers let through
}

// SRS is about foreign reverse-paths on their way to peers.
type SRS struct {
	Enabled bool   `toml:"enabled"`
	Domain  string `toml:"domain"` // one of Domains; set once loaded
	SMTP    string `toml:"smtp"`   // what gets one by SMTP, too: RewriteAliases, RewriteAll, RewriteNone
}

// Route says where mail of a legacy domain goes.
type Route struct {
	Domain       string `toml:"domain"` // A-labels, or AnyDomain
	Next         string `toml:"next"`   // NextMX or smtp://host:port
	TLS          string `toml:"tls"`    // as SMTP.TLS; set once loaded
	User         string `toml:"user"`
	PasswordFile string `toml:"password_file"`
	PasswordEnv  string `toml:"password_env"`
	Password     Secret `toml:"-"` // read from one of the two
}

// AnyDomain is the Route.Domain of the route for all other domains, NextMX the
// Route.Next that asks DNS.
const (
	AnyDomain = "*"
	NextMX    = "mx"
)

// Limits bound what SMTP and LMTP clients may ask for.
type Limits struct {
	MaxMessage    Size `toml:"max_message"`
	MaxRecipients int  `toml:"max_recipients"`
	Connections   int  `toml:"connections"`
	PerAddress    int  `toml:"per_address"`
	Commands      int  `toml:"commands"`
	Errors        int  `toml:"errors"`
	HeaderLines   int  `toml:"header_lines"`
	HeaderBytes   Size `toml:"header_bytes"`
	FieldBytes    Size `toml:"field_bytes"` // of the header
	LineBytes     Size `toml:"line_bytes"`  // of the content
	Hops          int  `toml:"hops"`        // Received fields

	// How often; 0 is no bound. Listener.Trusted are not bounded.
	ConnectionsPerMinute  int `toml:"connections_per_minute"` // of one address
	MessagesPerMinute     int `toml:"messages_per_minute"`    // of one address
	MessagesPerHour       int `toml:"messages_per_hour"`      // of one user
	AuthTries             int `toml:"auth_tries"`             // of a session
	AuthFailuresByAddress int `toml:"auth_failures_address"`  // an hour
	AuthFailuresByUser    int `toml:"auth_failures_user"`     // an hour

	// How long a client may take.
	CommandTimeout   Duration `toml:"command_timeout"`    // for a command, a handshake, or to read a reply
	DataStartTimeout Duration `toml:"data_start_timeout"` // for the first octet of content
	DataBlockTimeout Duration `toml:"data_block_timeout"` // for each further piece
	DataTimeout      Duration `toml:"data_timeout"`       // for all of it
	AuthTimeout      Duration `toml:"auth_timeout"`       // for an exchange of AUTH
}

// OAuth says whose bearer tokens open a submission session (OAUTHBEARER).
type OAuth struct {
	Keys     string `toml:"keys"`     // PEM file of public keys; "": OAUTHBEARER is not offered
	Issuer   string `toml:"issuer"`   // of the tokens
	Audience string `toml:"audience"` // that they are meant for
	Claim    string `toml:"claim"`    // that names the user
}

// Log is about the log on standard error.
type Log struct {
	Level  string `toml:"level"`  // "debug", "info", "warn", "error"
	Format string `toml:"format"` // "text", "json"
}

// Admin is about the socket for the operator's verbs.
type Admin struct {
	Socket string `toml:"socket"` // Unix socket; "" for none
}

// DefaultDomain returns the domain that null reverse-paths speak for.
func (c *Config) DefaultDomain() Domain {
	for _, d := range c.Domains {
		if d.Default {
			return d
		}
	}
	return c.Domains[0]
}

// Mailboxes returns the recipients of a domain with VerifyTable.
func (d Domain) Mailboxes() ([]mail.Address, error) {
	out := make([]mail.Address, 0, len(d.Recipients))
	for _, s := range d.Recipients {
		a, err := mail.ParseAddress(s)
		if err != nil {
			return nil, err
		}
		out = append(out, a)
	}
	return out, nil
}
