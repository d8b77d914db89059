package verdicts

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"mailxmppd/lab/harness"
	"mailxmppd/lab/postfix"
)

// TestReportOfPostfix: somebody who takes permitted mail only writes to a mailbox
// that a Postfix far away takes mail for and cannot deliver to. Postfix's report
// gets through to the writer, who has permitted nobody there; more reports than
// one message can cause, or one about mail that the writer has not sent, do not.
func TestReportOfPostfix(t *testing.T) {
	w := start(t)
	full, err := harness.NewSink("127.0.0.1:0", func(content []byte) string { return string(content) })
	must(t, err)
	t.Cleanup(full.Close)
	full.Refuse(func(recipient string) bool { return strings.HasPrefix(recipient, "gone@") })
	p, err := postfix.Start(postfix.Spec{
		Listen: far, Host: "mx.far.example", Domains: []string{"far.example"}, Sink: full.Addr,
		Extra: fmt.Sprintf("transport_maps = inline:{capulet.example=smtp:[127.0.0.1]:%s}\n", w.judged[strings.LastIndex(w.judged, ":")+1:]),
	})
	if errors.Is(err, postfix.ErrNotInstalled) && os.Getenv("MAILXMPPD_LAB") == "optional" {
		t.Skip(err)
	}
	must(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("Postfix:\n%s", p.Log())
		}
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
	})

	const subject = "Undelivered Mail Returned to Sender"
	if refusal := send(t, w.capulet.SMTP, "127.0.0.1", nil, "nurse@capulet.example", "gone@far.example", "From: nurse@capulet.example\r\nSubject: to who has gone\r\nMessage-ID: <gone@capulet.example>\r\n\r\nhello\r\n"); refusal != "" {
		t.Fatal(refusal)
	}
	report := w.arrived(t, subject)
	if !strings.HasPrefix(report, "X-Mail-Trust: permitted; a report about mail that was sent from here\r\n") || !strings.Contains(report, "Subject: to who has gone") ||
		!strings.Contains(report, "Reporting-MTA: dns; mx.far.example\r\n") {
		t.Errorf("arrived as\n%s", report)
	}

	const notWanted = "data 550 5.7.1 recipient has not permitted this sender"
	_, plainReport, _ := strings.Cut(report, "\r\nReceived: ")
	plainReport = "Received: " + plainReport
	for i, want := range []string{"", notWanted} { // one that it takes long, and one how it ended
		other := strings.Replace(plainReport, "Subject: "+subject, fmt.Sprintf("Subject: report %d", i), 1)
		if got := send(t, w.judged, evil, nil, "", "nurse@capulet.example", other); got != want {
			t.Errorf("further report %d about the same message: %q, want %q", i, got, want)
		}
	}
	made := strings.ReplaceAll(plainReport, "X-Mailxmppd-Sent", "X-Something-Else")
	if got := send(t, w.judged, evil, nil, "", "nurse@capulet.example", made); got != notWanted {
		t.Errorf("a report that somebody has made up: %q", got)
	}
}
