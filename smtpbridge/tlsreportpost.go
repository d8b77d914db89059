package smtpbridge

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"time"
)

// reportType is the media type of a report (RFC 8460 section 6.4).
const reportType = "application/tlsrpt+gzip"

const reportPostTimeout = 30 * time.Second

// newReportPoster makes the HTTPS client for reports: no redirects, no proxy, no
// kept connections. Where a report goes is the reported domain's to say, who
// must not make us talk to this machine or the networks behind it: inside
// refuses such addresses.
func newReportPoster(cfg ClientConfig, inside func(netip.Addr) bool) *http.Client {
	cfg = cfg.withDefaults()
	control := func(_, address string, _ syscall.RawConn) error {
		ap, err := netip.ParseAddrPort(address)
		if err != nil || inside(ap.Addr().Unmap()) {
			return fmt.Errorf("%s is no public address", address)
		}
		return nil
	}
	return &http.Client{
		Timeout: reportPostTimeout,
		Transport: &http.Transport{
			DialContext:            policyDialer(cfg, &net.Dialer{Timeout: cfg.Timeouts.Connect, Control: control}),
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: cfg.Roots},
			DisableKeepAlives:      true,
			DisableCompression:     true,
			MaxResponseHeaderBytes: 16 << 10,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// insideNetworks reports addresses that only this machine or its neighbours can
// mean.
func insideNetworks(ip netip.Addr) bool {
	return !ip.IsGlobalUnicast() || ip.IsPrivate()
}

// postReport hands a report to one "https:" URI (RFC 8460 section 5.4).
func postReport(ctx context.Context, client *http.Client, r Report, target string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target, bytes.NewReader(r.Gzip))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", reportType)
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	io.CopyN(io.Discard, resp.Body, 16<<10)
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return fmt.Errorf("%s answers %d", req.URL.Host, resp.StatusCode)
	}
	return nil
}
