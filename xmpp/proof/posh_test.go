package proof

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
)

const poshPath = "/.well-known/posh/xmpp-server.json"

// site answers for any host with a handler, over TLS.
type site struct {
	addr string
	hits atomic.Int32
}

func startSite(t testing.TB, cert *issued, handle http.HandlerFunc) *site {
	t.Helper()
	s := &site{}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.hits.Add(1)
		handle(w, r)
	}))
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{*cert.tls()}}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	s.addr = srv.Listener.Addr().String()
	return s
}

// dial leads every connection to the site.
func (s *site) dial(ctx context.Context, network, _ string) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, network, s.addr)
}

func b64(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

func sum256(c *issued) string { s := sha256.Sum256(c.cert.Raw); return b64(s[:]) }

func sum512(c *issued) string { s := sha512.Sum512(c.cert.Raw); return b64(s[:]) }

func publish(expires string, certs ...*issued) string {
	var list []string
	for _, c := range certs {
		list = append(list, fmt.Sprintf(`{"sha-256":"%s","sha-512":"%s"}`, sum256(c), sum512(c)))
	}
	return fmt.Sprintf(`{"fingerprints":[%s],"expires":%s}`, strings.Join(list, ","), expires)
}

// serve writes bodies by "host path"; a body that begins with "> " is the
// place of an HTTP redirect.
func serve(bodies map[string]string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, ok := bodies[r.Host+" "+r.URL.Path]
		to, redirect := strings.CutPrefix(body, "> ")
		switch {
		case !ok:
			http.NotFound(w, r)
		case redirect:
			http.Redirect(w, r, to, http.StatusFound)
		default:
			w.Write([]byte(body))
		}
	}
}

func TestPOSH(t *testing.T) {
	ca := authority(t, nil)
	web := sign(t, template(t, "montague.example", "hoster.example"), newKey(t), ca)
	peer, other, old := selfSigned(t, "x"), selfSigned(t, "montague.example"), outOfDate(t, "x")
	const at = "montague.example " + poshPath
	const away = "https://hoster.example/posh.json"
	const url = "https://montague.example" + poshPath
	for _, c := range []struct {
		name      string
		bodies    map[string]string
		cert, web *issued
		want, why string
	}{
		{name: "published", bodies: map[string]string{at: publish("600", peer)}, want: "posh"},
		{name: "one of two", bodies: map[string]string{at: publish("600", other, peer)}, want: "posh"},
		{name: "by sha-256 alone", bodies: map[string]string{at: `{"fingerprints":[{"sha-256":"` + sum256(peer) + `","md5":"x"}],"expires":1}`}, want: "posh"},
		{name: "by sha-512 alone", bodies: map[string]string{at: `{"fingerprints":[{"sha-512":"` + sum512(peer) + `"}],"expires":1e9}`}, want: "posh"},
		{name: "hashes of two certificates in one", bodies: map[string]string{at: `{"fingerprints":[{"sha-256":"` + sum256(peer) + `","sha-512":"` + sum512(other) + `"}],"expires":9}`},
			why: "certificate is none of the 1 published"},
		{name: "another certificate", bodies: map[string]string{at: publish("600", other)}, why: "posh at " + url + ": certificate is none of the 1 published"},
		{name: "expired certificate", bodies: map[string]string{at: publish("600", old)}, cert: old, why: "posh: certificate has expired"},
		{name: "no document", bodies: nil, why: "posh at " + url + ": status 404"},
		{name: "document expired", bodies: map[string]string{at: publish("0", peer)}, why: "expires is not positive"},
		{name: "document without expiry", bodies: map[string]string{at: `{"fingerprints":[{"sha-256":"` + sum256(peer) + `"}]}`}, why: "expires is not a number"},
		{name: "document too long", bodies: map[string]string{at: publish("600", peer) + strings.Repeat(" ", maxDocument)}, why: "longer than 65536 octets"},
		{name: "page instead", bodies: map[string]string{at: "<html></html>"}, why: "not a JSON object"},
		{name: "site of another name", web: sign(t, template(t, "mallory.example"), newKey(t), ca), bodies: map[string]string{at: publish("600", peer)},
			why: "certificate is valid for mallory.example, not montague.example"},
		{name: "site with a self-signed certificate", web: selfSigned(t, "montague.example"), bodies: map[string]string{at: publish("600", peer)},
			why: "certificate"},
		{name: "site with an expired certificate", web: outOfDate(t, "montague.example"), bodies: map[string]string{at: publish("600", peer)},
			why: "certificate"},
		{name: "elsewhere", bodies: map[string]string{at: `{"url":"` + away + `","expires":600}`, "hoster.example /posh.json": publish("600", peer)}, want: "posh"},
		{name: "elsewhere, another certificate", bodies: map[string]string{at: `{"url":"` + away + `","expires":600}`, "hoster.example /posh.json": publish("600", other)},
			why: "posh at " + away + ": certificate is none"},
		{name: "elsewhere and on", bodies: map[string]string{at: `{"url":"` + away + `","expires":600}`, "hoster.example /posh.json": `{"url":"https://montague.example/x","expires":600}`},
			why: "points to a third document"},
		{name: "elsewhere without TLS", bodies: map[string]string{at: `{"url":"http://hoster.example/posh.json","expires":600}`}, why: "want https on its own port"},
		{name: "elsewhere at another port", bodies: map[string]string{at: `{"url":"https://hoster.example:25/","expires":600}`}, why: "want https on its own port"},
		{name: "elsewhere, wrong name there", bodies: map[string]string{at: `{"url":"https://evil.example/posh.json","expires":600}`, "evil.example /posh.json": publish("600", peer)},
			why: "not evil.example"},
		{name: "redirected", bodies: map[string]string{at: "> " + away, "hoster.example /posh.json": publish("600", peer)}, want: "posh"},
		{name: "redirected off TLS", bodies: map[string]string{at: "> http://hoster.example/posh.json"}, why: "want https on its own port"},
		{name: "redirected for ever", bodies: map[string]string{at: "> " + url}, why: "too many redirects"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.web == nil {
				c.web = web
			}
			if c.cert == nil {
				c.cert = peer
			}
			s := startSite(t, c.web, serve(c.bodies))
			p := newProver(t, Config{POSH: true, Roots: ca.pool(), Dial: s.dial})
			for _, e := range []string{"accepted", "dialled"} {
				ev := accepted(c.cert)
				if e == "dialled" {
					ev = dialled(c.cert, "xmpp.hoster.example", 5269)
				}
				proof, err := p.Prove(patience(t), ev)
				check(t, proof, err, c.want, c.why)
			}
			if n := p.Snapshot().Fetches; n > 1 {
				t.Errorf("fetched %d times for two streams", n)
			}
			if s.hits.Load() > maxRedirects+1 {
				t.Error("requests:", s.hits.Load())
			}
		})
	}
}
