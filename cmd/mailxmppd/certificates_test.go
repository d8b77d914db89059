package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"mailxmppd/config"
)

// TestCertificatesReload: a changed file is used from then on, a broken one
// changes nothing.
func TestCertificatesReload(t *testing.T) {
	s := newSite(t)
	cfg, err := config.Load(s.write(t))
	if err != nil {
		t.Fatal(err)
	}
	c, err := loadCertificates(cfg, quiet())
	if err != nil {
		t.Fatal(err)
	}
	leaf := func() []byte {
		t.Helper()
		cert, err := c.of("capulet.example")
		if err != nil {
			t.Fatal(err)
		}
		return cert.Certificate[0]
	}
	first := leaf()
	if c.stampOf() != c.stamp {
		t.Error("untouched files count as changed")
	}
	certificate{names: []string{"capulet.example"}, after: 10 * time.Hour}.write(t, s.dir)
	if c.stampOf() == c.stamp {
		t.Error("the change is not seen")
	}
	if err := c.load(); err != nil || bytes.Equal(first, leaf()) {
		t.Errorf("the new certificate is not used: %v", err)
	}
	second := leaf()
	writeFile(t, filepath.Join(s.dir, "cert.pem"), "no certificate")
	if err := c.load(); err == nil || !bytes.Equal(second, leaf()) {
		t.Errorf("a broken file: %v", err)
	}
	if err := os.Remove(filepath.Join(s.dir, "key.pem")); err != nil {
		t.Fatal(err)
	}
	if err := c.load(); err == nil {
		t.Error("a missing key is no error")
	}
	if _, err := c.of("verona.example"); err == nil {
		t.Error("a certificate for a foreign domain")
	}
}
