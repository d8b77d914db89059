package main

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"mailxmppd/config"
	"mailxmppd/store"
)

// TestTLSReportVerb: what the store holds of a day, for people and programs, with
// and without a gateway that runs.
func TestTLSReportVerb(t *testing.T) {
	for _, running := range []bool{true, false} {
		s := newSite(t)
		file := s.write(t)
		cfg, err := config.Load(file)
		if err != nil {
			t.Fatal(err)
		}
		st, err := openStore(t.Context(), cfg, quiet())
		if err != nil {
			t.Fatal(err)
		}
		err = st.AddTLS(t.Context(), []store.TLSDay{{Day: "2026-03-04", Domain: "far.example", Due: time.Now(), Counts: []store.TLSCount{
			{Policy: `{"type":"sts","policy":["mode: testing"]}`, Sessions: 5},
			{Policy: `{"type":"sts","policy":["mode: testing"]}`, Result: `{"result":"certificate-expired","detail":"on\u001bMonday","mx_host":"mx.far.example"}`, Sessions: 2},
		}}})
		if err := errors.Join(err, st.Close()); err != nil {
			t.Fatal(err)
		}
		if running {
			serveAdmin(t, cfg)
		}
		want := "DOMAIN       POLICY  HOST            SESSIONS  RESULT\n" +
			"far.example  sts                     5         ok\n" +
			"far.example  sts     mx.far.example  2         certificate-expired: on Monday\n" +
			"far.example  report                            waiting\n"
		if code, stdout, stderr := call(t, "tlsreport", "--date", "2026-03-04", "--domain", "FAR.example", "--config", file); code != 0 || stdout != want {
			t.Errorf("running %v: %d\n%s\n%s", running, code, stdout, stderr)
		}
		_, stdout, _ := call(t, "tlsreport", "--date", "2026-03-04", "--json", "--config", file)
		var shown []shownReport
		if err := json.Unmarshal([]byte(stdout), &shown); err != nil || len(shown) != 1 || shown[0].Policies[0].Failures != 2 || shown[0].State != store.TLSWaiting {
			t.Errorf("running %v: %s, %v", running, stdout, err)
		}
		if _, stdout, _ := call(t, "tlsreport", "--json", "--config", file); stdout != "[]\n" {
			t.Errorf("today: %q", stdout)
		}
		if code, _, stderr := call(t, "tlsreport", "--date", "monday", "--config", file); code == 0 || !strings.Contains(stderr, "2006-01-02") {
			t.Errorf("%d %s", code, stderr)
		}
	}
}
