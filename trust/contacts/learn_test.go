package contacts

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"mailxmppd/dns"
	"mailxmppd/mail"
	"mailxmppd/store"
	"mailxmppd/trust"
)

// The example of the draft's section 3.1.
func TestDirectoryName(t *testing.T) {
	if got := directoryName("Joe.Doe"); got != "iy9q119eutrkn8s1mk4r39qejnbu3n5q" {
		t.Errorf("got %s", got)
	}
}

// names is a DNS in which the names of a list exist.
type names []string

func (n names) Addrs(_ context.Context, host string) dns.Answer[netip.Addr] {
	for _, name := range n {
		if name == host {
			return dns.Answer[netip.Addr]{Status: dns.Found, Records: []netip.Addr{netip.MustParseAddr("127.0.0.1")}}
		}
		if name == "!"+host {
			return dns.Answer[netip.Addr]{Status: dns.Failed}
		}
	}
	return dns.Answer[netip.Addr]{Status: dns.NoDomain}
}

// site serves HTTPS for all names of montague.example, with a certificate that
// the returned pool trusts.
func site(t *testing.T, h http.Handler) (*x509.CertPool, func(context.Context, string, string) (net.Conn, error)) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"montague.example", "*.montague.example"}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	s := httptest.NewUnstartedServer(h)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	s.StartTLS()
	t.Cleanup(s.Close)
	return pool, func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, s.Listener.Addr().String())
	}
}

// TestDirectory: what a web key directory answers, well or not.
func TestDirectory(t *testing.T) {
	key, other := pgp.public(t, "romeo"), pgp.public(t, "tybalt")
	name := directoryName("romeo")
	advanced, direct := "/.well-known/openpgpkey/montague.example/hu/"+name, "/.well-known/openpgpkey/hu/"+name
	for _, c := range []struct {
		what    string
		names   names
		path    string // where the answer is
		body    string
		answer  http.HandlerFunc // instead of it
		want    int
		problem string
	}{
		{"the advanced method", names{"openpgpkey.montague.example", "montague.example"}, advanced, string(key), nil, 1, ""},
		{"the direct method", names{"montague.example"}, direct, string(key), nil, 1, ""},
		{"not direct where advanced is there", names{"openpgpkey.montague.example", "montague.example"}, direct, string(key), nil, 0, ""},
		{"no site", names{}, direct, string(key), nil, 0, ""},
		{"DNS is down", names{"!openpgpkey.montague.example", "montague.example"}, direct, string(key), nil, 0, "address of openpgpkey.montague.example"},
		{"somebody else's key beside it", names{"montague.example"}, direct, string(key) + string(other), nil, 1, ""},
		{"somebody else's key", names{"montague.example"}, direct, string(other), nil, 0, ""},
		{"garbage", names{"montague.example"}, direct, "<html>", nil, 0, "key directory of montague.example: not OpenPGP data"},
		{"too large", names{"montague.example"}, direct, strings.Repeat("x", maxDirectoryKey+1), nil, 0, "more than 262144 octets"},
		{"an error", names{"montague.example"}, "", "", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) }, 0, "status 503"},
		{"redirected once", names{"montague.example"}, direct + "x", string(key), func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://keys.montague.example"+direct+"x", http.StatusFound)
		}, 1, ""},
		{"redirected for ever", names{"montague.example"}, "", "", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, r.URL.String(), http.StatusFound)
		}, 0, "too many redirects"},
		{"redirected to plain HTTP", names{"montague.example"}, "", "", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://montague.example/", http.StatusFound)
		}, 0, "no public HTTPS site"},
		{"redirected to another port", names{"montague.example"}, "", "", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://montague.example:8443/", http.StatusFound)
		}, 0, "no public HTTPS site"},
		{"a site of another name", names{"montague.example"}, "", "", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://verona.example/", http.StatusFound)
		}, 0, "certificate"},
	} {
		t.Run(strings.ReplaceAll(c.what, " ", "_"), func(t *testing.T) {
			roots, dial := site(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch {
				case r.URL.Path == c.path && c.path != "":
					w.Write([]byte(c.body))
				case c.answer != nil:
					c.answer(w, r)
				default:
					w.WriteHeader(http.StatusNotFound)
				}
			}))
			d := NewDirectory(DirectoryConfig{DNS: c.names, Roots: roots, Dial: dial})
			got, err := d.Keys(t.Context(), address(t, romeo))
			if len(got) != c.want || (err == nil) != (c.problem == "") || err != nil && !strings.Contains(err.Error(), c.problem) {
				t.Errorf("got %d keys, %v; want %d, %q", len(got), err, c.want, c.problem)
			}
		})
	}
}

// TestDirectoryDialsThePublic: a stranger's domain does not lead us to hosts
// that only we can reach.
func TestDirectoryDialsThePublic(t *testing.T) {
	d := NewDirectory(DirectoryConfig{DNS: names{"montague.example"}})
	if _, err := d.Keys(t.Context(), address(t, romeo)); err == nil || !strings.Contains(err.Error(), "has no public address") {
		t.Errorf("got %v", err)
	}
	for ip, want := range map[string]bool{"192.0.2.1": true, "2001:db8::1": true, "10.0.0.1": false, "::ffff:127.0.0.1": false, "169.254.169.254": false,
		"100.64.0.1": false, "fe80::1": false, "fd00::1": false, "0.0.0.0": false, "224.0.0.1": false} {
		if got := public(netip.MustParseAddr(ip)); got != want {
			t.Errorf("%s: public %v", ip, got)
		}
	}
}

func evidence(content string) *trust.Evidence {
	return &trust.Evidence{Message: trust.Input{Content: mail.Bytes(content)}}
}

// TestAutocrypt: which fields a key is learnt from.
func TestAutocrypt(t *testing.T) {
	key := pgp.public(t, "romeo")
	data := base64.StdEncoding.EncodeToString(key)
	folded := strings.ReplaceAll(fold("keydata="+data), "\r\n ", "\r\n\t")
	field := func(attributes string) string {
		return "Autocrypt: " + attributes + strings.TrimSuffix(folded, "\r\n") + "\r\n"
	}
	good := field("addr=Romeo@montague.example; prefer-encrypt=mutual; _x=y;\r\n ")
	secret := base64.StdEncoding.EncodeToString(pgp.must(t, nil, "--export-secret-keys", pgp.fingerprint(t, "romeo")))
	for _, c := range []struct {
		what, message string
		learnt        bool
	}{
		{"as clients write it", good + head + "\r\n", true},
		{"two that count", good + good + head + "\r\n", false},
		{"one that counts", good + field("addr=paris@verona.example; ") + head + "\r\n", true},
		{"another address", field("addr=paris@verona.example; ") + head + "\r\n", false},
		{"an unknown attribute", field("addr=romeo@montague.example; critical=x; ") + head + "\r\n", false},
		{"several authors", good + strings.Replace(head, "From: ", "From: paris@verona.example, ", 1) + "\r\n", false},
		{"another author", good + strings.Replace(head, "romeo@", "paris@", 1) + "\r\n", false},
		{"in the body", head + "\r\n" + good, false},
		{"a weak key", "Autocrypt: addr=romeo@montague.example; keydata=" + base64.StdEncoding.EncodeToString(pgp.public(t, "weak")) + "\r\n" + head + "\r\n", false},
		{"a private key", "Autocrypt: addr=romeo@montague.example; keydata=" + secret + "\r\n" + head + "\r\n", false},
		{"garbage", "Autocrypt: addr=romeo@montague.example; keydata=!\r\n" + head + "\r\n", false},
	} {
		b := book(t, Config{})
		l := NewLearner(LearnConfig{Store: b.conf.Store, Autocrypt: true, Log: slog.New(slog.DiscardHandler)})
		l.Permitted(t.Context(), address(t, juliet), address(t, romeo), evidence(c.message))
		keys, err := b.conf.Store.ContactKeys(t.Context(), juliet, romeo)
		if err != nil || (len(keys) == 1) != c.learnt || c.learnt && (keys[0].Origin != store.FromMail || keys[0].Fingerprint != pgp.fingerprint(t, "romeo")) {
			t.Errorf("%s: got %+v, %v", c.what, keys, err)
		}
	}
}

// TestLearn: a directory is asked once a day, and never where somebody has
// imported a key.
func TestLearn(t *testing.T) {
	key := pgp.public(t, "romeo")
	var asked atomic.Int32
	roots, dial := site(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		w.Write(key)
	}))
	imported := pgp.key(t, "romeo rsa")
	imported.Owner = "nurse@capulet.example"
	b := book(t, Config{}, imported)
	l := NewLearner(LearnConfig{Store: b.conf.Store, Autocrypt: true, Log: slog.New(slog.DiscardHandler),
		Directory: NewDirectory(DirectoryConfig{DNS: names{"montague.example"}, Roots: roots, Dial: dial})})
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); l.Run(ctx) }()
	for range 3 {
		l.Permitted(t.Context(), address(t, "Juliet@capulet.example"), address(t, romeo), evidence(head+"\r\n"))
		l.Permitted(t.Context(), address(t, "nurse@capulet.example"), address(t, romeo), evidence(head+"\r\n"))
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		keys, err := b.conf.Store.ContactKeys(t.Context(), juliet, romeo)
		if err != nil {
			t.Fatal(err)
		}
		if len(keys) == 1 && keys[0].Origin == store.FromDirectory {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("got %+v", keys)
		}
	}
	stop()
	<-ended
	if n := asked.Load(); n != 1 || len(l.jobs) != 0 {
		t.Errorf("asked %d times, %d waiting", n, len(l.jobs))
	}
	keys, err := b.conf.Store.ContactKeys(t.Context(), "nurse@capulet.example", romeo)
	if err != nil || len(keys) != 1 || keys[0].Learnt() {
		t.Errorf("got %+v, %v", keys, err)
	}
	// Nobody takes them any more, and nobody waits for that.
	for i := range 3 * learnWaiting {
		l.Permitted(t.Context(), address(t, juliet), mail.Address{Local: fmt.Sprint(i), Domain: "verona.example"}, evidence(head+"\r\n"))
	}
}

func FuzzAutocrypt(f *testing.F) {
	f.Add("addr=romeo@montague.example; prefer-encrypt=mutual; keydata=mDMEZ")
	f.Add("addr=;keydata=;;=")
	f.Fuzz(func(t *testing.T, value string) {
		if data, ok := autocryptField(value, romeo); ok && len(data) == 0 {
			t.Error("a key without octets")
		}
	})
}
