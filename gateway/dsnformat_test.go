package gateway

import (
	"encoding/base64"
	"io"
	"log/slog"
	"mime"
	"mime/multipart"
	netmail "net/mail"
	"strings"
	"testing"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// dsnParts splits a DSN into the bodies of its parts by media type, and checks the
// frame (RFC 6522 section 3).
func dsnParts(t *testing.T, m *store.NewMessage) (header netmail.Header, parts map[string]string) {
	t.Helper()
	rc, err := m.Content.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	msg, err := netmail.ReadMessage(rc)
	if err != nil {
		t.Fatal(err)
	}
	typ, params, err := mime.ParseMediaType(msg.Header.Get("Content-Type"))
	if err != nil || typ != "multipart/report" {
		t.Fatalf("type %s, %v", typ, err)
	}
	parts = map[string]string{}
	for r := multipart.NewReader(msg.Body, params["boundary"]); ; {
		p, err := r.NextRawPart()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(p)
		if err != nil {
			t.Fatal(err)
		}
		typ, _, _ := mime.ParseMediaType(p.Header.Get("Content-Type"))
		if p.Header.Get("Content-Transfer-Encoding") == "base64" {
			body, err = base64.StdEncoding.DecodeString(strings.ReplaceAll(string(body), "\r\n", ""))
			if err != nil {
				t.Fatal(err)
			}
		}
		parts[typ] = string(body)
	}
	if _, ok := parts["message/"+params["report-type"]]; !ok {
		t.Errorf("report-type %s names no part", params["report-type"])
	}
	return msg.Header, parts
}

// failedNotice is a notice of one failure.
func failedNotice(content string, f *mail.Failure, by way) notice {
	l := store.Lease{ID: "ID1", Domain: "far.example", Trace: []byte("Received: from x\r\n"), Facts: mail.Facts{Size: int64(len(content))}}
	l.Envelope = mail.Envelope{Sender: mail.Address{Local: "romeo", Domain: "home.example"},
		Recipients: []mail.Recipient{{Address: mail.Address{Local: "x", Domain: "far.example"}}}}
	return notice{"failed", l, mail.Bytes(content), by, []report{{l.Envelope.Recipients[0], store.Result{State: store.Bounced, Outcome: mail.Outcome{Failure: f, Proof: "pkix"}}, store.Delivery{}}}}
}

// TestDSNStatus: the machine-readable part, by what failed where.
func TestDSNStatus(t *testing.T) {
	g, err := New(Config{Hostname: "gw.home.example", Domains: []Domain{{Name: "home.example"}}, Lifetime: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	utf8 := func(n *notice) { n.lease.Envelope.SMTPUTF8 = true }
	stanza := mail.FromStanza("far.example", "item-not-found", "5.1.1", "niemand heißt so", false, 0)
	for _, c := range []struct {
		name    string
		failure *mail.Failure
		by      way
		change  func(*notice)
		typ     string
		want    string
	}{
		{"smtp over verified TLS", mail.FromReply("mx.far.example", 550, "5.1.1", "no"), toLegacy, nil, "message/delivery-status",
			"Status: 5.1.1\r\nRemote-MTA: dns; mx.far.example\r\nDiagnostic-Code: smtp; 550 5.1.1 no\r\n"},
		{"xmpp", stanza, toPeer, nil, "message/delivery-status", "Diagnostic-Code: xmpp; item-not-found (niemand hei?t so)\r\n"},
		{"xmpp, global", stanza, toPeer, utf8, "message/global-delivery-status", "Diagnostic-Code: xmpp; item-not-found (niemand heißt so)\r\n"},
		{"our own word", mail.Fail(mail.Expired, "too late", nil), toLegacy, nil, "message/delivery-status", "Status: 5.4.7\r\nDiagnostic-Code: X-mailxmppd; expired (too late)\r\n"},
		{"original in UTF-8", stanza, toPeer, func(n *notice) { n.reports[0].recipient.Original = "utf-8;ü@far.example" }, "message/delivery-status",
			"Original-Recipient: utf-8;\\x{FC}@far.example\r\n"},
		{"hostile values", mail.FromReply("mx\r\nX: y", 550, "", "a\r\n\r\nb"), toLegacy, func(n *notice) { n.lease.Envelope.EnvelopeID = "e\r\nf" }, "message/delivery-status",
			"Original-Envelope-Id: e f\r\n"},
		{"recipient in UTF-8", stanza, toPeer, func(n *notice) { utf8(n); n.reports[0].recipient.Address.Local = "ü" }, "message/global-delivery-status",
			"Final-Recipient: utf-8; ü@far.example\r\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := failedNotice(sample, c.failure, c.by)
			if c.change != nil {
				c.change(&n)
			}
			m, err := g.dsn(n)
			if err != nil {
				t.Fatal(err)
			}
			_, parts := dsnParts(t, m)
			status := parts[c.typ]
			if !strings.Contains(status, c.want) || strings.Contains(status, "\nX: y") || strings.Contains(status, "\nf\r") {
				t.Errorf("want %q in:\n%s", c.want, status)
			}
			if ascii := strings.IndexFunc(status, func(r rune) bool { return r >= 0x80 }) < 0; !ascii && !n.lease.Envelope.SMTPUTF8 {
				t.Errorf("not ASCII:\n%s", status)
			}
		})
	}
}

// TestDSNReturned: what goes back of the message can be carried by any SMTP
// hop with 8BITMIME, and nothing of the message needs to.
func TestDSNReturned(t *testing.T) {
	g, err := New(Config{Hostname: "gw.home.example", Domains: []Domain{{Name: "home.example"}}, Lifetime: time.Hour, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	const trace = "Received: from x\r\n"
	long := strings.Repeat("x", 999)
	for _, c := range []struct{ name, ret, content, typ, want string }{
		{"header", "HDRS", sample, "text/rfc822-headers", trace + strings.SplitAfter(sample, "Subject: s\r\n")[0]},
		{"all", "FULL", sample, "message/rfc822", trace + sample},
		{"all in 8 bits", "FULL", "A: b\r\n\r\n\xff\r\n", "message/rfc822", trace + "A: b\r\n\r\n\xff\r\n"},
		{"bare LF in the body", "FULL", "A: b\r\n\r\nx\ny\r\n", "text/rfc822-headers", trace + "A: b\r\n"},
		{"long line in the body", "FULL", "A: b\r\n\r\n" + long + "\r\n", "text/rfc822-headers", trace + "A: b\r\n"},
		{"NUL in the body", "FULL", "A: b\r\n\r\n\x00\r\n", "text/rfc822-headers", trace + "A: b\r\n"},
		{"NUL in the header", "", "A: \x00\r\n\r\n", "text/rfc822-headers", trace + "A: \x00\r\n"},
		{"long line in the header", "", "A: " + long + "\r\n\r\n", "text/rfc822-headers", trace + "A: " + long + "\r\n"},
		{"too large", "FULL", "A: b\r\n\r\n" + strings.Repeat(long[:98]+"\r\n", 11000), "text/rfc822-headers", trace + "A: b\r\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := failedNotice(c.content, mail.Fail(mail.Expired, "", nil), toLegacy)
			n.lease.Envelope.Return = c.ret
			n.lease.Envelope.RequireTLS = true
			m, err := g.dsn(n)
			if err != nil {
				t.Fatal(err)
			}
			header, parts := dsnParts(t, m)
			if got := parts[c.typ]; strings.TrimSuffix(got, "\r\n") != strings.TrimSuffix(c.want, "\r\n") {
				t.Errorf("%q, want %q", got, c.want)
			}
			if m.Facts.Null || m.Facts.LongLine || header.Get("Content-Transfer-Encoding") != "8bit" {
				t.Errorf("facts %+v, header %v", m.Facts, header)
			}
			if !m.Envelope.RequireTLS || m.Envelope.Body == mail.Body8BitMIME != m.Facts.EightBit {
				t.Errorf("envelope %+v", m.Envelope)
			}
		})
	}
}

func contentOf(t *testing.T, c mail.Content) string {
	t.Helper()
	rc, err := c.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	data, err := io.ReadAll(rc)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
