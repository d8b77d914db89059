package smtpbridge

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"

	"mailxmppd/dns"
)

// maxSTSBody bounds a policy file (RFC 8461 section 3.3 proposes 64 KiB).
const maxSTSBody = 64 << 10

// stsTrouble is why a policy could not be had, as RFC 8460 section 4.3.2.2
// names it.
type stsTrouble struct {
	result string
	err    error
}

func (t *stsTrouble) Error() string { return t.result + ": " + t.err.Error() }

func (t *stsTrouble) Unwrap() error { return t.err }

// newSTSClient makes the HTTPS client for policy files: no redirects (RFC 8461
// section 3.3), no proxy, no kept connections, no cache.
func newSTSClient(cfg ClientConfig) *http.Client {
	dial := cfg.PolicyDial
	if dial == nil {
		dial = policyDialer(cfg, &net.Dialer{Timeout: cfg.Timeouts.Connect})
	}
	return &http.Client{
		Timeout: cfg.Timeouts.Policy,
		Transport: &http.Transport{
			DialContext:            dial,
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: cfg.Roots},
			DisableKeepAlives:      true,
			DisableCompression:     true,
			MaxResponseHeaderBytes: 16 << 10,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// policyDialer connects to a host at the addresses that our DNS tells.
func policyDialer(cfg ClientConfig, d *net.Dialer) func(ctx context.Context, network, addr string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		host, port, err := net.SplitHostPort(addr)
		if err != nil {
			return nil, err
		}
		ans := cfg.DNS.Addrs(ctx, host)
		if ans.Status != dns.Found {
			return nil, fmt.Errorf("host %s: %s", host, ans.Status)
		}
		addrs := cfg.Family.order(ans.Records)
		var errs []error
		for _, ip := range addrs[:min(len(addrs), maxHosts)] {
			conn, err := d.DialContext(ctx, network, net.JoinHostPort(ip.String(), port))
			if err == nil {
				return conn, nil
			}
			errs = append(errs, err)
		}
		return nil, errors.Join(append(errs, fmt.Errorf("host %s cannot be reached", host))...)
	}
}

// fetchSTS gets a domain's policy file (RFC 8461 section 3.3). The error is a
// *stsTrouble.
func fetchSTS(ctx context.Context, client *http.Client, domain string) (*stsPolicy, *stsTrouble) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://mta-sts."+domain+"/.well-known/mta-sts.txt", nil)
	if err != nil {
		return nil, &stsTrouble{resultSTSFetch, err}
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, &stsTrouble{fetchResult(err), err}
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, &stsTrouble{resultSTSFetch, fmt.Errorf("status %d", resp.StatusCode)}
	}
	// Section 3.2: not a page that users of a web host can write.
	if kind, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); err != nil || kind != "text/plain" {
		return nil, &stsTrouble{resultSTSInvalid, fmt.Errorf("media type %.80q", resp.Header.Get("Content-Type"))}
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxSTSBody+1))
	switch {
	case err != nil:
		return nil, &stsTrouble{resultSTSFetch, err}
	case len(body) > maxSTSBody:
		return nil, &stsTrouble{resultSTSInvalid, errors.New("longer than 64 KiB")}
	}
	policy, err := parseSTSPolicy(string(body))
	if err != nil {
		return nil, &stsTrouble{resultSTSInvalid, err}
	}
	return policy, nil
}

func fetchResult(err error) string {
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return resultSTSWebPKI
	}
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return resultSTSWebPKI
	}
	return resultSTSFetch
}
