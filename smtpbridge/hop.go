package smtpbridge

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
)

// Protocols of a hop.
const (
	ProtocolSMTP = "smtp"
	ProtocolLMTP = "lmtp" // RFC 2033
)

// TLSMode says what the client asks of a hop's TLS.
type TLSMode string

// The modes. The zero value counts as opportunistic.
const (
	TLSNone          TLSMode = "none"
	TLSOpportunistic TLSMode = "opportunistic" // STARTTLS where offered, whatever the certificate says (RFC 7435)
	TLSVerified      TLSMode = "verified"      // STARTTLS with a certificate for the name, or no mail
)

// Hop is where attempts go: a fixed next hop, or by MX.
type Hop struct {
	Protocol   string   // ProtocolSMTP or ProtocolLMTP
	Addrs      []string // "host:port", or "unix:/path" for LMTP, tried in order; empty: by MX of the recipients' domain
	TLS        TLSMode
	ServerName string // that the certificate must show; empty: the host connected to
	Implicit   bool   // TLS from the first octet (RFC 8314 section 3.3), without plain text in any mode
	User       string // with Password for AUTH PLAIN; TLS is then always verified
	Password   string
}

// Ports of a hop that names none (LMTP's is IANA's "lmtp", that of SMTP with
// implicit TLS RFC 8314's).
const (
	smtpPort  = "25"
	smtpsPort = "465"
	lmtpPort  = "24"
)

// schemeSMTPS names SMTP with implicit TLS in settings.
const schemeSMTPS = "smtps"

const wantedHops = `want "mx", "smtp://host:port", "smtps://host:port", "lmtp://host:port" or "lmtp:///path"`

// ParseHop reads the form in which settings name a hop: "mx",
// "smtp://host:port", "smtps://host:port" (implicit TLS, verified),
// "lmtp://host:port" or "lmtp:///path/of/socket". The error says what is wrong
// and repeats no password.
func ParseHop(s string) (Hop, error) {
	if s == "mx" {
		return Hop{Protocol: ProtocolSMTP, TLS: TLSOpportunistic}, nil
	}
	u, err := url.Parse(s)
	switch {
	case err != nil && strings.Contains(err.Error(), "invalid port"):
		return Hop{}, errors.New("hop: port must be 1 to 65535")
	case err != nil: // not shown: it could repeat a password
		return Hop{}, errors.New("hop: not a URL: " + wantedHops)
	}
	port := smtpPort
	switch u.Scheme {
	case ProtocolSMTP:
	case schemeSMTPS:
		port = smtpsPort
	case ProtocolLMTP:
		port = lmtpPort
	default:
		return Hop{}, fmt.Errorf("hop: scheme %q: %s", u.Scheme, wantedHops)
	}
	fail := func(why string) (Hop, error) { return Hop{}, fmt.Errorf("hop %s: %s", u.Redacted(), why) }
	switch {
	case u.User != nil:
		return fail("user and password have settings of their own")
	case u.Opaque != "":
		return fail("want // after the scheme")
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return fail("nothing may follow the address")
	case u.Host == "":
		return socketHop(u, fail)
	case u.Path != "" && u.Path != "/":
		return fail("a path is for sockets, which have no host: lmtp:///path")
	}
	return addressHop(u, port, fail)
}

func socketHop(u *url.URL, fail func(string) (Hop, error)) (Hop, error) {
	switch {
	case u.Scheme != ProtocolLMTP:
		return fail("no host")
	case u.Path == "" || u.Path == "/":
		return fail("neither host nor path of a socket")
	}
	return Hop{Protocol: ProtocolLMTP, Addrs: []string{unixPrefix + u.Path}, TLS: TLSNone}, nil
}

func addressHop(u *url.URL, port string, fail func(string) (Hop, error)) (Hop, error) {
	host := u.Hostname()
	if host == "" || strings.ContainsAny(host, " \t@,") {
		return fail("no valid host")
	}
	if p := u.Port(); p != "" {
		if n, err := strconv.ParseUint(p, 10, 16); err != nil || n == 0 {
			return fail("port must be 1 to 65535")
		}
		port = p
	}
	hop := Hop{Protocol: u.Scheme, Addrs: []string{net.JoinHostPort(host, port)}, TLS: TLSOpportunistic}
	if u.Scheme == schemeSMTPS {
		hop.Protocol, hop.Implicit, hop.TLS = ProtocolSMTP, true, TLSVerified
	}
	return hop, nil
}

// unixPrefix marks the path of a socket among a hop's addresses.
const unixPrefix = "unix:"

// tlsMode is the mode in force: a password goes to nobody but the host it is
// meant for.
func (h Hop) tlsMode() TLSMode {
	switch {
	case h.User != "", h.Implicit && h.TLS != TLSOpportunistic:
		return TLSVerified
	case h.TLS == "":
		return TLSOpportunistic
	}
	return h.TLS
}
