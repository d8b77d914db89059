package trust

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"mailxmppd/trust/authres"
)

// expectation is a line of Mail::DKIM's own test: a file of its corpus, and what
// the program says of it.
var expectation = regexp.MustCompile(`(?m)^\s*test_email\(\s*"([^"]+)",\s*"([a-z]+)"\s*\)`)

// Why we do not let pass what Mail::DKIM does: the corpus is old.
const (
	draft     = "version is not 1"        // of a draft of DKIM, whose versions were others
	sha1      = "rsa-sha1 proves nothing" // RFC 8301 section 3.1
	domainKey = "no signature"            // of DomainKeys, which DKIM has taken the place of
)

// corpusDiffers lists the messages that pass with Mail::DKIM and not with us.
var corpusDiffers = map[string]string{
	"good_ietf00_1.txt": draft, "good_ietf00_2.txt": draft, "good_ietf00_3.txt": draft, "good_ietf00_4.txt": draft, "good_ietf00_5.txt": draft,
	"good_ietf01_1.txt": draft, "good_ietf01_2.txt": draft,
	"mine_ietf01_1.txt": draft, "mine_ietf01_2.txt": draft, "mine_ietf01_3.txt": draft, "mine_ietf01_4.txt": draft, "mine_ietf05_1.txt": draft,
	"multiple_1.txt": draft, "no_body_1.txt": draft, "no_body_2.txt": draft, "no_body_3.txt": draft,

	"good_rfc4871_3.txt": sha1, "good_rfc4871_4.txt": sha1, "good_1878523.txt": sha1, "good_83176.txt": sha1, "multiple_2.txt": sha1,
	"good_qp_1.txt": sha1, "good_qp_2.txt": sha1, "good_qp_3.txt": sha1,
	"goodkey_1.txt": sha1, "goodkey_2.txt": sha1, "goodkey_3.txt": sha1, "goodkey_4.txt": sha1,

	"good_dk_gmail.txt": domainKey, "good_dk_yahoo.txt": domainKey, "good_dk_1.txt": domainKey, "good_dk_2.txt": domainKey, "good_dk_3.txt": domainKey,
	"good_dk_4.txt": domainKey, "good_dk_5.txt": domainKey, "good_dk_6.txt": domainKey, "good_dk_7.txt": domainKey,
	"dk_headers_1.txt": domainKey, "dk_headers_2.txt": domainKey, "dk_multiple_1.txt": domainKey,
}

// zoneFile reads Mail::DKIM's own: name and text, NXDOMAIN, or a failure between
// tildes.
func zoneFile(t *testing.T, file string) Zone {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	z := Zone{}
	for line := range strings.Lines(string(b)) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), " ")
		value = strings.TrimSpace(value)
		switch name = strings.ToLower(name); {
		case !ok, strings.HasPrefix(name, "#"), value == "NXDOMAIN":
		case strings.HasPrefix(value, "~~"):
			z[name] = [][2]string{{"FAIL", ""}}
		default:
			z[name] = text(strings.Trim(value, `"`))
		}
	}
	return z
}

// TestDKIMCorpus holds us against the messages that Mail::DKIM has collected.
func TestDKIMCorpus(t *testing.T) {
	dir := filepath.Join(suites(t, "mail-dkim"), "t")
	script, err := os.ReadFile(filepath.Join(dir, "verifier.t"))
	if err != nil {
		t.Fatal(err)
	}
	resolver := serve(t, zoneFile(t, filepath.Join(dir, "FAKE_DNS.dat")))
	run, differ := 0, 0
	for _, m := range expectation.FindAllStringSubmatch(string(script), -1) {
		name, want := m[1], m[2]
		content, err := os.ReadFile(filepath.Join(dir, "corpus", name))
		if err != nil {
			t.Fatal(err)
		}
		run++
		pass, said := false, ""
		for _, s := range ours(t, resolver, content).DKIM {
			pass = pass || s.Result == authres.Pass
			said += string(s.Result) + ": " + s.Reason + "\n"
		}
		if said == "" {
			said = domainKey
		}
		known, differs := corpusDiffers[name]
		switch {
		case differs && want == "pass" && !pass && strings.Contains(said, known):
			differ++
		case differs || pass != (want == "pass"):
			t.Errorf("%s: %q, Mail::DKIM says %s", name, said, want)
		}
	}
	if run < 75 || differ != len(corpusDiffers) {
		t.Errorf("%d messages, %d of %d that differ", run, differ, len(corpusDiffers))
	}
}
