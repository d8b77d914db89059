package peers

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"mailxmppd/mail"
	"mailxmppd/xmpp/transfer"
)

const withdrawalBody = `{"` + transfer.Namespace + `": {"policy": "none"}}`

// TestWithdrawal: a domain that is held for and cannot be reached is asked
// once, by verified HTTPS, and only the very document ends what it holds.
func TestWithdrawal(t *testing.T) {
	ca, stranger := newAuthority(t), newAuthority(t)
	roots := x509.NewCertPool()
	roots.AddCert(ca.cert)
	serve := func(status int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != withdrawalPath || r.Host != "montague.example" {
				t.Errorf("asked for %s at %s", r.URL.Path, r.Host)
			}
			w.WriteHeader(status)
			w.Write([]byte(body))
		}
	}
	good := ca.issue(t, "montague.example")
	for _, c := range []struct {
		name    string
		cert    *tls.Certificate
		handler http.HandlerFunc
		known   func(*known, time.Time)
		peers   []Configured
		service string
		asked   int32
		want    mail.Standing
	}{
		{"pinned", good, serve(200, withdrawalBody), pinnedAt(atServer, 60*day), nil, "", 1, mail.Legacy},
		{"seen", good, serve(200, withdrawalBody), sightedAt(atServer), nil, serverService, 1, mail.Legacy},
		{"announced still", good, serve(200, withdrawalBody), pinnedAt(atMail, 60*day), nil, mailService, 1, mail.Peer},
		{"required", good, serve(200, withdrawalBody), pinnedAt(atServer, 60*day), []Configured{{Domain: "montague.example"}}, "", 0, mail.Peer},
		{"not there", good, serve(404, withdrawalBody), pinnedAt(atServer, 60*day), nil, "", 1, mail.Peer},
		{"another document", good, serve(200, `{"policy":"none"}`), pinnedAt(atServer, 60*day), nil, "", 1, mail.Peer},
		{"too long", good, serve(200, withdrawalBody+strings.Repeat(" ", maxWithdrawal)), pinnedAt(atServer, 60*day), nil, "", 1, mail.Peer},
		{"redirect", good, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://montague.example/elsewhere", http.StatusFound)
		}, pinnedAt(atServer, 60*day), nil, "", 1, mail.Peer},
		{"certificate of a stranger", stranger.issue(t, "montague.example"), serve(200, withdrawalBody), pinnedAt(atServer, 60*day), nil, "", 0, mail.Peer},
		{"certificate of another name", ca.issue(t, "www.montague.example"), serve(200, withdrawalBody), pinnedAt(atServer, 60*day), nil, "", 0, mail.Peer},
	} {
		t.Run(c.name, func(t *testing.T) {
			var dialled, asked atomic.Int32
			srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked.Add(1)
				c.handler(w, r)
			}))
			srv.TLS = &tls.Config{Certificates: []tls.Certificate{*c.cert}}
			srv.Config.ErrorLog = quiet()
			srv.StartTLS()
			defer srv.Close()
			x := newSetup(t)
			x.change = func(cfg *Config) {
				cfg.Roots = roots
				cfg.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
					if address != "montague.example:443" {
						t.Errorf("dialled %s", address)
					}
					dialled.Add(1)
					var d net.Dialer
					return d.DialContext(ctx, network, srv.Listener.Addr().String())
				}
			}
			x.again(c.peers...)
			x.store.put("montague.example", day, c.known)
			if c.service != "" {
				x.service(c.service)
			}
			x.streams.err = errTLS
			for range 3 {
				if x.link(t) == "" {
					t.Fatal("a link")
				}
			}
			x.dir.running.Wait()
			if got := x.standing(t); got != c.want || asked.Load() != c.asked {
				t.Errorf("standing %v, want %v; asked %d times", got, c.want, asked.Load())
			}
			if n := dialled.Load(); n > 1 {
				t.Errorf("dialled %d times within the hour", n)
			}
		})
	}
}

func TestWithdrawalsAreBounded(t *testing.T) {
	w := withdrawals{turns: make(chan struct{}, withdrawalsAtOnce), asked: map[string]time.Time{}}
	taken := 0
	for i := range 100 {
		if w.may(string(rune('a'+i)) + ".example") {
			taken++
		}
	}
	if taken != withdrawalsAtOnce {
		t.Errorf("%d at once", taken)
	}
	w.asked["a.example"] = time.Now().Add(-withdrawalPause)
	<-w.turns
	if !w.may("a.example") {
		t.Error("not asked again after an hour")
	}
}

func TestIsWithdrawal(t *testing.T) {
	for body, want := range map[string]bool{
		withdrawalBody: true,
		`{"other":1,"` + transfer.Namespace + `":{"since":"today","policy":"none"}}`: true,
		`{"` + transfer.Namespace + `":{"policy":"None"}}`:                           false,
		`{"` + transfer.Namespace + `":{"Policy":"none"}}`:                           false,
		`{"` + strings.ToUpper(transfer.Namespace) + `":{"policy":"none"}}`:          false,
		`{"` + transfer.Namespace + `":{"policy":["none"]}}`:                         false,
		`{"` + transfer.Namespace + `":"none"}`:                                      false,
		`{"` + transfer.Namespace + `":null}`:                                        false,
		`[` + withdrawalBody + `]`:                                                   false,
		withdrawalBody + `x`:                                                         false,
		``:                                                                           false,
	} {
		if isWithdrawal([]byte(body)) != want {
			t.Errorf("%s is not %v", body, want)
		}
	}
}

func FuzzIsWithdrawal(f *testing.F) {
	f.Add([]byte(withdrawalBody))
	f.Add([]byte(`{"` + transfer.Namespace + `":{"policy":"testing"}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		if isWithdrawal(body) && (len(body) > maxWithdrawal || !strings.Contains(string(body), "none") && !strings.Contains(string(body), `\u`)) {
			t.Errorf("%q is a withdrawal", body)
		}
	})
}
