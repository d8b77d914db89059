package faults

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestPage: the table of faults in docs/architecture.md names tests that there
// are, and all of this package and of lab/crash.
func TestPage(t *testing.T) {
	const root = "../.."
	page, err := os.ReadFile(filepath.Join(root, "docs/architecture.md"))
	must(t, err)
	_, table, found := strings.Cut(string(page), "### Faults, and the tests that show them\n")
	if !found {
		t.Fatal("no table of faults")
	}
	named := map[string]bool{}
	for _, m := range regexp.MustCompile("`([a-z/]+)\\.(Test[A-Za-z]+)`").FindAllStringSubmatch(table, -1) {
		named[m[1]+"."+m[2]] = true
		if !testsOf(t, filepath.Join(root, m[1]))[m[2]] {
			t.Errorf("the page names %s.%s, which there is not", m[1], m[2])
		}
	}
	for _, dir := range []string{"lab/faults", "lab/crash"} {
		for name := range testsOf(t, filepath.Join(root, dir)) {
			if !named[dir+"."+name] && name != "TestPage" && name != "TestMain" {
				t.Errorf("%s.%s is not on the page", dir, name)
			}
		}
	}
}

// testsOf are the names of a package's tests.
func testsOf(t *testing.T, dir string) map[string]bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	must(t, err)
	names := map[string]bool{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		must(t, err)
		for _, m := range regexp.MustCompile(`(?m)^func (Test[A-Za-z]+)\(`).FindAllStringSubmatch(string(text), -1) {
			names[m[1]] = true
		}
	}
	return names
}
