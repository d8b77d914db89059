package smtpbridge

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

func quietLog() *log.Logger { return log.New(io.Discard, "", 0) }

// TestReportBook: results add up per day, domain and policy, and no further
// than the bounds.
func TestReportBook(t *testing.T) {
	day := time.Date(2026, 3, 4, 23, 59, 59, 0, time.UTC)
	book := NewReportBook()
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			book.RecordTLS(TLSResult{At: day, Domain: "a.example", PolicyType: reportSTS, Policy: []string{"mode: enforce"}})
			book.RecordTLS(TLSResult{At: day, Domain: "a.example", PolicyType: reportSTS, Policy: []string{"mode: enforce"}, Failure: resultExpired, MXHost: "mx"})
		})
	}
	wg.Wait()
	book.RecordTLS(TLSResult{At: day, Domain: "a.example", PolicyType: reportNoPolicy})
	book.RecordTLS(TLSResult{At: day.Add(time.Second), Domain: "a.example", PolicyType: reportNoPolicy})
	want := []DayReport{{Day: "2026-03-04", Domain: "a.example", Policies: []PolicyReport{
		{Type: "sts", Policy: []string{"mode: enforce"}, Successes: 10, Failures: 10, Details: []FailureReport{{Result: resultExpired, MXHost: "mx", Sessions: 10}}},
		{Type: "no-policy-found", Successes: 1},
	}}}
	got := book.Take(day.Add(time.Second))
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v", got)
	}
	data, err := json.Marshal(got[0])
	if err != nil {
		t.Fatal(err)
	}
	var stored DayReport
	if err := json.Unmarshal(data, &stored); err != nil {
		t.Fatal(err)
	}
	book.Add(stored)
	book.Add(stored)
	rest := book.Take(time.Time{})
	if len(rest) != 2 || rest[0].Policies[0].Successes != 20 || rest[0].Policies[0].Details[0].Sessions != 20 || rest[1].Day != "2026-03-05" {
		t.Errorf("%+v", rest)
	}
	for i := range 3 * maxReportDetails {
		book.RecordTLS(TLSResult{At: day, Domain: "b.example", PolicyType: reportSTS, Failure: resultExpired, MXHost: fmt.Sprint(i)})
		book.RecordTLS(TLSResult{At: day, Domain: "c.example", PolicyType: reportTLSA, Policy: []string{fmt.Sprint(i)}})
	}
	for _, d := range book.Take(time.Time{}) {
		if len(d.Policies) > maxReportPolicies || len(d.Policies[0].Details) > maxReportDetails {
			t.Errorf("%s: %d policies, %d details", d.Domain, len(d.Policies), len(d.Policies[0].Details))
		}
		if d.Domain == "b.example" && d.Policies[0].Failures != 3*maxReportDetails {
			t.Errorf("%d failures", d.Policies[0].Failures)
		}
	}
	for i := range maxReportDays + 10 {
		book.Add(DayReport{Day: "2026-03-04", Domain: fmt.Sprint(i)})
	}
	if n := len(book.Take(time.Time{})); n != maxReportDays {
		t.Errorf("%d reports", n)
	}
}

// TestBuildReport: the JSON of RFC 8460 section 4.4 and the name of section
// 5.1.
func TestBuildReport(t *testing.T) {
	d := DayReport{Day: "2026-03-04", Domain: "a.example", Policies: []PolicyReport{{
		Type: "sts", Policy: []string{"version: STSv1", "mode: testing"}, MXPatterns: []string{"*.a.example"}, Successes: 5326, Failures: 303,
		Details: []FailureReport{{Result: resultExpired, MXHost: "mx1.a.example", SendingIP: "2001:db8::1", HostIP: "192.0.2.1", Sessions: 303, Detail: "words"}},
	}}}
	r, err := BuildReport(Reporter{Organization: "Example", Domain: "gw.example", Contact: "tls@gw.example"}, "01ABC@gw.example", d)
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(r.Gzip))
	if err != nil {
		t.Fatal(err)
	}
	var got any
	if err := json.NewDecoder(z).Decode(&got); err != nil {
		t.Fatal(err)
	}
	var want any
	text := `{"organization-name":"Example","date-range":{"start-datetime":"2026-03-04T00:00:00Z","end-datetime":"2026-03-04T23:59:59Z"},
		"contact-info":"tls@gw.example","report-id":"` + r.ID + `","policies":[{
		"policy":{"policy-type":"sts","policy-string":["version: STSv1","mode: testing"],"policy-domain":"a.example","mx-host":["*.a.example"]},
		"summary":{"total-successful-session-count":5326,"total-failure-session-count":303},
		"failure-details":[{"result-type":"certificate-expired","sending-mta-ip":"2001:db8::1","receiving-mx-hostname":"mx1.a.example",
		"receiving-ip":"192.0.2.1","failed-session-count":303,"additional-information":"words"}]}]}`
	if err := json.Unmarshal([]byte(text), &want); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v\nwant %v", got, want)
	}
	id, _, _ := strings.Cut(r.ID, "@")
	if r.Filename != "gw.example!a.example!1772582400!1772668799!"+id+".json.gz" || !strings.HasSuffix(r.ID, "@gw.example") {
		t.Errorf("%q, %q", r.Filename, r.ID)
	}
	if _, err := BuildReport(Reporter{}, "x", DayReport{Day: "yesterday"}); err == nil {
		t.Error("no error for a day that is none")
	}
}

func TestReportTargets(t *testing.T) {
	for _, c := range []struct {
		records, want []string
	}{
		{[]string{"v=TLSRPTv1; rua=mailto:tls@a.example"}, []string{"mailto:tls@a.example"}},
		{[]string{"v=spf1", "v=TLSRPTv1;rua=mailto:x@a.example , https://a.example/r ;x=y"}, []string{"mailto:x@a.example", "https://a.example/r"}},
		{[]string{"v=TLSRPTv1;rua=mailto:a%2Bb@a.example"}, []string{"mailto:a%2Bb@a.example"}},
		{[]string{"v=TLSRPTv1;rua=http://a.example,mailto:,mailto:nobody,ftp:x,https://u:p@a.example/,https:///x"}, nil},
		{[]string{"v=TLSRPTv1;rua=mailto:x@a.example%0d%0aRSET"}, nil},
		{[]string{"v=TLSRPTv1;rua=mailto:x@a.example", "v=TLSRPTv1;rua=mailto:y@a.example"}, nil},
		{[]string{"v=TLSRPTv1"}, nil},
		{[]string{"v=TLSRPTv2;rua=mailto:x@a.example"}, nil},
		{[]string{"v=TLSRPTv1;rua=" + strings.Repeat("https://a.example/,", 9)}, slices.Repeat([]string{"https://a.example/"}, maxReportTargets)},
		{nil, nil},
	} {
		if got := ReportTargets(c.records); !slices.Equal(got, c.want) {
			t.Errorf("%q: %q", c.records, got)
		}
	}
}

func FuzzReportTargets(f *testing.F) {
	f.Add("v=TLSRPTv1; rua=mailto:tls@a.example,https://a.example/r")
	f.Fuzz(func(t *testing.T, record string) {
		for _, target := range ReportTargets([]string{record}) {
			if !isReportTarget(target) || strings.ContainsAny(target, "\r\n") {
				t.Fatalf("%q", target)
			}
		}
	})
}
