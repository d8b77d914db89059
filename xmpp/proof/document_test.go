package proof

import (
	"strings"
	"testing"
	"time"
)

func TestReadDocument(t *testing.T) {
	sum := strings.Repeat("A", 43) + "="
	for _, c := range []struct {
		name, in, why string
		expires       time.Duration
	}{
		{name: "fingerprints", in: `{"fingerprints":[{"sha-256":"` + sum + `"}],"expires":60}`, expires: time.Minute},
		{name: "unknown members", in: `{"x":[],"fingerprints":[{},{"sha-1":7,"sha-256":"` + sum + `"}],"expires":60.5}`, expires: time.Minute},
		{name: "fingerprints before url", in: `{"url":7,"fingerprints":[{"sha-256":"` + sum + `"}],"expires":60}`, expires: time.Minute},
		{name: "url", in: `{"url":"https://h.example/x","expires":3}`, expires: 3 * time.Second},
		{name: "capped", in: `{"url":"https://h.example/x","expires":86401}`, expires: maxKept},
		{name: "empty", in: ``, why: "not a JSON object"},
		{name: "list", in: `[]`, why: "not a JSON object"},
		{name: "null", in: `null`, why: "expires"},
		{name: "two objects", in: `{"url":"https://h.example/x","expires":3}{}`, why: "not a JSON object"},
		{name: "names in capitals", in: `{"FINGERPRINTS":[{"sha-256":"` + sum + `"}],"expires":60}`, why: "neither"},
		{name: "no expires", in: `{"url":"https://h.example/x"}`, why: "expires is not a number"},
		{name: "expires a string", in: `{"url":"https://h.example/x","expires":"60"}`, why: "expires is not a number"},
		{name: "expires null", in: `{"url":"https://h.example/x","expires":null}`, why: "not positive"},
		{name: "expires negative", in: `{"url":"https://h.example/x","expires":-1}`, why: "not positive"},
		{name: "expires beyond all numbers", in: `{"url":"https://h.example/x","expires":1e999}`, why: "expires is not a number"},
		{name: "no fingerprint", in: `{"fingerprints":[],"expires":60}`, why: "no fingerprint"},
		{name: "fingerprints null", in: `{"fingerprints":null,"expires":60}`, why: "no fingerprint"},
		{name: "fingerprints of strings", in: `{"fingerprints":["` + sum + `"],"expires":60}`, why: "not a list of objects"},
		{name: "unknown hash alone", in: `{"fingerprints":[{"sha-1":"x"}],"expires":60}`, why: "no fingerprint"},
		{name: "hash too short", in: `{"fingerprints":[{"sha-256":"AAAA"}],"expires":60}`, why: "sha-256 is not 32 octets"},
		{name: "hash of the other length", in: `{"fingerprints":[{"sha-512":"` + sum + `"}],"expires":60}`, why: "sha-512 is not 64 octets"},
		{name: "hash not base64", in: `{"fingerprints":[{"sha-256":"` + strings.Repeat("*", 44) + `"}],"expires":60}`, why: "sha-256 is not"},
		{name: "hash a number", in: `{"fingerprints":[{"sha-256":1}],"expires":60}`, why: "sha-256 is not a string"},
		{name: "too many", in: `{"fingerprints":[` + strings.Repeat(`{},`, maxFingerprints) + `{}],"expires":60}`, why: "more than 64"},
		{name: "url with a password", in: `{"url":"https://u:secret@h.example/x","expires":60}`, why: "want https"},
		{name: "url of no host", in: `{"url":"https:///x","expires":60}`, why: "want https"},
		{name: "url a number", in: `{"url":7,"expires":60}`, why: "neither"},
		{name: "url unreadable", in: `{"url":"https://h\u0000/","expires":60}`, why: "url cannot be read"},
		{name: "too deep", in: strings.Repeat(`{"a":`, 11000) + "1" + strings.Repeat("}", 11000), why: "longer"},
	} {
		d, err := readDocument([]byte(c.in))
		switch {
		case c.why == "" && (err != nil || d.expires != c.expires || (d.url == "") == (d.fingerprints == nil)):
			t.Errorf("%s: %+v %v", c.name, d, err)
		case c.why != "" && (err == nil || !strings.Contains(err.Error(), c.why)):
			t.Errorf("%s: %v, want %q", c.name, err, c.why)
		case err != nil && strings.Contains(err.Error(), "secret"):
			t.Errorf("%s: a secret in %v", c.name, err)
		}
	}
}

func FuzzReadDocument(f *testing.F) {
	f.Add([]byte(`{"fingerprints":[{"sha-256":"` + strings.Repeat("A", 43) + `="}],"expires":60}`))
	f.Add([]byte(`{"url":"https://h.example/x","expires":3}`))
	f.Add([]byte(`{"fingerprints":[{"sha-512":null}],"expires":1e300}`))
	f.Add([]byte(`{"url":"https://[::1]:443/\u202e","expires":0.5}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		d, err := readDocument(in)
		if err != nil {
			return
		}
		if d.expires < time.Second || d.expires > maxKept || (d.url == "") == (len(d.fingerprints) == 0) || len(d.fingerprints) > maxFingerprints {
			t.Errorf("%+v", d)
		}
		if d.url != "" && !strings.HasPrefix(d.url, "https://") {
			t.Error("leads to", d.url)
		}
		for _, p := range d.fingerprints {
			if p.sha256 == nil && p.sha512 == nil {
				t.Error("a fingerprint that matches everything")
			}
		}
	})
}
