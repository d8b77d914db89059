package smtpbridge

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"mime/multipart"
	"net"
	"net/http"
	"net/http/httptest"
	netmail "net/mail"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
	"mailxmppd/store/sqlite"
)

// reporting is a reporter over a real store, with what it has sent by mail.
type reporting struct {
	*TLSReporter
	store *sqlite.Store

	mu     sync.Mutex
	mails  []*mail.Message
	raw    []string
	refuse *mail.Failure
}

func newReporting(t *testing.T, d fakeDNS) *reporting {
	t.Helper()
	st, err := sqlite.Open(t.Context(), sqlite.Config{Path: filepath.Join(t.TempDir(), "mail.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	r := &reporting{store: st}
	r.TLSReporter = NewTLSReporter(TLSReporterConfig{
		Store: st, Client: ClientConfig{DNS: d}, Log: slog.New(slog.DiscardHandler),
		Who:    Reporter{Organization: "Capulet", Domain: "capulet.example", Contact: "tls@capulet.example"},
		Submit: r.submit,
	})
	return r
}

func (r *reporting) submit(_ context.Context, m *mail.Message) *mail.Failure {
	in, err := m.Content.Open()
	if err != nil {
		return mail.AsFailure(err)
	}
	defer in.Close()
	raw, err := io.ReadAll(in)
	if err != nil {
		return mail.AsFailure(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mails, r.raw = append(r.mails, m), append(r.raw, string(raw))
	return r.refuse
}

const reportDay = "2026-03-04"

// record adds a success and a failure of a domain, due since an hour.
func (r *reporting) record(t *testing.T, domain string) {
	t.Helper()
	at, _ := time.Parse(time.DateOnly, reportDay)
	book := NewReportBook()
	book.RecordTLS(TLSResult{At: at, Domain: domain, PolicyType: reportSTS, Policy: []string{"mode: testing"}})
	book.RecordTLS(TLSResult{At: at, Domain: domain, PolicyType: reportSTS, Policy: []string{"mode: testing"}, Failure: resultExpired, MXHost: "mx." + domain})
	for _, d := range book.Take(time.Time{}) {
		stored, err := d.stored()
		if err != nil {
			t.Fatal(err)
		}
		stored.Due = time.Now().Add(-time.Hour)
		if err := r.store.AddTLS(t.Context(), []store.TLSDay{stored}); err != nil {
			t.Fatal(err)
		}
	}
}

// state is what the store says of a domain's report.
func (r *reporting) state(t *testing.T, domain string) store.TLSDay {
	t.Helper()
	days, err := r.store.TLSDays(t.Context(), reportDay, domain)
	if err != nil || len(days) != 1 {
		t.Fatalf("%v, %v", days, err)
	}
	return days[0]
}

// unpack reads a report file.
func unpack(t *testing.T, b []byte) (report map[string]any) {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err == nil {
		err = json.NewDecoder(z).Decode(&report)
	}
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// TestReportByMail: one message in the form of RFC 8460 section 5.3, once.
func TestReportByMail(t *testing.T) {
	r := newReporting(t, fakeDNS{txt: map[string][]string{"_smtp._tls.a.example": {"v=TLSRPTv1; rua=mailto:tls%2Bin@a.example"}}})
	r.record(t, "a.example")
	r.sendDue(t.Context())
	r.sendDue(t.Context())
	if len(r.raw) != 1 {
		t.Fatalf("%d messages", len(r.raw))
	}
	env := r.mails[0].Envelope
	if env.Sender.String() != "tls@capulet.example" || env.Recipients[0].Address.String() != "tls+in@a.example" || env.Recipients[0].Notify != mail.NotifyNever {
		t.Errorf("%+v", env)
	}
	day := r.state(t, "a.example")
	if day.State != store.TLSSent || day.Said != "mailto:tls%2Bin@a.example" {
		t.Errorf("%+v", day)
	}
	m, err := netmail.ReadMessage(strings.NewReader(r.raw[0]))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"From": "<tls@capulet.example>", "To": "<tls+in@a.example>", "TLS-Report-Domain": "a.example", "TLS-Report-Submitter": "capulet.example",
		"TLS-Required": "No", "Subject": "Report Domain: a.example Submitter: capulet.example Report-ID: <" + day.ID + ">",
	} {
		if got := m.Header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	kind, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/report" || params["report-type"] != "tlsrpt" {
		t.Errorf("%s %v %v", kind, params, err)
	}
	parts := multipart.NewReader(m.Body, params["boundary"])
	if text, err := parts.NextPart(); err != nil || !strings.HasPrefix(text.Header.Get("Content-Type"), "text/plain") {
		t.Errorf("first part: %v", err)
	}
	file, err := parts.NextPart()
	if err != nil || file.Header.Get("Content-Type") != "application/tlsrpt+gzip" || !strings.HasSuffix(file.FileName(), ".json.gz") {
		t.Fatalf("second part: %v", err)
	}
	packed, err := io.ReadAll(base64.NewDecoder(base64.StdEncoding, file))
	if err != nil {
		t.Fatal(err)
	}
	report := unpack(t, packed)
	if report["report-id"] != day.ID || !strings.Contains(fmt.Sprint(report), "certificate-expired") || strings.Contains(r.raw[0], "\n\n") {
		t.Errorf("%v", report)
	}
	for line := range strings.Lines(r.raw[0]) {
		if !strings.HasSuffix(line, "\r\n") || len(line) > 400 {
			t.Errorf("line %q", line)
		}
	}
}

// TestReportStates: nobody who wants it, nobody who takes it, and the end of
// trying.
func TestReportStates(t *testing.T) {
	r := newReporting(t, fakeDNS{
		txt:     map[string][]string{"_smtp._tls.down.example": {"v=TLSRPTv1; rua=mailto:x@down.example"}, "_smtp._tls.odd.example": {"v=TLSRPTv1"}},
		failing: map[string]bool{"TXT _smtp._tls.dns.example": true},
	})
	r.refuse = mail.Fail(mail.ResourceShort, "", nil)
	for _, domain := range []string{"none.example", "odd.example", "down.example", "dns.example"} {
		r.record(t, domain)
	}
	r.sendDue(t.Context())
	for domain, want := range map[string]store.TLSState{
		"none.example": store.TLSUnwanted, "odd.example": store.TLSUnwanted, "down.example": store.TLSWaiting, "dns.example": store.TLSWaiting,
	} {
		if d := r.state(t, domain); d.State != want || d.Tries != 1 {
			t.Errorf("%s: %+v", domain, d)
		}
	}
	stopped, stop := context.WithCancel(t.Context())
	stop()
	r.settle(stopped, r.state(t, "none.example"), store.TLSFailed, "", 0) // is over: refused

	old := NewReportBook()
	at, _ := time.Parse(time.DateOnly, "2026-03-01")
	old.RecordTLS(TLSResult{At: at, Domain: "down.example", PolicyType: reportNoPolicy})
	r.book.Add(old.Take(time.Time{})[0])
	r.flush(t.Context())
	r.sendDue(t.Context())
	if days, err := r.store.TLSDays(t.Context(), "2026-03-01", ""); err != nil || days[0].State != store.TLSFailed {
		t.Errorf("after a day: %+v, %v", days, err)
	}
}

// TestReportByPost: HTTPS to public addresses only, any 2xx is success.
func TestReportByPost(t *testing.T) {
	pair, pool := serverCertificate(t)
	var mu sync.Mutex
	var got []byte
	status := http.StatusCreated
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		body, _ := io.ReadAll(req.Body)
		if got = body; req.Header.Get("Content-Type") != reportType || req.Method != http.MethodPost {
			status = http.StatusUnsupportedMediaType
		}
		w.WriteHeader(status)
	}))
	srv.TLS = &tls.Config{Certificates: pair.Certificates}
	srv.Config.ErrorLog = quietLog()
	srv.StartTLS()
	t.Cleanup(srv.Close)
	_, port, _ := net.SplitHostPort(srv.Listener.Addr().String())
	target := "https://localhost:" + port + "/report"
	r := newReporting(t, fakeDNS{
		addrs: map[string][]string{"localhost": {"127.0.0.1"}},
		txt:   map[string][]string{"_smtp._tls.a.example": {"v=TLSRPTv1; rua=" + target}, "_smtp._tls.b.example": {"v=TLSRPTv1; rua=" + target}},
	})
	r.cfg.Client.Roots = pool
	r.record(t, "a.example")
	r.sendDue(t.Context())
	if d := r.state(t, "a.example"); d.State != store.TLSWaiting || !strings.Contains(d.Said, "no public address") || got != nil {
		t.Errorf("to ourselves: %+v", d)
	}
	r.post = newReportPoster(r.cfg.Client, func(netip.Addr) bool { return false })
	r.record(t, "b.example")
	r.sendDue(t.Context())
	if d := r.state(t, "b.example"); d.State != store.TLSSent || unpack(t, got)["report-id"] != d.ID {
		t.Errorf("%+v", d)
	}
	status = http.StatusFound
	if err := postReport(t.Context(), r.post, Report{}, target); err == nil {
		t.Error("a redirect is success")
	}
}

func TestInsideNetworks(t *testing.T) {
	for ip, want := range map[string]bool{
		"127.0.0.1": true, "10.1.2.3": true, "169.254.169.254": true, "::1": true, "fe80::1": true, "fd00::1": true, "0.0.0.0": true,
		"224.0.0.1": true, "192.0.2.1": false, "2001:db8::1": false,
	} {
		if got := insideNetworks(netip.MustParseAddr(ip)); got != want {
			t.Errorf("%s: %v", ip, got)
		}
	}
}

// TestReportsAreOneNodes: of several nodes each report is sent by one.
func TestReportsAreOneNodes(t *testing.T) {
	const nodes, domains = 4, 20
	txt := map[string][]string{}
	for i := range domains {
		txt[fmt.Sprintf("_smtp._tls.d%d.example", i)] = []string{"v=TLSRPTv1; rua=mailto:x@a.example"}
	}
	r := newReporting(t, fakeDNS{txt: txt})
	for i := range domains {
		r.record(t, fmt.Sprintf("d%d.example", i))
	}
	var all sync.WaitGroup
	for range nodes {
		all.Go(func() { r.sendDue(t.Context()) })
	}
	all.Wait()
	if len(r.mails) != domains {
		t.Errorf("%d reports", len(r.mails))
	}
}

// TestReporterRuns: what was recorded is in the store once Run has ended.
func TestReporterRuns(t *testing.T) {
	r := newReporting(t, fakeDNS{})
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { r.Run(ctx); close(done) }()
	now := time.Now()
	r.RecordTLS(TLSResult{At: now, Domain: "a.example", PolicyType: reportNoPolicy})
	r.RecordTLS(TLSResult{At: now, Domain: "a.example", PolicyType: reportTLSA, Policy: []string{"3 1 1 aa"}, Failure: resultTLSAInvalid, MXHost: "mx"})
	stop()
	<-done
	days, err := r.store.TLSDays(t.Context(), now.UTC().Format(time.DateOnly), "")
	if err != nil || len(days) != 1 {
		t.Fatalf("%v, %v", days, err)
	}
	got := ReadTLSDay(days[0])
	if len(got.Policies) != 2 || got.Policies[0].Successes+got.Policies[1].Successes != 1 || got.Policies[0].Failures+got.Policies[1].Failures != 1 {
		t.Errorf("%+v", got)
	}
	if _, ok, err := r.store.ClaimTLSReport(t.Context(), "x", time.Hour); ok || err != nil {
		t.Errorf("the day that is not over is due: %v", err)
	}
}

// TestPlainTrouble: the same fault gives the same words.
func TestPlainTrouble(t *testing.T) {
	dial := func(port int) error {
		return fmt.Errorf("Get: %w", &net.OpError{Op: "read", Net: "tcp", Source: &net.TCPAddr{Port: port}, Err: errors.New("connection reset")})
	}
	if a, b := plainTrouble(dial(1)), plainTrouble(dial(2)); a != b || a != "read: connection reset" {
		t.Errorf("%q, %q", a, b)
	}
}
