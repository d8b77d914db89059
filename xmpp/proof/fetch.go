package proof

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"

	"mailxmppd/dns"
)

const (
	// maxRedirects is of HTTP, on the way to one document.
	maxRedirects = 3
	// maxAddresses of a web site are tried.
	maxAddresses = 4
)

// newClient makes the HTTPS client: no proxy, no kept connections, no cookies,
// the site's certificate verified for the name asked.
func newClient(p *Prover) *http.Client {
	dial := p.cfg.Dial
	if dial == nil {
		dial = p.dial
	}
	return &http.Client{
		Transport: &http.Transport{
			DialContext:            dial,
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: p.cfg.Roots},
			DisableKeepAlives:      true,
			DisableCompression:     true,
			MaxResponseHeaderBytes: 16 << 10,
		},
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			if len(via) > maxRedirects {
				return errors.New("too many redirects")
			}
			return checkURL(req.URL)
		},
	}
}

// dial connects to a web site at the addresses that our DNS tells, each with
// its share of the time.
func (p *Prover) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	ans := p.cfg.DNS.Addrs(ctx, host)
	if ans.Status != dns.Found {
		return nil, fmt.Errorf("address of %s: %s", host, ans.Status)
	}
	d := net.Dialer{Timeout: p.cfg.Timeout / maxAddresses}
	for _, ip := range ans.Records[:min(len(ans.Records), maxAddresses)] {
		conn, failure := d.DialContext(ctx, network, net.JoinHostPort(ip.String(), port))
		if failure == nil {
			return conn, nil
		}
		err = errors.Join(err, failure)
	}
	return nil, err
}

// fetch gets the document of a domain, by way of the one that it may point to
// (RFC 7711 section 3.2), which may not point further.
func (p *Prover) fetch(ctx context.Context, domain string) fetched {
	p.fetches.Add(1)
	f := fetched{where: "https://" + domain + "/.well-known/posh/xmpp-server.json"}
	f.doc, f.err = p.get(ctx, f.where)
	if f.err == nil && f.doc.url != "" {
		first := f.doc
		f.where = first.url
		f.doc, f.err = p.get(ctx, first.url)
		if f.err == nil && f.doc.url != "" {
			f.err = errors.New("points to a third document")
		}
		f.doc.expires = min(f.doc.expires, first.expires) // RFC 7711 section 6
	}
	f.at = p.now()
	f.until = f.at.Add(failureKept)
	if f.err == nil {
		f.until = f.at.Add(f.doc.expires)
	}
	return f
}

func (p *Prover) get(ctx context.Context, url string) (document, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return document{}, err
	}
	req.Header.Set("Accept", "application/json")
	resp, err := p.client.Do(req)
	if err != nil {
		return document{}, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return document{}, fmt.Errorf("status %d", resp.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxDocument+1))
	if err != nil {
		return document{}, err
	}
	return readDocument(body)
}
