package forwarding

import (
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"mailxmppd/lab/harness"
	"mailxmppd/lab/postfix"
	"mailxmppd/lab/trust"
)

// The third parties: each a Postfix that asks an rspamd of its own.
const (
	strictIP  = "127.0.45.1"
	lenientIP = "127.0.45.2"
)

// rspamdConf is all that rspamd is told: no list of its own, and no network. It
// knows one top level domain, since it takes long to read in those of the world.
// Every client of these tests is on this machine, and is judged all the same.
const rspamdConf = `
options {
  filters = "dkim"; pidfile = "$DIR/pid"; url_tld = "$DIR/tld"; tempdir = "$DIR"; cache_file = "$DIR/symbols"; hs_cache_dir = "$DIR";
  dns { nameserver = ["$DNS"]; timeout = 2s; retransmits = 3; }
}
logging { type = "console"; level = "info"; }
actions { reject = 10; }
group "policies" { symbols { "DMARC_POLICY_REJECT" { weight = 20.0; } } }
modules { path = "${PLUGINSDIR}/spf.lua"; }
modules { path = "${PLUGINSDIR}/dmarc.lua"; }
modules { path = "${PLUGINSDIR}/arc.lua"; }
spf { check_local = true; }
dkim { check_local = true; }
dmarc { check_local = true; }
arc { check_local = true; $TRUSTED }
worker "rspamd_proxy" { bind_socket = "$LISTEN"; milter = yes; count = 1; timeout = 60s; upstream "local" { default = yes; self_scan = yes; } }
`

// rspamd starts one and returns where it takes the milter's questions.
func rspamd(t *testing.T, dns, trusted string) (listen string, log func() string) {
	t.Helper()
	if _, err := exec.LookPath("rspamd"); errors.Is(err, exec.ErrNotFound) {
		if os.Getenv("MAILXMPPD_LAB") == "optional" {
			t.Skip("rspamd is not installed; scripts/deps installs it")
		}
		t.Fatal("rspamd is not installed; scripts/deps installs it")
	}
	dir := t.TempDir()
	addrs, err := harness.FreeAddrs(1)
	must(t, err)
	if trusted != "" {
		must(t, os.WriteFile(filepath.Join(dir, "trusted"), []byte(trusted+"\n"), 0o600))
		trusted = fmt.Sprintf("whitelisted_signers_map = %q;", filepath.Join(dir, "trusted"))
	}
	must(t, os.WriteFile(filepath.Join(dir, "tld"), []byte("example\n"), 0o600))
	conf := filepath.Join(dir, "rspamd.conf")
	must(t, os.WriteFile(conf, []byte(strings.NewReplacer("$DIR", dir, "$DNS", dns, "$LISTEN", addrs[0], "$TRUSTED", trusted).Replace(rspamdConf)), 0o600))
	d, err := harness.StartDaemon(exec.Command("rspamd", "-f", "-i", "-c", conf), filepath.Join(dir, "log"), addrs[0])
	must(t, err)
	t.Cleanup(d.Stop)
	return addrs[0], d.Log
}

// thirdParty is a Postfix that takes mail for a domain.
func thirdParty(t *testing.T, ip, domain, milter string) (listen string, sink *harness.Sink) {
	t.Helper()
	sink = box(t)
	p, err := postfix.Start(postfix.Spec{
		Listen: ip + ":10025", Host: "mx." + domain, Domains: []string{domain}, Sink: sink.Addr,
		Extra: "smtpd_milters = inet:" + milter + "\nmilter_default_action = tempfail\n",
	})
	if errors.Is(err, postfix.ErrNotInstalled) && os.Getenv("MAILXMPPD_LAB") == "optional" {
		t.Skip(err)
	}
	must(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the end of the log of %s:\n%s", domain, p.Log())
		}
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
	})
	return ip + ":10025", sink
}

// TestThirdParty: as TestStrictPolicy, and the third parties are Postfix with
// rspamd, which judges SPF, DKIM, DMARC and ARC without any of our code. One of
// them trusts the forwarder's seal. dkimpy and Mail::DKIM find the chain right
// too, as it arrived.
func TestThirdParty(t *testing.T) {
	if err := trust.Installed(); err != nil {
		if os.Getenv("MAILXMPPD_LAB") == "optional" {
			t.Skip(err)
		}
		t.Fatal(err)
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	a := author{key}
	l := newLab(t, a)
	strictMilter, strictLog := rspamd(t, l.names.Addr, "")
	lenientMilter, lenientLog := rspamd(t, l.names.Addr, "forwarder.example")
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("rspamd, strict:\n%s\nrspamd, lenient:\n%s", strictLog(), lenientLog())
		}
	})
	atStrict, strict := thirdParty(t, strictIP, "strict.example", strictMilter)
	atLenient, lenient := thirdParty(t, lenientIP, "lenient.example", lenientMilter)
	l.forward(t, newSite(t, "forwarder.example"), []string{"strict.example", "lenient.example"}, route("strict.example", atStrict)+route("lenient.example", atLenient))

	signed := a.letter(t, "signed", true)
	l.send(t, signed)
	for name, s := range map[string]*harness.Sink{"strict": strict, "lenient": lenient} {
		got := arrived(t, s, "signed")
		if _, content, _ := strings.Cut(got, "DKIM-Signature: "); "DKIM-Signature: "+content != signed {
			t.Errorf("%s: the content is another:\n%s", name, got)
		}
	}
	said(t, strictLog, "signed", "DMARC_POLICY_ALLOW(", "R_DKIM_ALLOW(", "R_SPF_ALLOW(", "ARC_ALLOW(")
	said(t, lenientLog, "signed", "DMARC_POLICY_ALLOW(", "R_DKIM_ALLOW(", "R_SPF_ALLOW(", "ARC_ALLOW_TRUSTED(")

	l.send(t, a.letter(t, "unsigned", false))
	got := arrived(t, lenient, "unsigned")
	said(t, lenientLog, "unsigned", "DMARC_POLICY_REJECT(0.10)", "ARC_ALLOW_TRUSTED(", "R_DKIM_NA(")
	if dsn := arrived(t, l.bounced, "Undelivered mail returned to sender"); !strings.Contains(dsn, "Final-Recipient: rfc822; carol@strict.example\r\n") ||
		!strings.Contains(dsn, "Remote-MTA: ") {
		t.Errorf("the author hears\n%s", dsn)
	}
	said(t, strictLog, "unsigned", "(reject)", "DMARC_POLICY_REJECT(20.00)", "ARC_ALLOW(", "R_DKIM_NA(")
	for _, m := range strict.Got() {
		if strings.Contains(m, "Subject: unsigned\r\n") {
			t.Errorf("strict took\n%s", m)
		}
	}
	l.chained(t, arrived(t, lenient, "signed"))
	l.chained(t, got)
}

// said looks for what an rspamd has logged of a message.
func said(t *testing.T, log func() string, subject string, symbols ...string) {
	t.Helper()
	for line := range strings.Lines(log()) {
		if !strings.Contains(line, "rspamd_task_write_log: id: <"+subject+"@author.example>") {
			continue
		}
		for _, s := range symbols {
			if !strings.Contains(line, s) {
				t.Errorf("no %s in %s", s, line)
			}
		}
		return
	}
	t.Errorf("rspamd has said nothing of %s", subject)
}

// chained shows a message as it arrived to dkimpy and Mail::DKIM, and again with
// another author.
func (l *lab) chained(t *testing.T, message string) {
	t.Helper()
	zone := trust.Zone{}
	for _, record := range l.keys(t) {
		name, rest, _ := strings.Cut(record, " ")
		value := ""
		for i, part := range strings.Split(rest, `"`) {
			if i%2 == 1 {
				value += part
			}
		}
		zone[strings.ToLower(strings.TrimSuffix(name, "."))] = [][2]string{{"TXT", value}}
	}
	for _, c := range []struct{ message, want string }{{message, "pass"}, {strings.Replace(message, "From: Ann", "From: Eve", 1), "fail"}} {
		python, perl, err := trust.Chain(t.Context(), t.TempDir(), zone, []byte(c.message))
		if err != nil || python != c.want || perl != c.want {
			t.Errorf("of the chain dkimpy says %q and Mail::DKIM %q, want %s: %v\n%s", python, perl, c.want, err, c.message)
		}
	}
}
