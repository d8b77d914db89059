package contacts

import (
	"context"
	"crypto/sha1"
	"crypto/tls"
	"crypto/x509"
	"encoding/base32"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"mailxmppd/dns"
	"mailxmppd/mail"
)

// Bounds of asking a key directory.
const (
	directoryTime      = 15 * time.Second
	directoryRedirects = 3
	directoryAddresses = 4 // of the web site, that are tried
	maxDirectoryKey    = 256 << 10
)

// Resolver asks DNS; *dns.Resolver does. Safe for concurrent use.
type Resolver interface {
	Addrs(ctx context.Context, host string) dns.Answer[netip.Addr]
}

// DirectoryConfig is what a Directory needs.
type DirectoryConfig struct {
	DNS   Resolver
	Roots *x509.CertPool // nil: the system's
	// Dial connects to a web site; nil for one that looks its addresses up in
	// DNS and refuses those that are not of the public Internet.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Directory asks the web key directories of domains for keys
// (draft-koch-openpgp-webkey-service, section 3.1). Safe for concurrent use.
type Directory struct {
	conf   DirectoryConfig
	client *http.Client
}

// NewDirectory makes a Directory.
func NewDirectory(conf DirectoryConfig) *Directory {
	d := &Directory{conf: conf}
	if conf.Dial == nil {
		d.conf.Dial = d.dial
	}
	d.client = &http.Client{
		Timeout: directoryTime,
		Transport: &http.Transport{
			DialContext:            d.conf.Dial,
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: conf.Roots},
			DisableKeepAlives:      true,
			DisableCompression:     true, // a small answer must not unpack to a large one
			MaxResponseHeaderBytes: 16 << 10,
		},
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			if len(via) > directoryRedirects {
				return errors.New("too many redirects")
			}
			if req.URL.Scheme != "https" || req.URL.Port() != "" || req.URL.User != nil {
				return errors.New("redirected to what is no public HTTPS site")
			}
			return nil
		},
	}
	return d
}

// dial connects to a site of the public Internet. A stranger's domain decides
// where we are sent; it must not be to hosts that only we can reach.
func (d *Directory) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	ans := d.conf.DNS.Addrs(ctx, host)
	if ans.Status != dns.Found {
		return nil, fmt.Errorf("address of %s: %s", host, ans.Status)
	}
	dialer := net.Dialer{Timeout: directoryTime / directoryAddresses}
	err = fmt.Errorf("%s has no public address", host)
	for _, ip := range ans.Records[:min(len(ans.Records), directoryAddresses)] {
		if !public(ip) {
			continue
		}
		conn, failure := dialer.DialContext(ctx, network, net.JoinHostPort(ip.String(), port))
		if failure == nil {
			return conn, nil
		}
		err = failure
	}
	return nil, err
}

func public(ip netip.Addr) bool {
	ip = ip.Unmap()
	shared := netip.MustParsePrefix("100.64.0.0/10") // carriers' own
	return ip.IsGlobalUnicast() && !ip.IsPrivate() && !shared.Contains(ip)
}

// Keys returns the keys that an address's domain publishes for it; none where
// there is no directory, or no key in it.
func (d *Directory) Keys(ctx context.Context, a mail.Address) ([]*Certificate, error) {
	ctx, cancel := context.WithTimeout(ctx, directoryTime)
	defer cancel()
	if mail.IsLiteral(a.Domain) || a.Domain == "" {
		return nil, nil
	}
	file := directoryName(a.Local) + "?l=" + url.QueryEscape(a.Local)
	site := "openpgpkey." + a.Domain
	address := "https://" + site + "/.well-known/openpgpkey/" + strings.ToLower(a.Domain) + "/hu/" + file
	switch ans := d.conf.DNS.Addrs(ctx, site); ans.Status {
	case dns.Found:
	case dns.NoData, dns.NoDomain:
		// The direct method, only where the name for the advanced one is not
		// there.
		address = "https://" + a.Domain + "/.well-known/openpgpkey/hu/" + file
		if ans := d.conf.DNS.Addrs(ctx, a.Domain); ans.Status == dns.NoData || ans.Status == dns.NoDomain {
			return nil, nil
		}
	default:
		return nil, fmt.Errorf("address of %s: %s", site, ans.Status)
	}
	data, err := d.get(ctx, address)
	if err != nil || data == nil {
		return nil, err
	}
	certs, err := readOpenPGP(data)
	if err != nil {
		return nil, fmt.Errorf("key directory of %s: %w", a.Domain, err)
	}
	var out []*Certificate
	for _, c := range certs {
		if c.For(Form(a)) { // section 5: other user IDs are none of the address's
			out = append(out, c)
		}
	}
	return out, nil
}

func (d *Directory) get(ctx context.Context, address string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	resp, err := d.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound, http.StatusGone:
		return nil, nil
	default:
		return nil, fmt.Errorf("key directory: status %d", resp.StatusCode)
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxDirectoryKey+1))
	if err == nil && len(data) > maxDirectoryKey {
		err = fmt.Errorf("key directory: more than %d octets", maxDirectoryKey)
	}
	return data, err
}

// directoryName is the name under which a directory has a mailbox: z-base-32
// (RFC 6189 section 5.1.6) of SHA-1 of the local part in small letters. Nothing
// rests on that hash.
func directoryName(local string) string {
	sum := sha1.Sum([]byte(strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' { // ASCII alone
			return r + 'a' - 'A'
		}
		return r
	}, local)))
	return base32.NewEncoding("ybndrfg8ejkmcpqxot1uwisza345h769").WithPadding(base32.NoPadding).EncodeToString(sum[:])
}
