package tlspolicy

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	netmail "net/mail"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mailxmppd/lab/harness"
	"mailxmppd/store"
	"mailxmppd/store/sqlite"
)

// shown is what "mailxmppd tlsreport --json" prints of a domain.
type shown struct {
	Domain   string `json:"domain"`
	State    string `json:"state"`
	ReportID string `json:"report_id"`
	Policies []struct {
		Type    string `json:"type"`
		OK      int64  `json:"ok"`
		Failed  int64  `json:"failed"`
		Details []struct {
			Result   string `json:"result"`
			Detail   string `json:"detail"`
			MXHost   string `json:"mx_host"`
			Sessions int64  `json:"sessions"`
		} `json:"details"`
	} `json:"policies"`
}

// verb runs one of the gateway's and reads what it prints.
func verb(t *testing.T, g *harness.Gateway, into any, args ...string) {
	t.Helper()
	out, err := exec.Command(g.Exe, append(args, "--json", "--config", g.Config)...).Output()
	if err == nil {
		err = json.Unmarshal(out, into)
	}
	if err != nil {
		t.Fatalf("%q: %v\n%s", args, err, out)
	}
}

// until polls for at most a minute.
func until(t *testing.T, what func() string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(what())
		}
	}
}

func subjects(s *harness.Sink) string {
	var all strings.Builder
	for _, m := range s.Got() {
		_, rest, _ := strings.Cut(m, "\r\nSubject: ")
		subject, _, _ := strings.Cut(rest, "\r\n")
		all.WriteString(subject + "\n")
	}
	return all.String()
}

// TestPolicies: what each domain asks of TLS is kept to, and the report of the
// day says exactly what went wrong.
func TestPolicies(t *testing.T) {
	exe, err := harness.Build(t.TempDir())
	must(t, err)
	n := newNetwork(t)
	dir, err := harness.ShortDir()
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	g := n.gateway(t, exe, dir)
	must(t, g.Start(t.Context()))
	c, err := harness.Dial(g.SMTP)
	must(t, err)
	defer c.Close()
	for _, d := range destinations() {
		content := fmt.Sprintf("From: juliet@home.example\r\nSubject: to %s\r\n\r\nhello\r\n", d.name)
		if said, err := c.Send("juliet@home.example", []string{"romeo@" + d.name}, harness.Stuff([]byte(content))); err != nil {
			t.Fatalf("%v %s", err, said)
		}
	}
	n.settled(t, g)
	day := time.Now().UTC().Format(time.DateOnly)
	must(t, g.Stop()) // with which it stores what it has counted
	n.arrived(t, g)
	n.reported(t, g, day)
	n.sendsReport(t, g, filepath.Join(dir, "mail.db"), day)
}

// settled waits until every message has been tried once.
func (n *network) settled(t *testing.T, g *harness.Gateway) {
	t.Helper()
	var list []store.Entry
	until(t, func() string { return fmt.Sprintf("%+v\n%s", list, n.dns.Log()) }, func() bool {
		verb(t, g, &list, "queue", "list", "--all")
		done := 0
		for _, e := range list {
			if e.State == store.Delivered || e.State == store.Deferred {
				done++
			}
		}
		return done == len(destinations())
	})
}

// arrived checks what came through, by which proof, and that nothing of the rest
// was said to anybody.
func (n *network) arrived(t *testing.T, g *harness.Gateway) {
	t.Helper()
	want := 0
	for _, d := range destinations() {
		if d.arrives {
			want++
		}
	}
	until(t, func() string { return "arrived: " + subjects(n.sink) }, func() bool { return n.sink.Count() >= want })
	for _, d := range destinations() {
		if got := strings.Contains(subjects(n.sink), "to "+d.name+"\n"); got != d.arrives {
			t.Errorf("%s: arrived %v", d.name, got)
		}
		for line := range strings.Lines(g.Log()) {
			if strings.Contains(line, "msg=delivered ") && strings.Contains(line, "@"+d.name+" ") && d.proof != "" && !strings.Contains(line, "proof="+d.proof) {
				t.Errorf("%s: %s", d.name, line)
			}
		}
		if d.arrives {
			continue
		}
		for ip, srv := range n.servers {
			if strings.Contains(srv.Log(), "@"+d.name) {
				t.Errorf("%s heard of mail to %s:\n%s", ip, d.name, srv.Log())
			}
		}
	}
	if log := n.servers[plainIP].Log(); strings.Contains(log, " mail=") {
		t.Errorf("in plain text:\n%s", log)
	}
}

// reported checks the counts of the day, domain by domain.
func (n *network) reported(t *testing.T, g *harness.Gateway, day string) {
	t.Helper()
	var all []shown
	verb(t, g, &all, "tlsreport", "--date", day)
	known := map[string]shown{}
	for _, d := range all {
		known[d.Domain] = d
	}
	for _, d := range destinations() {
		got := known[d.name]
		found := false
		for _, p := range got.Policies {
			switch {
			case p.Type != d.kind:
			case d.result == "":
				found = found || p.OK == 1 && p.Failed == 0
			default:
				found = found || p.Failed == 1 && len(p.Details) == 1 && p.Details[0].Result == d.result && p.Details[0].Detail != ""
			}
		}
		if !found {
			t.Errorf("%s: reported %+v, want %s %q", d.name, got, d.kind, d.result)
		}
	}
	if len(known) != len(destinations()) {
		t.Errorf("reports of %d domains", len(known))
	}
}

// sendsReport makes the day one that is over, and looks for the one report that
// a domain asks for.
func (n *network) sendsReport(t *testing.T, g *harness.Gateway, db, day string) {
	t.Helper()
	st, err := sqlite.Open(t.Context(), sqlite.Config{Path: db})
	must(t, err)
	days, err := st.TLSDays(t.Context(), day, "")
	must(t, err)
	yesterday := time.Now().UTC().AddDate(0, 0, -1).Format(time.DateOnly)
	for i := range days {
		days[i].Day, days[i].Due = yesterday, time.Now().Add(-time.Hour)
	}
	must(t, st.AddTLS(t.Context(), days))
	must(t, st.Close())
	before := n.sink.Count()
	must(t, g.Start(t.Context()))
	until(t, func() string { return "no report: " + subjects(n.sink) }, func() bool { return n.sink.Count() > before })
	var all []shown
	until(t, func() string { return fmt.Sprintf("%+v", all) }, func() bool {
		verb(t, g, &all, "tlsreport", "--date", yesterday)
		for _, d := range all {
			if d.State == string(store.TLSWaiting) {
				return false
			}
		}
		return true
	})
	report := reportIn(t, n.sink.Got()[before])
	for _, d := range all {
		want := store.TLSUnwanted
		if d.Domain == "testing.example" {
			want = store.TLSSent
			if report["report-id"] != d.ReportID || report["organization-name"] != "Home" {
				t.Errorf("%v is not %s", report, d.ReportID)
			}
		}
		if d.State != string(want) {
			t.Errorf("%s: %s", d.Domain, d.State)
		}
	}
	text := fmt.Sprint(report)
	for _, word := range []string{"certificate-expired", "expired.tls.example", "mode: testing", expiredIP, "total-failure-session-count:1"} {
		if !strings.Contains(text, word) {
			t.Errorf("%q is not in %s", word, text)
		}
	}
}

// reportIn unpacks a report by mail.
func reportIn(t *testing.T, message string) (report map[string]any) {
	t.Helper()
	m, err := netmail.ReadMessage(strings.NewReader(message))
	must(t, err)
	_, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	must(t, err)
	parts := multipart.NewReader(m.Body, params["boundary"])
	for {
		part, err := parts.NextPart()
		must(t, err)
		if part.Header.Get("Content-Type") != "application/tlsrpt+gzip" {
			continue
		}
		packed, err := io.ReadAll(base64.NewDecoder(base64.StdEncoding, part))
		must(t, err)
		z, err := gzip.NewReader(bytes.NewReader(packed))
		must(t, err)
		must(t, json.NewDecoder(z).Decode(&report))
		return report
	}
}
