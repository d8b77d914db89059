package dkim

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"mailxmppd/dns"
)

// Sizes of RSA keys. RFC 8301 section 3.2: keys of less than 1024 bits prove
// nothing; verifiers must take up to 4096. Each doubling above costs four times
// the CPU, and nobody needs it.
const (
	minBits = 1024
	maxBits = 8192
)

// maxKeyRecord bounds a key record that is looked at.
const maxKeyRecord = 16 << 10

// Key is a public key as its owner publishes it (RFC 6376 section 3.6.1).
type Key struct {
	Public  crypto.PublicKey // *rsa.PublicKey or ed25519.PublicKey
	Kind    string           // "rsa" or "ed25519"
	Bits    int
	Hashes  []string // nil: any
	Testing bool     // t=y: its owner still tries it out
	Strict  bool     // t=s: the agent's domain is the key's domain itself
}

// ErrRevoked is the answer of a key record without a key.
var ErrRevoked = errors.New("the key has been revoked")

// ParseKey reads a key record.
func ParseKey(record string) (*Key, error) {
	if len(record) > maxKeyRecord {
		return nil, errors.New("the key record is too long")
	}
	tags, err := ParseTags(record)
	if err != nil {
		return nil, fmt.Errorf("key record: %w", err)
	}
	if v, ok := tags["v"]; ok && (v != "DKIM1" || !strings.HasPrefix(strings.TrimLeft(record, fws), "v")) {
		return nil, errors.New("key record: version is not DKIM1, or not first")
	}
	p, ok := tags["p"]
	if !ok {
		return nil, errors.New("key record: no p=")
	}
	if compact(p) == "" {
		return nil, ErrRevoked
	}
	if s, ok := tags["s"]; ok && !slices.Contains(list(s), "*") && !slices.Contains(list(s), "email") {
		return nil, errors.New("key record: the key is not for mail")
	}
	der, err := decode(p)
	if err != nil {
		return nil, errors.New("key record: p= is not base64")
	}
	k := &Key{Kind: "rsa"}
	if kind, ok := tags["k"]; ok {
		k.Kind = kind
	}
	if h, ok := tags["h"]; ok {
		k.Hashes = list(h)
	}
	if t, ok := tags["t"]; ok {
		flags := list(t)
		k.Testing, k.Strict = slices.Contains(flags, "y"), slices.Contains(flags, "s")
	}
	return k, k.setPublic(der)
}

func (k *Key) setPublic(der []byte) error {
	switch k.Kind {
	case "rsa":
		// RFC 6376 says both; its erratum 3017 wants both taken.
		public, err := x509.ParsePKIXPublicKey(der)
		if err != nil {
			if public, err = x509.ParsePKCS1PublicKey(der); err != nil {
				return errors.New("key record: p= is not an RSA key")
			}
		}
		key, ok := public.(*rsa.PublicKey)
		if !ok {
			return errors.New("key record: p= is not an RSA key")
		}
		k.Public, k.Bits = key, key.N.BitLen()
	case "ed25519": // RFC 8463 section 4
		if len(der) != ed25519.PublicKeySize {
			return errors.New("key record: p= is not an Ed25519 key")
		}
		k.Public, k.Bits = ed25519.PublicKey(der), 256
	default:
		return fmt.Errorf("key record: unknown kind %.20q", k.Kind)
	}
	return nil
}

// fits tells why a key cannot be used for a signature, "" if it can.
func (k *Key) fits(algorithm string) string {
	kind, digest, _ := strings.Cut(algorithm, "-")
	switch {
	case kind != k.Kind:
		return "the key is of another kind than the signature"
	case k.Hashes != nil && !slices.Contains(k.Hashes, digest):
		return "the key is not for this hash"
	}
	return ""
}

// verify checks a signature over a SHA-256 digest.
func (k *Key) verify(digest, sig []byte) bool {
	switch public := k.Public.(type) {
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(public, crypto.SHA256, digest, sig) == nil
	case ed25519.PublicKey:
		return ed25519.Verify(public, digest, sig) // RFC 8463 section 3
	}
	return false
}

// Texts asks DNS for texts; *dns.Resolver does.
type Texts interface {
	TXT(ctx context.Context, name string) dns.Answer[string]
}

// maxLookups bounds the lookups under way for the seals of one message, which
// may be many. Those of its signatures, which Collect has bounded, wait for no
// turn: else whoever adds signatures of domains that answer slowly could make an
// author's own key, hence what is forged, something that cannot be told now.
const maxLookups = 8

// Keys fetches the keys of one message's signatures, each once. Safe for
// concurrent use.
type Keys struct {
	dns  Texts
	slot chan struct{}
	wg   sync.WaitGroup
	mu   sync.Mutex
	have map[string]*fetched
}

type fetched struct {
	done chan struct{}
	key  *Key
	err  error
	temp bool // err may be gone later
}

// NewKeys makes Keys that ask texts.
func NewKeys(texts Texts) *Keys {
	return &Keys{dns: texts, slot: make(chan struct{}, maxLookups), have: map[string]*fetched{}}
}

// Fetch starts the lookup of a key when it is its turn. It must be followed by
// Wait.
func (k *Keys) Fetch(ctx context.Context, selector, domain string) {
	k.fetch(ctx, selector, domain, k.slot)
}

// fetch starts a lookup at once where turns is nil.
func (k *Keys) fetch(ctx context.Context, selector, domain string, turns chan struct{}) {
	name := keyName(selector, domain)
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.have[name] != nil {
		return
	}
	f := &fetched{done: make(chan struct{})}
	k.have[name] = f
	k.wg.Go(func() {
		defer close(f.done)
		if turns != nil {
			turns <- struct{}{}
			defer func() { <-turns }()
		}
		f.key, f.temp, f.err = lookup(ctx, k.dns, name)
	})
}

// Wait waits for all lookups that were started; their context ends them.
func (k *Keys) Wait() { k.wg.Wait() }

// get returns a key that was fetched.
func (k *Keys) get(selector, domain string) (key *Key, temp bool, err error) {
	k.mu.Lock()
	f := k.have[keyName(selector, domain)]
	k.mu.Unlock()
	if f == nil {
		return nil, false, errors.New("the key was not asked for")
	}
	<-f.done
	return f.key, f.temp, f.err
}

func keyName(selector, domain string) string {
	return strings.ToLower(selector + "._domainkey." + domain)
}

// lookup asks for a key. Where a name has several texts, the one that is a key
// counts; two of them are undefined (RFC 6376 section 3.6.2.2) and none.
func lookup(ctx context.Context, texts Texts, name string) (key *Key, temp bool, err error) {
	ans := texts.TXT(ctx, name)
	switch ans.Status {
	case dns.Failed:
		return nil, true, errors.New("the key cannot be had: DNS does not answer")
	case dns.Found:
	default:
		return nil, false, errors.New("there is no key")
	}
	for _, record := range ans.Records {
		k, e := ParseKey(record)
		switch {
		case e != nil && err == nil:
			err = e
		case e != nil:
		case key != nil:
			return nil, false, errors.New("there are several keys")
		default:
			key = k
		}
	}
	if key != nil {
		return key, false, nil
	}
	return nil, false, err
}
