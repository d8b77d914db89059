package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"mailxmppd/config"
)

// reloadEvery is how often certificate files are looked at.
const reloadEvery = time.Minute

// certificates holds the domains' certificates, by their names over XMPP. They are read again when a
// file changes, or at SIGHUP; connections that exist keep what they have.
type certificates struct {
	domains  []config.Domain
	fallback string // the domain shown to a TLS client that names none of ours
	log      *slog.Logger
	current  atomic.Pointer[map[string]*tls.Certificate]
	stamp    string // of the files as last read
}

// loadCertificates reads all certificates; any that cannot be read is an error.
func loadCertificates(cfg *config.Config, log *slog.Logger) (*certificates, error) {
	c := &certificates{domains: cfg.Domains, fallback: cfg.DefaultDomain().XMPPName(), log: log}
	return c, c.load()
}

// load reads all or, with an error, changes nothing.
func (c *certificates) load() error {
	stamp := c.stampOf()
	loaded := map[string]*tls.Certificate{}
	for _, d := range c.domains {
		pair, err := d.LoadCertificate()
		if err != nil {
			return err
		}
		c.warn(d.XMPPName(), &pair)
		if loaded[d.XMPPName()] == nil || d.Service == "" { // a service's own table comes first
			loaded[d.XMPPName()] = &pair
		}
	}
	c.current.Store(&loaded)
	c.stamp = stamp
	return nil
}

// warn says what peers will not like about a certificate; that alone keeps no
// mail from travelling by SMTP.
func (c *certificates) warn(domain string, pair *tls.Certificate) {
	if err := pair.Leaf.VerifyHostname(domain); err != nil && len(pair.Leaf.DNSNames) > 0 {
		c.log.Warn("certificate does not name its domain, peers will refuse it", "domain", domain, "names", pair.Leaf.DNSNames)
	}
	if now := time.Now(); now.After(pair.Leaf.NotAfter) || now.Before(pair.Leaf.NotBefore) {
		c.log.Warn("certificate is not valid now, peers will refuse it", "domain", domain,
			"from", pair.Leaf.NotBefore, "until", pair.Leaf.NotAfter)
	}
}

// of returns the certificate of a domain of ours, or of its service.
func (c *certificates) of(domain string) (*tls.Certificate, error) {
	if cert := (*c.current.Load())[domain]; cert != nil {
		return cert, nil
	}
	return nil, fmt.Errorf("%s is not a domain of this gateway", domain)
}

// forSMTP is what an SMTP client is shown: a certificate for the name that it
// gives, or the default domain's.
func (c *certificates) forSMTP(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	for _, cert := range *c.current.Load() {
		if hello.ServerName != "" && hello.SupportsCertificate(cert) == nil {
			return cert, nil
		}
	}
	return c.of(c.fallback)
}

// watch reads the files again at SIGHUP and when one of them has changed, until
// ctx ends. Files that cannot be used leave everything as it was.
func (c *certificates) watch(ctx context.Context) {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	ticker := time.NewTicker(reloadEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-hup:
		case <-ticker.C:
			if c.stampOf() == c.stamp {
				continue
			}
		}
		if err := c.load(); err != nil {
			c.log.Error("certificates not reloaded, the old ones stay in use", "err", err)
		} else {
			c.log.Info("certificates reloaded")
		}
	}
}

// stampOf sums up sizes and times of the files.
func (c *certificates) stampOf() string {
	stamp := ""
	for _, d := range c.domains {
		for _, file := range []string{d.Certificate, d.Key} {
			if info, err := os.Stat(file); err == nil {
				stamp += fmt.Sprintf("%s %d %d\n", file, info.Size(), info.ModTime().UnixNano())
			}
		}
	}
	return stamp
}
