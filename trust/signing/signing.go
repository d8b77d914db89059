// Package signing signs the mail of our own domains (DKIM, RFC 6376) and seals
// what we forward (ARC, RFC 8617), with keys that all nodes share.
//
// Of the keys of a domain that are of one kind the newest signs whose record DNS
// shows; the one before it goes on until then, and its record stays for the mail
// that it signed. A key may be forced to sign before.
//
// Invariants: content is read, never changed, and streams; the signing of a
// message asks nobody; looking at DNS is bounded in time.
//
// Failure semantics: what cannot be signed is an error only where it could be
// signed later; a message that no key is for, or whose header is too large for
// any verifier, goes unsigned. While DNS does not answer what was known holds,
// and where nothing was, keys sign: a signature that nobody can verify is none
// (RFC 6376 section 6.1), one that is missing cannot be added.
package signing

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
	"mailxmppd/trust/author"
	"mailxmppd/trust/dkim"
	"mailxmppd/trust/header"
)

// Config is what a Signer needs.
type Config struct {
	Store   store.Signing
	DNS     dkim.Texts
	Domains []string // of ours: keys are made for those that have none
	Always  bool     // every key signs, whatever DNS shows
	Log     *slog.Logger
}

const (
	lookAgain   = time.Hour       // at the records of keys that are published
	lookSooner  = 5 * time.Minute // at the store, and at records that are missing
	lookTimeout = 5 * time.Second // the start waits for it
)

// Signer signs. Safe for concurrent use.
type Signer struct {
	conf Config
	now  func() time.Time
	wake chan struct{}

	mu    sync.RWMutex
	known map[string]known // by the name of the key's record
	using map[string][]Key // by domain: one of a kind at most
}

// known is what was found of a key.
type known struct {
	standing Standing
	at       time.Time
}

// New makes a Signer, which signs nothing before Refresh.
func New(conf Config) *Signer {
	return &Signer{conf: conf, now: time.Now, wake: make(chan struct{}, 1), known: map[string]known{}, using: map[string][]Key{}}
}

// Run refreshes until ctx ends.
func (s *Signer) Run(ctx context.Context) {
	timer := time.NewTimer(lookSooner)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		case <-timer.C:
		}
		if err := s.Refresh(ctx); err != nil && ctx.Err() == nil {
			s.conf.Log.Error("signing keys not read, the known ones are used", "err", err)
		}
		timer.Reset(lookSooner)
	}
}

// Changed has the keys looked at soon; it does not wait.
func (s *Signer) Changed() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Refresh makes keys for domains that have none, and looks which are to sign.
func (s *Signer) Refresh(ctx context.Context) error {
	stored, err := s.conf.Store.SigningKeys(ctx)
	if err != nil {
		return err
	}
	if made, err := s.makeMissing(ctx, stored); err != nil {
		return err
	} else if made {
		if stored, err = s.conf.Store.SigningKeys(ctx); err != nil {
			return err
		}
	}
	var keys []Key
	for _, k := range stored {
		key, err := Open(k)
		if err != nil {
			s.conf.Log.Error("signing key of no use", "err", err)
			continue
		}
		keys = append(keys, key)
	}
	standings := s.look(ctx, keys)
	using := s.choose(keys, standings)
	s.mu.Lock()
	defer s.mu.Unlock()
	for domain, keys := range using {
		if was, is := selectors(s.using[domain]), selectors(keys); was != is {
			s.conf.Log.Info("signing", "domain", domain, "selectors", is)
		}
	}
	for domain := range s.using {
		if using[domain] == nil {
			s.conf.Log.Warn("no longer signing", "domain", domain)
		}
	}
	s.known, s.using = standings, using
	return nil
}

func (s *Signer) makeMissing(ctx context.Context, stored []store.SigningKey) (made bool, err error) {
	have := map[string]bool{}
	for _, k := range stored {
		have[k.Domain] = true
	}
	for _, domain := range s.conf.Domains {
		if have[domain] {
			continue
		}
		keys, err := GenerateAll(domain, s.now(), nil)
		if err != nil {
			return made, err
		}
		switch err := s.conf.Store.AddSigningKeys(ctx, keys, true); {
		case err == nil:
			s.conf.Log.Info("signing keys made, to be published with what mailxmppd keys dns prints", "domain", domain)
		case !errors.Is(err, store.ErrExists): // another node was faster
			return made, err
		}
		made = true
	}
	return made, nil
}

// look asks DNS where it is time to, all at once.
func (s *Signer) look(ctx context.Context, keys []Key) map[string]known {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	s.mu.RLock()
	before := s.known
	s.mu.RUnlock()
	found := make([]known, len(keys))
	slots := make(chan struct{}, 16)
	var all sync.WaitGroup
	for i, k := range keys {
		was := before[k.RecordName()]
		if found[i] = was; was.standing == Published && s.now().Sub(was.at) < lookAgain {
			continue
		}
		all.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			standing := k.Look(ctx, s.conf.DNS)
			if standing != Unknown || was.standing == "" {
				found[i] = known{standing, s.now()}
			}
		})
	}
	all.Wait()
	after := map[string]known{}
	for i, k := range keys {
		after[k.RecordName()] = found[i]
	}
	return after
}

// choose finds the keys to sign with: of each kind the newest that is published
// or forced, else the newest of which nobody knows.
func (s *Signer) choose(keys []Key, standings map[string]known) map[string][]Key {
	using := map[string][]Key{}
	for _, domain := range s.conf.Domains {
		for _, kind := range Kinds() {
			var sure, unsure *Key
			for i, k := range keys { // the oldest first
				if k.Domain != domain || k.Kind != kind {
					continue
				}
				switch standing := standings[k.RecordName()].standing; {
				case k.Forced || s.conf.Always || standing == Published:
					sure = &keys[i]
				case standing == Unknown:
					unsure = &keys[i]
				}
			}
			if sure == nil {
				sure = unsure
			}
			if sure != nil {
				using[domain] = append(using[domain], *sure)
			}
		}
	}
	return using
}

func selectors(keys []Key) string {
	var out []string
	for _, k := range keys {
		out = append(out, k.Selector)
	}
	return strings.Join(out, " ")
}

// keysOf are the keys that sign for a domain now.
func (s *Signer) keysOf(domain string) []Key {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.using[domain]
}

// SealingKey returns the key that seals what a domain of ours forwards. It is the
// RSA one: few of those who read ARC know another.
func (s *Signer) SealingKey(domain string) (Key, bool) {
	for _, k := range s.keysOf(domain) {
		if k.Kind == rsaKind {
			return k, true
		}
	}
	return Key{}, false
}

// Sign returns the DKIM-Signature fields for a message of one of our domains,
// to be prepended to it; none where its author is of no domain that has keys.
// Only the author's own domain counts to a verifier (RFC 9989: alignment), so
// that no other signs.
func (s *Signer) Sign(_ context.Context, content mail.Content) (string, error) {
	rc, err := content.Open()
	if err != nil {
		return "", err
	}
	defer rc.Close()
	r := bufio.NewReaderSize(rc, 32<<10)
	h, err := header.Read(r)
	if errors.Is(err, header.ErrTooLarge) {
		s.conf.Log.Warn("message goes unsigned", "err", err)
		return "", nil
	}
	if err != nil {
		return "", err
	}
	domains := author.Read(h, nil).Domains()
	if len(domains) != 1 {
		return "", nil
	}
	keys := s.keysOf(domains[0])
	if len(keys) == 0 {
		return "", nil
	}
	body := dkim.NewBody(dkim.Relaxed)
	if _, err := io.Copy(body, r); err != nil {
		return "", err
	}
	var fields string
	for _, k := range keys {
		field, err := dkim.Signer{Domain: k.Domain, Selector: k.Selector, Key: k.Signer}.Sign(h, body, s.now())
		if err != nil {
			return "", fmt.Errorf("key %s of %s: %w", k.Selector, k.Domain, err)
		}
		fields += field
	}
	return fields, nil
}
