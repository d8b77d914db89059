package smtpbridge

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"mailxmppd/mail"
)

// TestBareLineEnds: smuggling forms never get out whole, by whatever way, and
// wherever the content is cut.
func TestBareLineEnds(t *testing.T) {
	const evil = "MAIL FROM:<evil@x.example>\r\nRCPT TO:<victim@x.example>\r\nDATA\r\nx\r\n.\r\n"
	large := strings.Repeat("a line of some length\r\n", chunkedFrom/20)
	for _, form := range []string{
		"\n.\n", "\r\n.\n", "\n.\r\n", "\r.\r", "\r\n.\r", "\r.\r\n", "\r.\n", "\n.\r", "\r\r\n.\r\n", "\r\n.\r\r\n", "\n\n.\n\n", "\x00\n.\n", "\n", "\r",
	} {
		for way, body := range map[string]string{"DATA": "a\r\nb", "BDAT": large} {
			t.Run(fmt.Sprintf("%s %q", way, form), func(t *testing.T) {
				t.Parallel()
				s := startScript(t, []string{"PIPELINING", "8BITMIME", "CHUNKING"}, script(nil))
				c := newTestClient(t, nil)
				a := attemptOf(t, "", "a@dest.example")
				content := body + form + evil
				pieces := []int{len(content)}
				if way == "DATA" {
					pieces = []int{1, 2, 3, 4, len(content)}
				}
				for _, piece := range pieces {
					a.Content = inPieceSize{mail.Bytes(content), piece}
					if v := verdictsOf(c.Deliver(t.Context(), s.hop(), a)); v[0] != "554 5.6.3" {
						t.Errorf("pieces of %d: %q", piece, v)
					}
				}
				messages, commands := s.gotInTheEnd(t, c)
				if len(messages) != 0 || strings.Contains(strings.Join(commands, " "), "evil") {
					t.Errorf("%d messages arrived, after %q", len(messages), commands)
				}
			})
		}
	}
}

// inPieceSize is content that is read in small pieces.
type inPieceSize struct {
	mail.Bytes
	size int
}

func (c inPieceSize) Open() (io.ReadCloser, error) {
	return io.NopCloser(&pieceReader{c}), nil
}

type pieceReader struct{ rest inPieceSize }

func (r *pieceReader) Read(p []byte) (int, error) {
	if len(r.rest.Bytes) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), r.rest.size)], r.rest.Bytes)
	r.rest.Bytes = r.rest.Bytes[n:]
	return n, nil
}

// TestAddressInjection: whatever an address holds, it goes out as one address
// of one command, or not at all.
func TestAddressInjection(t *testing.T) {
	for _, c := range []struct {
		name, local, domain string
		command             string // "": refused, and nothing is said of the message
	}{
		{"parameters", `victim@x> ORCPT=rfc822;y`, "dest.example", `RCPT TO:<"victim@x> ORCPT=rfc822;y"@dest.example>`},
		{"angle bracket", "a>b", "dest.example", `RCPT TO:<"a>b"@dest.example>`},
		{"quotes and backslash", `a"\b`, "dest.example", `RCPT TO:<"a\"\\b"@dest.example>`},
		{"source route", "@relay.example:a", "dest.example", `RCPT TO:<"@relay.example:a"@dest.example>`},
		{"percent hack", "a%b.example", "dest.example", `RCPT TO:<a%b.example@dest.example>`},
		{"space", "a b", "dest.example", `RCPT TO:<"a b"@dest.example>`},
		{"literal", "a", "[192.0.2.1]", `RCPT TO:<a@[192.0.2.1]>`},
		{"CR LF", "a\r\nRSET", "dest.example", ""},
		{"LF", "a\nRSET", "dest.example", ""},
		{"CR", "a\rRSET", "dest.example", ""},
		{"NUL", "a\x00b", "dest.example", ""},
		{"DEL", "a\x7fb", "dest.example", ""},
		{"CR LF in the domain", "a", "dest.example>\r\nRSET", ""},
		{"space in the domain", "a", "dest.example> NOTIFY=NEVER", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := startScript(t, scriptOffers, script(nil))
			client := newTestClient(t, nil)
			a := attemptOf(t, sample, "r@dest.example")
			a.Envelope.Recipients[0].Address = mail.Address{Local: c.local, Domain: c.domain}
			asRecipient := verdictsOf(client.Deliver(t.Context(), s.hop(), a))[0]
			a = attemptOf(t, sample, "r@dest.example")
			a.Envelope.Sender = mail.Address{Local: c.local, Domain: c.domain}
			asSender := verdictsOf(client.Deliver(t.Context(), s.hop(), a))[0]
			messages, commands := s.gotInTheEnd(t, client)
			if c.command == "" {
				want := []string{"EHLO gw.example"}
				if !strings.HasPrefix(asRecipient, "553 5.1.") || !strings.HasPrefix(asSender, "553 5.1.") || len(messages) != 0 || !slices.Equal(slices.DeleteFunc(commands, func(s string) bool { return s == "QUIT" }), want) {
					t.Errorf("%s, %s after %q", asRecipient, asSender, commands)
				}
				return
			}
			sender := "MAIL FROM:" + strings.TrimPrefix(c.command, "RCPT TO:") + " SIZE="
			if asRecipient != "delivered" || asSender != "delivered" || !slices.Contains(commands, c.command) || !slices.ContainsFunc(commands, func(s string) bool { return strings.HasPrefix(s, sender) }) {
				t.Errorf("%s, %s after %q", asRecipient, asSender, commands)
			}
		})
	}
}
