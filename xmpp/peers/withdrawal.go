package peers

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"mailxmppd/xmpp/transfer"
)

// The withdrawal (xep-draft section 4.4) and the bounds on asking for it.
const (
	withdrawalPath    = "/.well-known/mail-transport.json"
	maxWithdrawal     = 4096 // octets
	withdrawalTimeout = 10 * time.Second
	withdrawalPause   = time.Hour // between two questions about a domain
	maxWithdrawals    = 4096      // domains asked about within that time
	withdrawalsAtOnce = 4
)

// withdrawals bounds how often domains are asked.
type withdrawals struct {
	turns chan struct{}

	mu    sync.Mutex
	asked map[string]time.Time
}

func (w *withdrawals) may(domain string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	if last, ok := w.asked[domain]; ok && now.Sub(last) < withdrawalPause {
		return false
	}
	for other, last := range w.asked {
		if now.Sub(last) >= withdrawalPause {
			delete(w.asked, other)
		}
	}
	if len(w.asked) >= maxWithdrawals {
		return false
	}
	select {
	case w.turns <- struct{}{}:
		w.asked[domain] = now
		return true
	default:
		return false
	}
}

// askWithdrawal looks, in the background, whether a domain that is pinned or
// seen and cannot be reached has withdrawn. An operator's word stands.
func (d *Directory) askWithdrawal(domain string) {
	if _, ok := d.configured[domain]; ok {
		return
	}
	_, basis, _, err := d.memory.recall(d.ctx, domain)
	if err != nil || basis != Pinned && basis != Seen || !d.withdrawals.may(domain) {
		return
	}
	started := d.waiting.run(func() {
		d.running.Go(func() {
			defer func() { <-d.withdrawals.turns }()
			if err := d.withdrawn(d.ctx, domain); err != nil {
				d.cfg.Log.Debug("no withdrawal", "peer", domain, "err", err)
				return
			}
			d.cfg.Log.Warn("peer has withdrawn", "peer", domain, "basis", string(basis))
			d.note(domain, func(k *known, _ time.Time) { k.withdraw() })
		})
	})
	if !started {
		<-d.withdrawals.turns
	}
}

// withdrawn fetches the withdrawal; nil means that it is there.
func (d *Directory) withdrawn(ctx context.Context, domain string) error {
	ctx, cancel := context.WithTimeout(ctx, withdrawalTimeout)
	defer cancel()
	transport := &http.Transport{
		TLSClientConfig:        &tls.Config{RootCAs: d.cfg.Roots, MinVersion: tls.VersionTLS12},
		DialContext:            d.dialWeb,
		DisableKeepAlives:      true,
		DisableCompression:     true, // so that the limit is one on octets received
		MaxResponseHeaderBytes: 16 << 10,
	}
	client := http.Client{
		Transport: transport,
		// A redirect would let whoever runs some page of the domain speak for it.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	address := url.URL{Scheme: "https", Host: domain, Path: withdrawalPath}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address.String(), nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", resp.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxWithdrawal+1))
	if err != nil {
		return err
	}
	if !isWithdrawal(body) {
		return errors.New("document is no withdrawal")
	}
	return nil
}

// isWithdrawal reads the document. Names are compared exactly, which decoding
// into a struct would not do.
func isWithdrawal(body []byte) bool {
	var members, policy map[string]json.RawMessage
	var value string
	return len(body) <= maxWithdrawal &&
		json.Unmarshal(body, &members) == nil &&
		json.Unmarshal(members[transfer.Namespace], &policy) == nil &&
		json.Unmarshal(policy["policy"], &value) == nil &&
		value == "none"
}

// dialWeb connects to a host by the addresses that our own resolver gives.
func (d *Directory) dialWeb(ctx context.Context, network, address string) (net.Conn, error) {
	if d.cfg.Dial != nil {
		return d.cfg.Dial(ctx, network, address)
	}
	name, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	ans := d.cfg.DNS.Addrs(ctx, name)
	err = errors.Join(fmt.Errorf("no address of %s", name), ans.Err)
	for _, a := range ans.Records[:min(len(ans.Records), maxAddresses)] {
		var dialer net.Dialer
		var conn net.Conn
		if conn, err = dialer.DialContext(ctx, network, net.JoinHostPort(a.String(), port)); err == nil {
			return conn, nil
		}
	}
	return nil, err
}
