package config

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestDuration(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"0": 0, "90s": 90 * time.Second, "1h30m": 90 * time.Minute, "5d": 120 * time.Hour, "0d": 0, "250ms": 250 * time.Millisecond,
	} {
		var d Duration
		if err := d.UnmarshalText([]byte(text)); err != nil || d.Duration != want {
			t.Errorf("%q: got %s, %v", text, d.Duration, err)
		}
	}
	for _, text := range []string{"", "5", "-1s", "-1d", "1d12h", "5 d", "d", "100000d", "1e3s"} {
		var d Duration
		if err := d.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q: taken for %s", text, d.Duration)
		}
	}
	for want, d := range map[string]time.Duration{"5d": 120 * time.Hour, "25h": 25 * time.Hour, "90m": 90 * time.Minute, "1s": time.Second, "250ms": 250 * time.Millisecond, "0s": 0} {
		if got := (Duration{d}).String(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestSize(t *testing.T) {
	for text, want := range map[string]Size{
		"0": 0, "6000": 6000, "6000B": 6000, "64KiB": 65536, "50MB": 50e6, "50 MB": 50e6, "1kB": 1000, "1KB": 1000, "2GiB": 2 << 30, "3MiB": 3 << 20, "1GB": 1e9,
	} {
		var z Size
		if err := z.UnmarshalText([]byte(text)); err != nil || z != want {
			t.Errorf("%q: got %d, %v", text, z, err)
		}
	}
	for _, text := range []string{"", "MB", "-1", "1.5MB", "1TB", "9223372036854775808", "9223372036854775807KB", "1m"} {
		var z Size
		if err := z.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q: taken for %d", text, z)
		}
	}
}

func FuzzDuration(f *testing.F) {
	for _, s := range []string{"5d", "90s", "1h30m", "1.5h", "-1s", "9999999999h"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var a, b Duration
		if a.UnmarshalText([]byte(s)) != nil {
			return
		}
		if err := b.UnmarshalText([]byte(a.String())); err != nil || a != b || a.Duration < 0 {
			t.Errorf("%q is %s, which is %s: %v", s, a, b, err)
		}
	})
}

func FuzzSize(f *testing.F) {
	for _, s := range []string{"50MB", "64KiB", "6000", "9223372036854775807", "1 GB", "0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var a, b Size
		if a.UnmarshalText([]byte(s)) != nil {
			return
		}
		if err := b.UnmarshalText([]byte(a.String())); err != nil || a != b || a < 0 {
			t.Errorf("%q is %s, which is %s: %v", s, a, b, err)
		}
	})
}

// No way of printing shows a secret.
func TestSecretIsHidden(t *testing.T) {
	s := Secret("hush")
	for _, format := range []string{"%s", "%v", "%+v", "%#v", "%q"} {
		if text := fmt.Sprintf(format, s) + fmt.Sprintf(format, Route{Password: s}); strings.Contains(text, "hush") {
			t.Errorf("%s shows %s", format, text)
		}
	}
}

func TestPrintedConfig(t *testing.T) {
	dir := t.TempDir()
	writeMaterial(t, dir, "capulet.example")
	path := filepath.Join(dir, "mailxmppd.toml")
	writeFile(t, path, minimal+`
[[listener]]
kind = "relay"
address = "127.0.0.1:2525"
trusted = ["127.0.0.0/8"]

[store]
url = "postgres://mail:hush1@db.example/mail?sslmode=require&password=hush2"

[[route]]
domain = "*"
next = "smtp://smarthost.example:587"
user = "capulet"
password_file = "secret"
`)
	cfg, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	text, err := cfg.TOML()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), "hush") {
		t.Errorf("a secret is printed:\n%s", text)
	}
	for _, want := range []string{"postgres://mail@db.example/mail?sslmode=require", "'127.0.0.0/8'", "lifetime = '5d'", "chunk = '128KiB'", "hostname = 'capulet.example'"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("%s is not printed:\n%s", want, text)
		}
	}
	again := filepath.Join(dir, "again.toml")
	writeFile(t, again, string(text))
	if _, err := Load(again); err != nil {
		t.Errorf("what is printed does not load: %v", err)
	}
	if cfg.Store.URL != "postgres://mail:hush1@db.example/mail?sslmode=require&password=hush2" {
		t.Error("printing changed the configuration")
	}
}

func TestRedactURL(t *testing.T) {
	for url, want := range map[string]string{
		"sqlite:///var/lib/mail.db":  "sqlite:///var/lib/mail.db",
		"postgres://u:p@h/d":         "postgres://u@h/d",
		"postgres://h/d?password=p":  "postgres://h/d",
		"postgres://u:%zz@h/d":       "[redacted]",
		"postgres://h/d?sslmode=off": "postgres://h/d?sslmode=off",
	} {
		if got := redactURL(url); got != want {
			t.Errorf("%s: got %s, want %s", url, got, want)
		}
	}
}
