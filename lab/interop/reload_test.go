package interop

import (
	"crypto/tls"
	"encoding/json"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"mailxmppd/lab/harness"
)

// TestReloadUnderMail: a running gateway takes a new certificate at SIGHUP. The
// stream that is live goes on, and carries mail; whoever connects from then on
// is shown the new one. What the operator's counters say of it is what the verb
// prints.
func TestReloadUnderMail(t *testing.T) {
	t.Parallel()
	exe, err := harness.Build(t.TempDir())
	must(t, err)
	s := newSite(t)
	var gateways []*processGateway
	for _, domain := range []string{"capulet.example", "montague.example"} {
		g := s.gateway(t, exe, domain, "")
		host, port, _ := strings.Cut(g.XMPP, ":")
		must(t, s.names.Add("_xmpps-mail._tcp."+domain+". 60 IN SRV 0 0 "+port+" "+s.host(t, host)))
		gateways = append(gateways, g)
	}
	a, b := gateways[0], gateways[1]
	send := func(want int) {
		t.Helper()
		c, err := harness.Dial(a.SMTP)
		must(t, err)
		defer c.Close()
		_, err = c.Send("x@"+a.Domain, []string{"y@" + b.Domain}, harness.Stuff([]byte("Subject: hi\r\n\r\nhi\r\n")))
		must(t, err)
		eventually(t, "mail at "+b.Domain, func() bool { return b.sink.Count() == want })
	}
	send(1)
	before := counters(t, exe, b)
	old := shown(t, b)

	_, _, err = s.ca.IssueFor(both, b.Domain) // into the same files
	must(t, err)
	must(t, syscall.Kill(b.PID(), syscall.SIGHUP))
	eventually(t, "the new certificate is shown", func() bool { return shown(t, b) != old })

	send(2)
	after := counters(t, exe, b)
	for _, name := range []string{"Ready", "Dialled", "Live"} {
		if before["streams"][name] != after["streams"][name] || before["streams"]["Ready"] == 0 {
			t.Errorf("%s was %v and is %v", name, before["streams"][name], after["streams"][name])
		}
	}
	if n := after["transfers"]["accepted"]; n != 2 {
		t.Errorf("%v transfers accepted", n)
	}
	if _, ok := after["gateway"]["in-doubt-other-path"]; !ok {
		t.Errorf("counters of the gateway: %v", after["gateway"])
	}
	// For the eye the same.
	out, err := exec.Command(exe, "counters", "--config", b.Config).Output()
	must(t, err)
	for _, line := range []string{"streams", "transfers", "gateway"} {
		if !strings.Contains(string(out), "\n"+line+" ") && !strings.HasPrefix(string(out), line+" ") {
			t.Errorf("no line of %s in\n%s", line, out)
		}
	}
}

// shown is the serial number of the certificate that a gateway shows to who
// connects.
func shown(t *testing.T, g *processGateway) string {
	t.Helper()
	c, err := tls.Dial("tcp", g.XMPP, &tls.Config{ServerName: g.Domain, InsecureSkipVerify: true, NextProtos: []string{"xmpp-server"}})
	must(t, err)
	defer c.Close()
	return c.ConnectionState().PeerCertificates[0].SerialNumber.String()
}

func counters(t *testing.T, exe string, g *processGateway) map[string]map[string]float64 {
	t.Helper()
	out, err := exec.Command(exe, "counters", "--json", "--config", filepath.Clean(g.Config)).Output()
	must(t, err)
	var all map[string]map[string]float64
	must(t, json.Unmarshal(out, &all))
	return all
}
