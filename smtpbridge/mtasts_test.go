package smtpbridge

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

func addrsOf(in ...string) (out []netip.Addr) {
	for _, s := range in {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

func TestSTSRecord(t *testing.T) {
	for _, c := range []struct {
		records []string
		id      string // "": none
	}{
		{[]string{"v=STSv1; id=20260102T030405;"}, "20260102T030405"},
		{[]string{"v=STSv1;id=a"}, "a"},
		{[]string{"v=STSv1 ; id = a ; x=y"}, "a"},
		{[]string{"v=spf1 -all", "v=STSv1; id=a"}, "a"},
		{[]string{"v=STSv1; id=a", "v=STSv1; id=a"}, ""},
		{[]string{"v=STSv1; id=a", "v=STSv1; x"}, ""},
		{[]string{"v=STSv2; id=a"}, ""},
		{[]string{"v=STSv1"}, ""},
		{[]string{"v=STSv1;"}, ""},
		{[]string{"v=STSv1; id="}, ""},
		{[]string{"v=STSv1; id=a b"}, ""},
		{[]string{"v=STSv1; id=a-b"}, ""},
		{[]string{"v=STSv1; id=" + strings.Repeat("a", 33)}, ""},
		{[]string{"v=STSv1; id=a; id=b"}, "a"},
		{[]string{" v=STSv1; id=a"}, ""},
		{nil, ""},
	} {
		id, ok := stsRecordID(c.records)
		if ok != (c.id != "") || ok && id != c.id {
			t.Errorf("%q: %q, %v", c.records, id, ok)
		}
	}
}

func TestParseSTSPolicy(t *testing.T) {
	const head = "version: STSv1\r\nmode: enforce\r\nmax_age: 86400\r\n"
	for _, c := range []struct {
		name, in string
		err      string
		check    func(p *stsPolicy) bool
	}{
		{"whole", head + "mx: A.example\r\nmx: *.b.example\r\n", "", func(p *stsPolicy) bool {
			return p.Mode == stsEnforce && p.MaxAge == 24*time.Hour && slices.Equal(p.MX, []string{"a.example", "*.b.example"})
		}},
		{"LF", strings.ReplaceAll(head, "\r", "") + "mx: a.example", "", nil},
		{"space after the value", "version:STSv1 \nmode:  testing\nmax_age: 1\nmx:a.example\t\n", "", func(p *stsPolicy) bool { return p.Mode == stsTesting }},
		{"unknown keys", head + "mx: a.example\nfuture: 1\nfuture: 2\n", "", nil},
		{"the first of two counts", head + "mode: none\nmx: a.example\n", "", func(p *stsPolicy) bool { return p.Mode == stsEnforce }},
		{"none without mx", "version: STSv1\nmode: none\nmax_age: 1\n", "", nil},
		{"too long an age", "version: STSv1\nmode: none\nmax_age: 9999999999\n", "", func(p *stsPolicy) bool { return p.MaxAge == maxSTSAge*time.Second }},
		{"no mx", head, "no mx", nil},
		{"no mode", "version: STSv1\nmax_age: 1\nmx: a.example\n", "missing", nil},
		{"no age", "version: STSv1\nmode: enforce\nmx: a.example\n", "missing", nil},
		{"negative age", "version: STSv1\nmode: enforce\nmax_age: -1\nmx: a.example\n", "max_age", nil},
		{"version later", "mode: enforce\nversion: STSv1\nmax_age: 1\nmx: a.example\n", "version", nil},
		{"another version", "version: STSv2\nmode: enforce\nmax_age: 1\nmx: a.example\n", "version", nil},
		{"another mode", "version: STSv1\nmode: Enforce\nmax_age: 1\nmx: a.example\n", "mode", nil},
		{"a page", "<html>\n", "no field", nil},
		{"mx with two stars", head + "mx: *.*.example\n", "mx", nil},
		{"mx of a star", head + "mx: *\n", "mx", nil},
		{"mx with an inner star", head + "mx: a*.example\n", "mx", nil},
		{"mx literal", head + "mx: [192.0.2.1]\n", "mx", nil},
		{"too many mx", head + strings.Repeat("mx: a.example\n", maxSTSHosts+1), "more than", nil},
		{"empty", "", "missing", nil},
	} {
		p, err := parseSTSPolicy(c.in)
		switch {
		case c.err == "" && (err != nil || c.check != nil && !c.check(p)):
			t.Errorf("%s: %+v, %v", c.name, p, err)
		case c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)):
			t.Errorf("%s: error %v", c.name, err)
		}
	}
}

func TestSTSMatches(t *testing.T) {
	p := &stsPolicy{MX: []string{"mx.a.example", "*.b.example"}}
	for host, want := range map[string]bool{
		"mx.a.example": true, "MX.A.example": true, "a.example": false, "x.mx.a.example": false,
		"x.b.example": true, "b.example": false, "x.y.b.example": false, ".b.example": false, "xb.example": false, "": false,
	} {
		if got := p.matches(host); got != want {
			t.Errorf("%q: %v", host, got)
		}
	}
}

func FuzzSTS(f *testing.F) {
	f.Add("version: STSv1\nmode: enforce\nmax_age: 86400\nmx: *.a.example\n", "v=STSv1; id=1;")
	f.Add("version: STSv1\r\nmode: none\r\nmax_age: 1", "v=STSv1;id=")
	f.Fuzz(func(t *testing.T, file, record string) {
		if id, ok := stsRecordID([]string{record}); ok && (len(id) > 32 || id == "") {
			t.Fatalf("id %q", id)
		}
		p, err := parseSTSPolicy(file)
		if err != nil {
			return
		}
		if p.MaxAge < 0 || p.MaxAge > maxSTSAge*time.Second || len(p.MX) > maxSTSHosts || p.Mode != stsNone && len(p.MX) == 0 {
			t.Fatalf("%+v", p)
		}
		again, err := parseSTSPolicy(strings.Join(p.lines(), "\n"))
		if err != nil || again.Mode != p.Mode || again.MaxAge != p.MaxAge || !slices.Equal(again.MX, p.MX) {
			t.Fatalf("%+v came back as %+v, %v", p, again, err)
		}
	})
}

// policyFile is a policy host that serves one file, whatever its name is.
type policyFile struct {
	*httptest.Server
	mu      sync.Mutex
	handle  http.HandlerFunc
	fetches int
}

func startPolicyFile(t *testing.T, cert *tls.Config, text string) *policyFile {
	t.Helper()
	p := &policyFile{}
	p.set(text)
	p.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		p.fetches++
		handle := p.handle
		p.mu.Unlock()
		if !strings.HasPrefix(r.Host, "mta-sts.") || r.URL.Path != "/.well-known/mta-sts.txt" || r.Method != http.MethodGet {
			t.Errorf("asked for %s https://%s%s", r.Method, r.Host, r.URL)
		}
		handle(w, r)
	}))
	p.Server.Config.ErrorLog = quietLog()
	p.Server.TLS = cert.Clone()
	p.Server.StartTLS()
	t.Cleanup(p.Server.Close)
	return p
}

func (p *policyFile) set(text string) {
	p.serve(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		fmt.Fprint(w, text)
	})
}

func (p *policyFile) serve(handle http.HandlerFunc) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.handle = handle
}

func (p *policyFile) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.fetches
}

// dial leads every policy host here.
func (p *policyFile) dial(ctx context.Context, network, _ string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, network, p.Listener.Addr().String())
}

func noPolicyHost(context.Context, string, string) (net.Conn, error) {
	return nil, errors.New("nobody is to be asked")
}

const enforceFile = "version: STSv1\nmode: enforce\nmax_age: 604800\nmx: mx.dest.example\n"

// TestFetchPolicy: what a policy host may answer.
func TestFetchPolicy(t *testing.T) {
	ca := newTestCA(t)
	good := ca.issue(t, "mta-sts.dest.example")
	answer := func(status int, kind, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if kind != "" {
				w.Header().Set("Content-Type", kind)
			}
			w.Header().Set("Location", "https://mta-sts.dest.example/.well-known/mta-sts.txt?again")
			w.WriteHeader(status)
			fmt.Fprint(w, body)
		}
	}
	for _, c := range []struct {
		name   string
		cert   *tls.Config
		handle http.HandlerFunc
		result string
	}{
		{"good", good, answer(200, "text/plain", enforceFile), ""},
		{"with parameters", good, answer(200, "Text/Plain; charset=us-ascii", enforceFile), ""},
		{"redirect", good, answer(302, "text/plain", enforceFile), resultSTSFetch},
		{"not found", good, answer(404, "text/plain", enforceFile), resultSTSFetch},
		{"a page", good, answer(200, "text/html", enforceFile), resultSTSInvalid},
		{"no policy", good, answer(200, "text/plain", "hello\n"), resultSTSInvalid},
		{"too large", good, answer(200, "text/plain", enforceFile+strings.Repeat("x: y\n", maxSTSBody/5)), resultSTSInvalid},
		{"too large a header", good, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X", strings.Repeat("x", 32<<10))
			answer(200, "text/plain", enforceFile)(w, nil)
		}, resultSTSFetch},
		{"silence", good, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, resultSTSFetch},
		{"endless", good, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			for r.Context().Err() == nil {
				if _, err := fmt.Fprint(w, strings.Repeat("x: y\n", 1000)); err != nil {
					return
				}
			}
		}, resultSTSInvalid},
		{"cut short", good, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			w.Header().Set("Content-Length", "1000")
			fmt.Fprint(w, enforceFile)
		}, resultSTSFetch},
		{"certificate for another name", ca.issue(t, "dest.example"), answer(200, "text/plain", enforceFile), resultSTSWebPKI},
		{"expired certificate", ca.issueUntil(t, time.Now().Add(-time.Hour), "mta-sts.dest.example"), answer(200, "text/plain", enforceFile), resultSTSWebPKI},
		{"unknown CA", newTestCA(t).issue(t, "mta-sts.dest.example"), answer(200, "text/plain", enforceFile), resultSTSWebPKI},
	} {
		t.Run(c.name, func(t *testing.T) {
			file := startPolicyFile(t, c.cert, "")
			file.serve(c.handle)
			cfg := ClientConfig{Roots: ca.pool, PolicyDial: file.dial, Timeouts: ClientTimeouts{Policy: 5 * time.Second}}
			if c.name == "silence" {
				cfg.Timeouts.Policy = 100 * time.Millisecond
			}
			policy, trouble := fetchSTS(t.Context(), newSTSClient(cfg.withDefaults()), "dest.example")
			switch {
			case c.result == "" && (trouble != nil || policy.Mode != stsEnforce):
				t.Errorf("%+v, %v", policy, trouble)
			case c.result != "" && (trouble == nil || trouble.result != c.result):
				t.Errorf("%+v, %v; want %s", policy, trouble, c.result)
			}
			if n := file.count(); n > 1 {
				t.Errorf("%d requests", n)
			}
		})
	}
	t.Run("by our own DNS", func(t *testing.T) {
		file := startPolicyFile(t, good, enforceFile)
		_, port, _ := net.SplitHostPort(file.Listener.Addr().String())
		d := fakeDNS{addrs: map[string][]string{"mta-sts.dest.example": {"127.0.0.1"}}}
		dial := policyDialer(ClientConfig{DNS: d}.withDefaults(), new(net.Dialer))
		conn, err := dial(t.Context(), "tcp", "mta-sts.dest.example:"+port)
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
		if _, err := dial(t.Context(), "tcp", "mta-sts.nowhere.example:"+port); err == nil {
			t.Error("a host that does not exist was reached")
		}
	})
}

// memoryPolicies is a PolicyStore.
type memoryPolicies struct {
	mu   sync.Mutex
	data map[string][]byte
	fail bool
}

func (m *memoryPolicies) GetPolicy(_ context.Context, domain string) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail {
		return nil, errors.New("store is down")
	}
	return m.data[domain], nil
}

func (m *memoryPolicies) PutPolicy(_ context.Context, domain string, policy []byte, expires time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail || expires.IsZero() {
		return errors.New("store is down")
	}
	m.data[domain] = policy
	return nil
}

// TestPolicyCache follows one domain's policy through its life.
func TestPolicyCache(t *testing.T) {
	ca := newTestCA(t)
	file := startPolicyFile(t, ca.issue(t, "mta-sts.dest.example"), enforceFile)
	policies := &memoryPolicies{data: map[string][]byte{}}
	d := fakeDNS{txt: map[string][]string{"_mta-sts.dest.example": {"v=STSv1; id=1"}}, failing: map[string]bool{}}
	now := time.Now()
	make := func(store PolicyStore) *stsCache {
		c := newSTSCache(ClientConfig{DNS: d, Roots: ca.pool, PolicyDial: file.dial, Policies: store}.withDefaults())
		c.now = func() time.Time { return now }
		t.Cleanup(c.close)
		return c
	}
	const inBackground = -1 // a fetch may be under way
	c := make(policies)
	step := func(what string, c *stsCache, id, trouble string, fetches int) {
		t.Helper()
		policy, tr, err := c.policy(t.Context(), "dest.example")
		gotID, gotTrouble := "", ""
		if policy != nil {
			gotID = policy.ID
		}
		if tr != nil {
			gotTrouble = tr.result
		}
		if err != nil || gotID != id || gotTrouble != trouble || fetches != inBackground && file.count() != fetches {
			t.Errorf("%s: policy %q, trouble %q, %d fetches, %v", what, gotID, gotTrouble, file.count(), err)
		}
	}
	step("first", c, "1", "", 1)
	step("remembered", c, "1", "", 1)
	step("after a restart", make(policies), "1", "", 1)
	step("without a store", make(nil), "1", "", 2)
	step("with a store that fails", make(&memoryPolicies{fail: true}), "1", "", 3)

	d.failing["TXT _mta-sts.dest.example"] = true
	step("DNS fails", c, "1", "", 3)
	unread := make(&memoryPolicies{fail: true})
	if policy, _, err := unread.policy(t.Context(), "dest.example"); err == nil {
		t.Errorf("nobody can tell whether there is a policy in force, and it is said to be %v", policy)
	}
	delete(d.failing, "TXT _mta-sts.dest.example")
	d.txt["_mta-sts.dest.example"] = nil
	step("the record is gone", c, "1", "", 3)
	d.txt["_mta-sts.dest.example"] = []string{"v=STSv1; id=2"}
	file.set("broken")
	step("a new one that is broken", c, "1", resultSTSInvalid, 4)
	step("is not asked for again at once", c, "1", resultSTSInvalid, 4)
	now = now.Add(stsRetry)
	step("but after a while", c, "1", resultSTSInvalid, 5)
	now = now.Add(stsRetry)
	file.set(enforceFile)
	step("a new one", c, "2", "", 6)

	now = now.Add(stsRefresh + time.Minute)
	step("old enough for another look", c, "2", "", inBackground)
	c.refreshes.Wait()
	step("which is not made twice", c, "2", "", 7)

	d.failing["TXT _mta-sts.dest.example"] = true
	now = now.Add(stsRefresh + time.Minute)
	step("old enough while DNS is kept from us", c, "2", "", inBackground)
	c.refreshes.Wait()
	step("which was fetched all the same", c, "2", "", 8)
	delete(d.failing, "TXT _mta-sts.dest.example")

	file.set("broken")
	now = now.Add(7*24*time.Hour - stsRefresh)
	step("another that fails", c, "2", "", inBackground)
	c.refreshes.Wait()
	now = now.Add(8 * 24 * time.Hour)
	step("expired, and not to be had", c, "", resultSTSInvalid, 10)
	d.txt["_mta-sts.dest.example"] = []string{"v=STSv1; id=3"}
	file.set("version: STSv1\nmode: none\nmax_age: 86400\n")
	step("withdrawn", c, "3", "", 11)

	if policy, trouble, err := c.policy(t.Context(), "other.example"); policy != nil || trouble != nil || err != nil {
		t.Errorf("a domain without one: %v, %v, %v", policy, trouble, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := c.policy(ctx, "fourth.example"); err == nil {
		t.Error("no error though nobody waited")
	}
	for i := range maxSTSDomains + 100 {
		c.entry(fmt.Sprint(i))
	}
	if len(c.domains) > maxSTSDomains {
		t.Errorf("%d domains in memory", len(c.domains))
	}
}
