package beside

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"mailxmppd/lab/exim"
	"mailxmppd/lab/harness"
)

const besideExim = "Exim, peering only"

// TestExim runs the recipe for Exim.
func TestExim(t *testing.T) {
	exe, err := harness.Build(t.TempDir())
	must(t, err)
	s := newSite(t, exe, "127.0.41.5")
	s.startOurs(t, s.ip+":24", peeringOnly)
	mx := s.ip + ":25"
	// What is not the recipe's: our own mailboxes, and the way to everybody else.
	own := fmt.Sprintf(`
mailboxes:
  driver = manualroute
  domains = +local_domains
  transport = mailboxes
  route_list = * %[1]s
  self = send
`, s.ip)
	rest := fmt.Sprintf(`
others:
  driver = manualroute
  transport = others
  route_list = * %[1]s
  self = send
`, s.ip)
	transports := `
mailboxes:
  driver = smtp
  protocol = lmtp
  port = 10024
  allow_localhost
  message_linelength_limit = 1000000
others:
  driver = smtp
  port = 2500
  allow_localhost
  message_linelength_limit = 1000000
`
	hosts := func(settings string) string { return strings.ReplaceAll(s.here(settings), "* 127.0.0.1", "* "+s.ip) }
	x, err := exim.Start(exim.Spec{
		Program: "../../.cache/exim/usr/sbin/exim4", Listen: mx, Host: "mx." + ours,
		Main:       "domainlist local_domains = " + ours,
		ACL:        block(t, "acl", besideExim),
		Routers:    own + hosts(block(t, "routers", besideExim)) + rest,
		Transports: transports + block(t, "transports", besideExim),
	})
	if errors.Is(err, exim.ErrNotInstalled) && os.Getenv("MAILXMPPD_LAB") == "optional" {
		t.Skip(err)
	}
	must(t, err)
	t.Cleanup(func() {
		log := x.Log()
		if err := x.Stop(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("the end of Exim's log:\n%s", log[max(0, len(log)-4000):])
		}
	})
	s.outbound(t, mx, true)
	s.inbound(t, mx)

	must(t, s.ours.Stop())
	expectReply(t, "while we are away", send(t, mx, "juliet@"+ours, "lorenzo@belmont.example", "while away"), "451 ")
	never(t, "while away", s.others)
}
