package gateway

import (
	"testing"
	"time"

	"mailxmppd/mail"
)

// TestReceived: nothing of the client's gets into the field unchecked.
func TestReceived(t *testing.T) {
	g := &Gateway{Config: Config{Hostname: "gw.home.example"}}
	at := time.Date(2026, 11, 23, 4, 0, 0, 0, time.UTC)
	to := []mail.Recipient{{Address: mail.Address{Local: `a>"b`, Domain: "home.example"}}}
	for _, c := range []struct {
		name   string
		origin mail.Origin
		rcpts  []mail.Recipient
		utf8   bool
		esmtp  bool
		want   string
	}{
		{"helo", mail.Origin{Transport: "smtp", Remote: "192.0.2.1:9", Helo: "x\r\nEvil: y"}, nil, false, false,
			"from unknown ([192.0.2.1])\r\n\tby gw.home.example with SMTP id ID;\r\n\tMon, 23 Nov 2026 04:00:00 +0000\r\n"},
		{"ehlo, TLS, user", mail.Origin{Transport: "smtp", Remote: "[2001:db8::1]:9", Helo: "c.example", User: "u", TLS: "TLS(1.3)\r\n"}, to, false, true,
			"from c.example ([IPv6:2001:db8::1])\r\n\tby gw.home.example with ESMTPSA id ID\r\n\t(TLS_1.3___)\r\n\tfor <\"a>\\\"b\"@home.example>;\r\n\tMon, 23 Nov 2026 04:00:00 +0000\r\n"},
		{"UTF-8", mail.Origin{Transport: "lmtp", Helo: "c.example", Remote: "@"}, nil, true, true,
			"from c.example (local)\r\n\tby gw.home.example with UTF8LMTP id ID;\r\n\tMon, 23 Nov 2026 04:00:00 +0000\r\n"},
		{"peer", mail.Origin{Transport: "xmpp", Peer: "peer.example", Remote: "192.0.2.1:9", TLS: "TLS1.3"}, append(to, to...), true, true,
			"from peer.example ([192.0.2.1])\r\n\tby gw.home.example with XMPP id ID\r\n\t(TLS1.3);\r\n\tMon, 23 Nov 2026 04:00:00 +0000\r\n"},
	} {
		c.origin.Received = at
		m := &mail.Message{ID: "ID", Origin: c.origin, Envelope: mail.Envelope{Recipients: c.rcpts, SMTPUTF8: c.utf8}}
		if got := string(g.received(m, c.esmtp)); got != "Received: "+c.want {
			t.Errorf("%s:\n%q\nwant\n%q", c.name, got, "Received: "+c.want)
		}
	}
}
