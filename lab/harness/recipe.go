package harness

import (
	"fmt"
	"os"
	"regexp"
	"strings"
)

// Recipe is a section of a document with the settings that it gives: the text
// of each fenced block by the name after the block's language.
type Recipe map[string]string

// ReadRecipe reads the section with the given title.
func ReadRecipe(document, title string) (Recipe, error) {
	b, err := os.ReadFile(document)
	if err != nil {
		return nil, err
	}
	_, section, found := strings.Cut(string(b), "\n## "+title+"\n")
	if !found {
		return nil, fmt.Errorf("%s has no section %q", document, title)
	}
	section, _, _ = strings.Cut(section, "\n## ")
	r := Recipe{}
	for _, m := range regexp.MustCompile("(?ms)^```\\w+ (\\S+)\n(.*?)^```$").FindAllStringSubmatch(section, -1) {
		r[m[1]] = m[2]
	}
	if len(r) == 0 {
		return nil, fmt.Errorf("section %q of %s has no settings", title, document)
	}
	return r, nil
}
