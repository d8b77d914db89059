package docs_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// row is a line of a table of conformance.md: what it is about, what of it,
// how far it is done, where, and by which test it is shown.
type row struct{ name, what, status, files, tests string }

// conformance returns the rows of the table under a heading.
func conformance(t *testing.T, heading string) []row {
	t.Helper()
	_, part, found := strings.Cut(read(t, "docs/conformance.md"), "\n## "+heading+"\n")
	if !found {
		t.Fatalf("conformance.md has no part %q", heading)
	}
	part, _, _ = strings.Cut(part, "\n## ")
	var out []row
	for line := range strings.Lines(part) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if !strings.HasPrefix(line, "| ") || len(cells) != 5 {
			if strings.HasPrefix(line, "| ") {
				t.Errorf("not a row of five cells: %s", line)
			}
			continue
		}
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		out = append(out, row{cells[0], cells[1], cells[2], cells[3], cells[4]})
	}
	if len(out) < 2 {
		t.Fatalf("part %q has no table", heading)
	}
	return out[1:] // the first is the head
}

const (
	partDraft     = "The draft, section by section"
	partDocuments = "Documents"
)

func TestConformanceHasTheDraft(t *testing.T) {
	titles, order := sections(t)
	rows := conformance(t, partDraft)
	for i, number := range order {
		if i >= len(rows) || rows[i].name != number || rows[i].what != titles[number] {
			t.Fatalf("row %d of the draft must be of section %s, %s", i+1, number, titles[number])
		}
	}
	if len(rows) > len(order) {
		t.Errorf("row of section %s, which the draft does not have", rows[len(order)].name)
	}
}

// TestConformanceRows: every status is one of four, what is done or partly done
// has a file and a test, and all of these exist.
func TestConformanceRows(t *testing.T) {
	tests := testsByFolder(t)
	for _, r := range slices.Concat(conformance(t, partDraft), conformance(t, partDocuments)) {
		files, shown := quoted(r.files), quoted(r.tests)
		switch r.status {
		case "done", "partly":
			if len(files) == 0 || len(shown) == 0 {
				t.Errorf("%s is %s without a file or a test", r.name, r.status)
			}
		case "not yet", "text":
		default:
			t.Errorf("%s: status %q is none of done, partly, not yet, text", r.name, r.status)
		}
		for _, file := range files {
			if _, err := os.Stat(filepath.Join(root, filepath.FromSlash(file))); err != nil {
				t.Errorf("%s: %s does not exist", r.name, file)
			}
		}
		for _, test := range shown {
			folder, name, ok := strings.Cut(test, ".")
			if !ok || !slices.Contains(tests[folder], name) {
				t.Errorf("%s: there is no test %s", r.name, test)
			}
		}
	}
}

func quoted(cell string) []string {
	var out []string
	for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cell, -1) {
		out = append(out, m[1])
	}
	return out
}

// walk calls visit for every file of the project.
func walk(t *testing.T, visit func(name string)) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name := d.Name(); d.IsDir() && path != root && (strings.HasPrefix(name, ".") || name == "testdata") {
			return filepath.SkipDir
		}
		if !d.IsDir() {
			name, err := filepath.Rel(root, path)
			if err != nil {
				return err
			}
			visit(filepath.ToSlash(name))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func testsByFolder(t *testing.T) map[string][]string {
	t.Helper()
	out := map[string][]string{}
	declared := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	walk(t, func(name string) {
		if strings.HasSuffix(name, "_test.go") {
			folder := filepath.ToSlash(filepath.Dir(name))
			for _, m := range declared.FindAllStringSubmatch(read(t, name), -1) {
				out[folder] = append(out[folder], m[1])
			}
		}
	})
	return out
}

var (
	documents = regexp.MustCompile(`\b(?:RFC ?\d{3,5}|XEP-\d{4})\b`)
	drafted   = regexp.MustCompile(`xep-draft,? sections? (\d+(?:\.\d+)*(?:(?:, | and )\d+(?:\.\d+)*)*)`)
)

// TestConformanceHasEveryCitation: each document that a comment or a document
// of the project names has a row, each row's document is named somewhere, and
// each section of the draft that is named exists.
func TestConformanceHasEveryCitation(t *testing.T) {
	cited := map[string]string{} // the document, and a file that names it
	titles, _ := sections(t)
	walk(t, func(name string) {
		var text string
		switch {
		case name == "docs/conformance.md" || name == "docs/conformance_test.go":
			return
		case strings.HasSuffix(name, ".go"):
			text = comments(t, name)
		case slices.Contains([]string{".md", ".xsd", ".sql", ".toml", ".sh"}, filepath.Ext(name)):
			text = read(t, name)
		}
		text = regexp.MustCompile(`\s+`).ReplaceAllString(text, " ")
		for _, doc := range documents.FindAllString(text, -1) {
			if !strings.Contains(doc, " ") && strings.HasPrefix(doc, "RFC") {
				doc = "RFC " + strings.TrimPrefix(doc, "RFC")
			}
			cited[doc] = name
		}
		for _, m := range drafted.FindAllStringSubmatch(text, -1) {
			for number := range strings.FieldsFuncSeq(m[1], func(c rune) bool { return c != '.' && (c < '0' || c > '9') }) {
				if titles[strings.Trim(number, ".")] == "" {
					t.Errorf("%s cites section %s of the draft, which is not there", name, number)
				}
			}
		}
	})
	listed := map[string]bool{}
	for _, r := range conformance(t, partDocuments) {
		if listed[r.name] {
			t.Errorf("%s is listed twice", r.name)
		}
		listed[r.name] = true
		if cited[r.name] == "" {
			t.Errorf("%s is listed and cited nowhere", r.name)
		}
	}
	for _, doc := range slices.Sorted(maps.Keys(cited)) {
		if !listed[doc] {
			t.Errorf("%s is cited (%s) and not listed", doc, cited[doc])
		}
	}
	if len(cited) < 50 {
		t.Errorf("only %d documents found in the whole project", len(cited))
	}
}

// comments returns a Go file's comments, each run of lines as one text.
func comments(t *testing.T, name string) string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, filepath.FromSlash(name)), nil, parser.ParseComments)
	if err != nil {
		t.Logf("not read whole: %v", err) // the compiler's affair
	}
	if file == nil {
		return ""
	}
	var b strings.Builder
	for _, group := range file.Comments {
		b.WriteString(group.Text())
		b.WriteString("\n")
	}
	return b.String()
}
