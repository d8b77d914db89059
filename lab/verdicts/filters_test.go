package verdicts

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// recipe is the first block of docs/trust.md in a language.
func recipe(t *testing.T, language string) string {
	t.Helper()
	page, err := os.ReadFile("../../docs/trust.md")
	must(t, err)
	_, rest, ok := strings.Cut(string(page), "```"+language+"\n")
	text, _, closed := strings.Cut(rest, "```")
	if !ok || !closed {
		t.Fatalf("docs/trust.md has no block in %s", language)
	}
	return text
}

// TestSieve: Pigeonhole does with each verdict what docs/trust.md says.
func TestSieve(t *testing.T) {
	if _, err := exec.LookPath("sieve-test"); errors.Is(err, exec.ErrNotFound) {
		if os.Getenv("MAILXMPPD_LAB") == "optional" {
			t.Skip("dovecot-sieve is not installed; scripts/deps installs it")
		}
		t.Fatal("dovecot-sieve is not installed; scripts/deps installs it")
	}
	// Not the test's own folder: the program becomes another user.
	dir, err := os.MkdirTemp("/tmp", "sv")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	must(t, os.Chmod(dir, 0o777))
	config, script := filepath.Join(dir, "dovecot.conf"), filepath.Join(dir, "trust.sieve")
	must(t, os.WriteFile(config, fmt.Appendf(nil, "mail_home=%s\nmail_location=mbox:%s/mail\nmail_uid=65534\nmail_gid=65534\nfirst_valid_uid=1\n", dir, dir), 0o644))
	must(t, os.WriteFile(script, []byte(recipe(t, "sieve")), 0o644))
	const inbox, junk, unproven, flagged = "folder: INBOX", "folder: Junk", "folder: Unproven", `\flagged`
	for _, c := range []struct {
		field string
		want  []string
		not   []string
	}{
		{"X-Mail-Trust: permitted; granted, proven by dkim", []string{inbox, flagged}, []string{junk, unproven}},
		{"X-Mail-Trust: authenticated; proven by dkim", []string{inbox}, []string{junk, unproven, flagged}},
		{"X-Mail-Trust: authenticated; proven by dkim, forged;\r\n\tunproven;", []string{inbox}, []string{junk, unproven, flagged}},
		{"X-Mail-Trust: unproven; not judged", []string{unproven}, []string{inbox, junk, flagged}},
		{"X-Mail-Trust: forged; montague.example asks\r\n\tto reject mail", []string{junk}, []string{inbox, unproven, flagged}},
		{"X-Other: forged; x", []string{inbox}, []string{junk, unproven, flagged}},
	} {
		message := filepath.Join(dir, "message.eml")
		must(t, os.WriteFile(message, []byte(c.field+"\r\nFrom: a@b.example\r\nSubject: s\r\n\r\nbody\r\n"), 0o644))
		out, err := exec.Command("sieve-test", "-c", config, script, message).Output()
		if err != nil {
			t.Fatalf("sieve-test: %v\n%s", err, out)
		}
		for _, want := range c.want {
			if !strings.Contains(string(out), want) {
				t.Errorf("%s: no %q in\n%s", c.field, want, out)
			}
		}
		for _, not := range c.not {
			if strings.Contains(string(out), not) {
				t.Errorf("%s: %q in\n%s", c.field, not, out)
			}
		}
	}
}

// TestThunderbirdForm: Thunderbird is not run here. Its filter has the form in
// which Thunderbird keeps such rules (msgFilterRules.dat: an attribute and its
// value in quotes a line, a quote within escaped; a rule begins with its name;
// conditions are a field, an operator and a value between commas, with the field
// in quotes where it is not one of Thunderbird's own), and its condition, read as
// such, picks forged mail and no other.
func TestThunderbirdForm(t *testing.T) {
	page, err := os.ReadFile("../../docs/trust.md")
	must(t, err)
	_, after, ok := strings.Cut(string(page), "`msgFilterRules.dat`")
	if !ok {
		t.Fatal("docs/trust.md has no rules for Thunderbird")
	}
	_, after, _ = strings.Cut(after, "```\n")
	rules, _, ok := strings.Cut(after, "```")
	if !ok {
		t.Fatal("no block for Thunderbird")
	}
	line := regexp.MustCompile(`^(\w+)="((?:[^"\\]|\\.)*)"$`)
	var names []string
	values := map[string]string{}
	for l := range strings.Lines(rules) {
		m := line.FindStringSubmatch(strings.TrimSuffix(l, "\n"))
		if m == nil {
			t.Fatalf("%q is no attribute", l)
		}
		names = append(names, m[1])
		values[m[1]] = strings.ReplaceAll(m[2], `\"`, `"`)
	}
	if got := strings.Join(names, " "); got != "name enabled type action actionValue condition" {
		t.Errorf("attributes %s", got)
	}
	// 1 is the inbox, 16 by hand (nsMsgFilterType).
	if values["enabled"] != "yes" || values["type"] != "17" || values["action"] != "Move to folder" {
		t.Errorf("values %v", values)
	}
	if folder, err := url.PathUnescape(values["actionValue"]); err != nil || folder != "mailbox://nobody@Local Folders/Junk" {
		t.Errorf("folder %s, %v", folder, err)
	}
	term := regexp.MustCompile(`^AND \("([\w-]+)",(begins with),([^,)"]+)\)$`).FindStringSubmatch(values["condition"])
	if term == nil {
		t.Fatalf("condition %q", values["condition"])
	}
	for _, c := range []struct {
		field  string
		picked bool
	}{
		{"X-Mail-Trust: forged; montague.example asks to reject mail", true},
		{"X-Mail-Trust: authenticated; proven by dkim", false},
		{"X-Mail-Trust: unproven; not forged; nothing", false},
	} {
		name, value, _ := strings.Cut(c.field, ": ")
		if got := name == term[1] && strings.HasPrefix(value, term[3]); got != c.picked {
			t.Errorf("%s: picked %v", c.field, got)
		}
	}
}
