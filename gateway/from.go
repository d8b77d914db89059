package gateway

import (
	"bufio"
	"bytes"
	"io"
	"net/textproto"
	"strings"

	netmail "net/mail"

	"mailxmppd/mail"
)

// maxFromHeader bounds how much of a header is looked through for From.
const maxFromHeader = 64 << 10

// fromDomains lists the domains of the From mailboxes of a message; nil where
// the header has no readable From within its first 64 KiB.
func fromDomains(content mail.Content) []string {
	rc, err := content.Open()
	if err != nil {
		return nil
	}
	defer rc.Close()
	list, err := netmail.ParseAddressList(firstField(io.LimitReader(rc, maxFromHeader), "from"))
	if err != nil {
		return nil
	}
	var domains []string
	for _, a := range list {
		if _, domain, ok := strings.Cut(a.Address, "@"); ok {
			domains = append(domains, domain)
		}
	}
	return domains
}

// firstField returns the unfolded value of the first field of a name.
func firstField(r io.Reader, name string) string {
	tp := textproto.NewReader(bufio.NewReader(r))
	for {
		line, err := tp.ReadContinuedLineBytes()
		if err != nil || len(line) == 0 {
			return ""
		}
		key, value, ok := bytes.Cut(line, []byte(":"))
		if ok && strings.EqualFold(strings.TrimSpace(string(key)), name) {
			return string(value)
		}
	}
}
