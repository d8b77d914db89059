package trust

import (
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"mailxmppd/mail"
	"mailxmppd/trust"
	"mailxmppd/trust/authres"
	"mailxmppd/trust/dmarc"
)

// rspamd's tests scan a message as from a client and a reverse-path, and expect
// a symbol. Their DNS is a list in a configuration file.
var (
	scan      = regexp.MustCompile(`(?m)^  Scan File  (\S+)((?:\s+\.\.\.  .*)*)\s+Expect Symbol(?: With Score And Exact Options)?  (\S+)`)
	scanIP    = regexp.MustCompile(`\bIP=(\S+)`)
	scanFrom  = regexp.MustCompile(`\bFrom=(\S+)`)
	dnsRecord = regexp.MustCompile(`(?s)name = "([^"]+)"[^{}]*?type = "?(\w+)"?[^{}]*?(?:replies = \[([^\]]*)\]|rcode = ['"](\w+)['"])`)
	quoted    = regexp.MustCompile(`"((?:[^"\\]|\\.)*)"`)
)

// rspamdZone reads the list.
func rspamdZone(t *testing.T, file string) Zone {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	z := Zone{}
	for _, m := range dnsRecord.FindAllStringSubmatch(string(b), -1) {
		name, kind, rcode := strings.ToLower(m[1]), strings.ToUpper(m[2]), m[4]
		switch {
		case rcode == "timeout" || rcode == "servfail":
			z[name] = append(z[name], [2]string{"FAIL", ""})
		case rcode != "nxdomain" && z[name] == nil:
			z[name] = [][2]string{}
		}
		for _, r := range quoted.FindAllStringSubmatch(m[3], -1) {
			value := strings.ReplaceAll(r[1], `\"`, `"`)
			if kind == "MX" {
				_, value, _ = strings.Cut(value, " ")
			}
			z[name] = append(z[name], [2]string{kind, value})
		}
	}
	return z
}

// symbols is what we have to say for what rspamd is to say.
var symbols = map[string]func(trust.Evidence) bool{
	"DMARC_POLICY_ALLOW":      dmarcIs(authres.Pass, ""),
	"DMARC_POLICY_SOFTFAIL":   dmarcIs(authres.Fail, dmarc.PolicyNone),
	"DMARC_POLICY_QUARANTINE": dmarcIs(authres.Fail, dmarc.PolicyQuarantine),
	"DMARC_POLICY_REJECT":     dmarcIs(authres.Fail, dmarc.PolicyReject),
	"DMARC_DNSFAIL":           dmarcIs(authres.TempError, ""),
	"DMARC_NA":                dmarcIs(authres.None, ""),
	"R_SPF_ALLOW":             spfIs(authres.Pass),
	"R_SPF_FAIL":              spfIs(authres.Fail),
	"R_SPF_PERMFAIL":          spfIs(authres.PermError),
	"R_SPF_DNSFAIL":           spfIs(authres.TempError),
	"R_SPF_NA":                spfIs(authres.None),
	"R_DKIM_ALLOW":            dkimIs(authres.Pass),
	"R_DKIM_PERMFAIL":         dkimIs(authres.PermError),
	"R_DKIM_TEMPFAIL":         dkimIs(authres.TempError),
	"R_DKIM_REJECT":           dkimIs(authres.Fail),
	"R_DKIM_NA":               func(ev trust.Evidence) bool { return len(ev.DKIM) == 0 },
	"ARC_ALLOW":               func(ev trust.Evidence) bool { return ev.ARC.Result == authres.Pass },
	"ARC_INVALID":             func(ev trust.Evidence) bool { return ev.ARC.Result == authres.Fail },
}

func dmarcIs(r authres.Result, p dmarc.Policy) func(trust.Evidence) bool {
	return func(ev trust.Evidence) bool {
		return len(ev.DMARC) == 1 && ev.DMARC[0].Result == r && (p == "" || ev.DMARC[0].Policy == p)
	}
}

func spfIs(r authres.Result) func(trust.Evidence) bool {
	return func(ev trust.Evidence) bool { return ev.MailFrom.Result == r }
}

func dkimIs(r authres.Result) func(trust.Evidence) bool {
	return func(ev trust.Evidence) bool {
		for _, s := range ev.DKIM {
			if s.Result != r {
				return false
			}
		}
		return len(ev.DKIM) > 0
	}
}

// rspamdDiffers lists the scans that we judge otherwise, with what we say.
var rspamdDiffers = map[string]string{
	// RFC 9989 section 4.10.2: the organizational domain is found by a walk up the
	// tree, not in a list. my.mom.za.org has a policy of its own and nothing above
	// it has, so that it is an organization, and mom.za.org another.
	"onsubdomain_pass_relaxed.eml 127.0.0.1 ":         "dmarc=fail (nothing proves the author's domain)",
	"onsubdomain_fail.eml 37.48.67.26 foo@mom.za.org": "dmarc=fail (nothing proves the author's domain)",
	// RFC 9989 has no pct= any more: what is asked for is not weakened.
	"pct_none.eml 37.48.67.26 foo@mom.za.org":  "dmarc=fail (nothing proves the author's domain)",
	"pct_none1.eml 37.48.67.26 foo@mom.za.org": "dmarc=fail (nothing proves the author's domain)",
	// RFC 7208 section 5.2: a domain that is included and has no record is an error.
	"bad_dkim1.eml 37.48.67.26 x@fail3.org.org.za": "spf=permerror",
	// The client is whom a Received field tells of; fields are nobody's word here.
	"external_relay.eml 127.0.0.1 ": "spf=none",
	// Their keys were in the DNS of their day, and are not in the list.
	"dkim_unknown_tags.eml 127.0.0.1 ": "dkim=permerror (there is no key)",
	"arcallow.eml 127.0.0.1 ":          "arc=fail (message signature 2: there is no key)",
}

// TestRspamdVectors runs what rspamd has for DMARC, SPF, DKIM and ARC.
func TestRspamdVectors(t *testing.T) {
	dir := filepath.Join(suites(t, "rspamd"), "test/functional")
	resolver := serve(t, rspamdZone(t, filepath.Join(dir, "configs/merged-local.conf")))
	evaluator := trust.New(trust.Config{DNS: resolver})
	run, differ := 0, 0
	for _, file := range []string{"001_merged/115_dmarc", "001_merged/117_spf", "116_dkim", "001_merged/321_arc_check"} {
		script, err := os.ReadFile(filepath.Join(dir, "cases", file+".robot"))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range scan.FindAllStringSubmatch(string(script), -1) {
			message, arguments, symbol := m[1], m[2], m[3]
			if strings.Contains(message, "SIGNED_MESSAGE") {
				continue // which rspamd itself makes
			}
			var content []byte
			if path, ok := strings.CutPrefix(message, "${RSPAMD_TESTDIR}/"); ok {
				if content, err = os.ReadFile(filepath.Join(dir, path)); err != nil {
					t.Fatal(err)
				}
			}
			in := trust.Input{Arrival: trust.BySMTP, Client: netip.MustParseAddr("127.0.0.1"), Content: mail.Bytes(crlf(string(content)))}
			if ip := scanIP.FindStringSubmatch(arguments); ip != nil {
				in.Client = netip.MustParseAddr(ip[1])
			}
			if from := scanFrom.FindStringSubmatch(arguments); from != nil {
				if in.Sender, err = mail.ParseAddress(from[1]); err != nil {
					t.Fatal(err)
				}
			}
			run++
			ev := evaluator.Evaluate(t.Context(), in)
			name := filepath.Base(message) + " " + in.Client.String() + " " + in.Sender.String()
			var said []string
			for _, m := range ev.Methods() {
				said = append(said, m.Name+"="+string(m.Result)+" ("+m.Reason+")")
			}
			check, known := symbols[symbol]
			wrong := !known || !check(ev)
			if says, differs := rspamdDiffers[name]; differs {
				wrong = !wrong || !strings.Contains(strings.Join(said, ", "), says)
				differ++
			}
			if wrong {
				t.Errorf("%s: %s; we say %s", name, symbol, strings.Join(said, ", "))
			}
		}
	}
	if run < 50 || differ != len(rspamdDiffers) {
		t.Errorf("%d scans, %d of %d that differ", run, differ, len(rspamdDiffers))
	}
}
