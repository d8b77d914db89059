package config

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// Bounds of the files that the configuration names, in octets.
const (
	maxPEM    = 4 << 20
	maxSecret = 4 << 10
)

// LoadCertificate reads a domain's certificate and key. The error names the
// file that is at fault. Load has called it once; a caller that calls it again
// gets what the files hold then.
func (d Domain) LoadCertificate() (tls.Certificate, error) {
	pair, _, err := d.loadCertificate()
	return pair, err
}

// loadCertificate also tells which key of the table is at fault.
func (d Domain) loadCertificate() (pair tls.Certificate, key string, err error) {
	chain, err := readBounded(d.Certificate, maxPEM)
	if err != nil {
		return pair, "certificate", fmt.Errorf("%s: %w", d.Certificate, err)
	}
	private, err := readBounded(d.Key, maxPEM)
	if err != nil {
		return pair, "key", fmt.Errorf("%s: %w", d.Key, err)
	}
	if pool := x509.NewCertPool(); !pool.AppendCertsFromPEM(chain) {
		return pair, "certificate", fmt.Errorf("%s: holds no certificate in PEM form", d.Certificate)
	}
	pair, err = tls.X509KeyPair(chain, private)
	if err != nil {
		return pair, "key", fmt.Errorf("%s: %s", d.Key, strings.TrimPrefix(err.Error(), "tls: "))
	}
	return pair, "", nil
}

// readBounded reads a whole file that must not be longer than limit octets.
func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, plain(err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	switch {
	case err != nil:
		return nil, plain(err)
	case int64(len(data)) > limit:
		return nil, fmt.Errorf("is longer than %d octets", limit)
	}
	return data, nil
}

// plain strips the call and the path from a file error: the message names the
// file already.
func plain(err error) error {
	if pe, ok := errors.AsType[*os.PathError](err); ok {
		return pe.Err
	}
	return err
}

// Pool reads the trusted CAs; nil stands for the system's.
func (t TLS) Pool() (*x509.CertPool, error) {
	if t.Roots == "" {
		return nil, nil
	}
	certs, err := readBounded(t.Roots, maxPEM)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", t.Roots, err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(certs) {
		return nil, fmt.Errorf("%s: holds no certificate in PEM form", t.Roots)
	}
	return pool, nil
}

func (c *checker) certificate(at string, d *Domain) {
	whole := true
	for _, f := range []struct {
		key  string
		path *string
	}{{"certificate", &d.Certificate}, {"key", &d.Key}} {
		if *f.path == "" {
			c.add(at+"."+f.key, "is missing")
			whole = false
			continue
		}
		*f.path = c.path(*f.path)
	}
	if !whole {
		return
	}
	if _, key, err := d.loadCertificate(); err != nil {
		c.add(at+"."+key, "%s", err)
	}
}

func (c *checker) roots(t *TLS) {
	if t.Roots == "" {
		return
	}
	t.Roots = c.path(t.Roots)
	if _, err := t.Pool(); err != nil {
		c.add("tls.roots", "%s", err)
	}
}

// PublicKeys reads the keys that sign tokens, in the form of "PUBLIC KEY".
func (o OAuth) PublicKeys() ([]crypto.PublicKey, error) {
	rest, err := readBounded(o.Keys, maxPEM)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", o.Keys, err)
	}
	var keys []crypto.PublicKey
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		key, err := x509.ParsePKIXPublicKey(block.Bytes)
		if block.Type != "PUBLIC KEY" || err != nil {
			return nil, fmt.Errorf("%s: holds %q, wants PUBLIC KEY alone", o.Keys, clip(block.Type))
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("%s: holds no public key in PEM form", o.Keys)
	}
	return keys, nil
}

func (c *checker) oauth(o *OAuth) {
	if o.Keys == "" {
		for _, k := range []struct{ key, value string }{{"issuer", o.Issuer}, {"audience", o.Audience}} {
			if k.value != "" {
				c.add("oauth."+k.key, "is of no use without keys")
			}
		}
		return
	}
	o.Keys = c.path(o.Keys)
	if _, err := o.PublicKeys(); err != nil {
		c.add("oauth.keys", "%s", err)
	}
	for _, k := range []struct{ key, value string }{{"issuer", o.Issuer}, {"audience", o.Audience}, {"claim", o.Claim}} {
		if k.value == "" {
			c.add("oauth."+k.key, "is missing")
		}
	}
}

// secret reads a secret from a file, whose last line end does not count, or
// from the environment. It makes the file's path absolute.
func (c *checker) secret(path string, file *string, env string) (string, bool) {
	text, err := os.Getenv(env), error(nil)
	if *file != "" {
		*file = c.path(*file)
		var data []byte
		data, err = readBounded(*file, maxSecret)
		text = strings.TrimRight(string(data), "\r\n")
	}
	switch {
	case err != nil:
		err = fmt.Errorf("%s: %w", *file, err)
	case text == "" && *file != "":
		err = fmt.Errorf("%s: is empty", *file)
	case text == "":
		err = fmt.Errorf("the environment has no %s", env)
	case strings.ContainsAny(text, "\r\n\x00"):
		err = errors.New("the secret has more than one line")
	}
	if err != nil {
		c.add(path, "%s", err)
	}
	return text, err == nil
}
