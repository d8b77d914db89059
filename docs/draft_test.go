// Package docs_test holds the documents against each other and against the
// code that they speak of. The draft's examples are tested in xmpp/transfer,
// whose decoders they are for.
package docs_test

import (
	"encoding/xml"
	"errors"
	"fmt"
	"go/ast"
	"go/constant"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// root is the module's folder, seen from here.
const root = ".."

func read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(file)))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func draft(t *testing.T) string { return read(t, "docs/xep-draft.md") }

// outsideCode is a document without its code blocks.
func outsideCode(text string) string {
	return regexp.MustCompile("(?ms)^```.*?^```$").ReplaceAllString(text, "")
}

// sections returns the titles of the draft's numbered sections by their
// numbers, and the numbers in their order.
func sections(t *testing.T) (titles map[string]string, order []string) {
	t.Helper()
	titles = map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^(##+) (\d+(?:\.\d+)?)\.? (.+)$`).FindAllStringSubmatch(outsideCode(draft(t)), -1) {
		if depth := len(m[1]) - 1; depth != strings.Count(m[2], ".")+1 {
			t.Errorf("section %s has the wrong kind of heading", m[2])
		}
		titles[m[2]] = m[3]
		order = append(order, m[2])
	}
	return titles, order
}

func TestDraftSections(t *testing.T) {
	titles, order := sections(t)
	top, sub := 0, 0
	for _, number := range order {
		want := ""
		if strings.Contains(number, ".") {
			sub++
			want = fmt.Sprintf("%d.%d", top, sub)
		} else {
			top, sub = top+1, 0
			want = strconv.Itoa(top)
		}
		if number != want {
			t.Errorf("section %s stands where section %s should", number, want)
		}
	}
	// What the XSF asks of every document, and what this one must speak of.
	have := strings.Join(order, "\n")
	for _, title := range []string{
		"Introduction", "Requirements", "Glossary", "Discovery", "Use cases", "Binding and authorisation", "Errors",
		"Business rules", "Grants", "REQUIRETLS", "Downgrade protection", "Implementation notes",
		"Internationalisation considerations", "Accessibility considerations", "Security considerations",
		"Privacy considerations", "IANA considerations", "XMPP registrar considerations", "XML schema",
		"Design considerations",
	} {
		found := false
		for _, number := range order {
			found = found || titles[number] == title
		}
		if !found {
			t.Errorf("no section is called %q; there are %s", title, have)
		}
	}
	// References inside the draft; those to other documents name them before.
	text := regexp.MustCompile(`\s+`).ReplaceAllString(outsideCode(draft(t)), " ")
	for _, m := range regexp.MustCompile(`(\S+ \d+ )?sections? (\d+(?:\.\d+)*)`).FindAllStringSubmatch(text, -1) {
		if !strings.HasPrefix(strings.TrimLeft(m[1], "("), "RFC ") && titles[m[2]] == "" {
			t.Errorf("the draft refers to its section %s, which is not there", m[2])
		}
	}
}

func TestDraftForm(t *testing.T) {
	text := draft(t)
	for i, line := range strings.Split(text, "\n") {
		n := len([]rune(line))
		if n > 110 && !strings.HasPrefix(line, "| ") { // a row cannot be broken
			t.Errorf("line %d has %d characters", i+1, n)
		}
		if strings.TrimRight(line, " \t") != line || strings.Contains(line, "\t") {
			t.Errorf("line %d has a tab or ends in white space", i+1)
		}
	}
	for _, block := range regexp.MustCompile("(?ms)^```xml\n(.*?)^```$").FindAllStringSubmatch(text, -1) {
		if double := regexp.MustCompile(`[\w:-]+\s*=\s*"[^"]*"`).FindString(block[1]); double != "" {
			t.Errorf("attribute in double quotes: %s", double)
		}
	}
	for _, block := range regexp.MustCompile("(?ms)^```xml\n(.*?)^```$").FindAllStringSubmatch(text, -1) {
		for dec := xml.NewDecoder(strings.NewReader(block[1])); ; {
			if _, err := dec.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Errorf("not well-formed, %v: %.200s", err, block[1])
				break
			}
		}
	}
	captions := map[string]bool{}
	for i, m := range regexp.MustCompile(`(?m)^Example (\d+)\. (.+)$`).FindAllStringSubmatch(text, -1) {
		if m[1] != strconv.Itoa(i+1) {
			t.Errorf("example %s stands where example %d should", m[1], i+1)
		}
		if captions[m[2]] {
			t.Errorf("two examples are called %q", m[2])
		}
		captions[m[2]] = true
	}
	// Every block is an example but the schema and the registrar's form.
	if blocks := strings.Count(text, "\n```xml\n"); blocks != len(captions)+2 {
		t.Errorf("%d blocks of XML and %d examples", blocks, len(captions))
	}
}

func TestDraftHasTheSchema(t *testing.T) {
	if !strings.Contains(draft(t), "\n```xml\n"+read(t, "schema/mail-transport.xsd")+"```\n") {
		t.Error("section 18 is not schema/mail-transport.xsd")
	}
}

// TestDraftSMTPExtensions holds section 7.5 against what the SMTP side offers.
func TestDraftSMTPExtensions(t *testing.T) {
	_, table, _ := strings.Cut(draft(t), "\n### 7.5 ")
	table, _, _ = strings.Cut(table, "\n## ")
	fate := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^\| ([A-Z0-9-]+) \| [^|]+ \| ([^|]+) \| [^|]*\|$`).FindAllStringSubmatch(table, -1) {
		if fate[m[1]] != "" {
			t.Errorf("%s is there twice", m[1])
		}
		fate[m[1]] = m[2]
		switch m[2] {
		case "carried", "here", "hop", "refused":
		default:
			t.Errorf("%s: %q is not what can become of an extension", m[1], m[2])
		}
	}
	offered := offeredKeywords(t)
	if len(offered) < 7 {
		t.Fatalf("found only %v offered", offered)
	}
	for keyword := range offered {
		if fate[keyword] == "" || fate[keyword] == "refused" {
			t.Errorf("the SMTP side offers %s; section 7.5 says %q", keyword, fate[keyword])
		}
	}
}

// offeredKeywords reads the EHLO keywords from the functions that list them.
func offeredKeywords(t *testing.T) map[string]bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, "smtpbridge", "*.go"))
	if err != nil || len(files) == 0 {
		t.Fatal("no smtpbridge", err)
	}
	word := regexp.MustCompile(`^"([A-Z0-9][A-Z0-9-]{2,})(?:[ =].*)?"$`)
	out := map[string]bool{}
	for _, file := range files {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			f, ok := n.(*ast.FuncDecl)
			if !ok {
				return true
			}
			if strings.HasSuffix(file, "_test.go") || f.Name.Name != "extensions" && f.Name.Name != "keywords" {
				return false
			}
			ast.Inspect(f, func(n ast.Node) bool {
				if lit, ok := n.(*ast.BasicLit); ok {
					if m := word.FindStringSubmatch(lit.Value); m != nil {
						out[m[1]] = true
					}
				}
				return true
			})
			return false
		})
	}
	return out
}

// TestDraftTimes holds the times and bounds of discovery (sections 4.3 and
// 4.4) against the constants of xmpp/peers.
func TestDraftTimes(t *testing.T) {
	values := constants(t, "xmpp/peers")
	_, section, _ := strings.Cut(draft(t), "\n### 4.3 ")
	section, _, _ = strings.Cut(section, "\n### 4.5 ")
	section = regexp.MustCompile(`\s+`).ReplaceAllString(section, " ")
	for _, name := range []string{"sightingFor", "longestPin", "absenceGap", "maxWithdrawal", "withdrawalPause", "withdrawalPath"} {
		if values[name] == nil {
			t.Fatalf("xmpp/peers has no constant %s", name)
		}
	}
	const hour = 60 * 60 * 1000000000
	for _, c := range []struct {
		name, format string
		unit         int64
	}{
		{"sightingFor", "on an authenticated stream within %d days", 24 * hour},
		{"longestPin", "never longer than %d seconds (90 days)", hour / 3600},
		{"absenceGap", "given twice, at least %d hours apart", hour},
		{"maxWithdrawal", "at most %d octets long", 1},
		{"withdrawalPause", "no more often than once an hour", hour},
	} {
		v, ok := constant.Int64Val(values[c.name])
		if want := strings.ReplaceAll(c.format, "%d", strconv.FormatInt(v/c.unit, 10)); !ok || v%c.unit != 0 || !strings.Contains(section, want) {
			t.Errorf("%s is %v; the draft does not say %q", c.name, values[c.name], want)
		}
	}
	if v, _ := constant.Int64Val(values["withdrawalPause"]); v != hour {
		t.Errorf("withdrawalPause is not the hour of section 4.4")
	}
	if path := values["withdrawalPath"]; path.Kind() != constant.String || !strings.Contains(section, "https://montague.example"+constant.StringVal(path)+" ") {
		t.Errorf("section 4.4 does not have the address %v", path)
	}
}

// TestDraftSettings holds what a sender does for how long (sections 5.6 and
// 9.3) against the defaults and bounds of the settings.
func TestDraftSettings(t *testing.T) {
	text := regexp.MustCompile(`\s+`).ReplaceAllString(draft(t), " ")
	sample := read(t, "docs/mailxmppd.sample.toml")
	for _, c := range []struct{ setting, says string }{
		{`#request_timeout = "1m"`, "It SHOULD wait one minute for the answer"},
		{`#lifetime = "5d"`, "a sender's lifetime for a message is therefore at most 7 days"},
	} {
		if !strings.Contains(sample, "\n"+c.setting+"\n") || !strings.Contains(text, c.says) {
			t.Errorf("%q is not the default, or the draft does not say %q", c.setting, c.says)
		}
	}
	// What is asked for below the first bound or above the second is refused.
	for setting, bounds := range map[string]string{
		"queue.lifetime": `q\.Lifetime, [^,]+, 7\*24\*time\.Hour`,
		"xmpp.retain":    `x\.Retain, 7\*24\*time\.Hour, [^,]+`,
	} {
		if !regexp.MustCompile(`c\.span\("` + regexp.QuoteMeta(setting) + `", ` + bounds + `\)`).MatchString(read(t, "config/check.go")) {
			t.Errorf("%s is not bounded by the 7 days of section 5.6", setting)
		}
	}
}

// constants evaluates the numbers and strings that a package declares, those
// that need nothing but package time.
func constants(t *testing.T, folder string) map[string]constant.Value {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, filepath.FromSlash(folder), "*.go"))
	if err != nil || len(files) == 0 {
		t.Fatal("no files", err)
	}
	units := strings.NewReplacer("time.Hour", "3600000000000", "time.Minute", "60000000000", "time.Second", "1000000000")
	out := map[string]constant.Value{}
	for _, file := range files {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			if spec, ok := n.(*ast.ValueSpec); ok && len(spec.Names) == len(spec.Values) {
				for i, name := range spec.Names {
					v, err := types.Eval(token.NewFileSet(), nil, token.NoPos, units.Replace(types.ExprString(spec.Values[i])))
					if err == nil && v.Value != nil {
						out[name.Name] = v.Value
					}
				}
			}
			return true
		})
	}
	return out
}
