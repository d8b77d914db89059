package config

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"mailxmppd/mail"
)

// maxFile bounds the configuration file, in octets.
const maxFile = 4 << 20

// Problem is one mistake in a file.
type Problem struct {
	File   string `json:"file"`
	Line   int    `json:"line,omitempty"` // 0 when the file cannot be read
	Key    string `json:"key,omitempty"`  // e.g. "domain.name"; "" for a syntax error
	Reason string `json:"reason"`
}

// String returns "file:line: key: reason".
func (p Problem) String() string {
	s := p.File
	if p.Line > 0 {
		s = fmt.Sprintf("%s:%d", s, p.Line)
	}
	if p.Key != "" {
		s += ": " + p.Key
	}
	return s + ": " + p.Reason
}

// Errors is everything that is wrong with a file, in the order of its lines.
type Errors struct{ List []Problem }

// Error returns a line for each problem.
func (e *Errors) Error() string {
	lines := make([]string, len(e.List))
	for i, p := range e.List {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// Load reads and checks a file. Its error is always an *Errors.
func Load(path string) (*Config, error) {
	data, err := readBounded(path, maxFile)
	if err != nil {
		return nil, &Errors{[]Problem{{File: path, Reason: err.Error()}}}
	}
	base, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return nil, &Errors{[]Problem{{File: path, Reason: err.Error()}}}
	}
	return parse(path, base, data)
}

// parse reads and checks the text of a file. Relative paths start at base.
func parse(path, base string, data []byte) (*Config, error) {
	var doc map[string]any
	if err := toml.Unmarshal(data, &doc); err != nil {
		p := Problem{File: path, Line: 1, Reason: mail.Sanitise(strings.TrimPrefix(err.Error(), "toml: "))}
		if de, ok := errors.AsType[*toml.DecodeError](err); ok {
			p.Line, _ = de.Position()
		}
		return nil, &Errors{[]Problem{p}}
	}
	r := &report{file: path, lines: indexLines(data)}
	cfg := &Config{}
	cfg.defaults()
	bind(r, "", doc, cfg)
	check(r, base, cfg)
	if len(r.problems) > 0 {
		slices.SortStableFunc(r.problems, func(a, b Problem) int { return a.Line - b.Line })
		return nil, &Errors{r.problems}
	}
	return cfg, nil
}

// report gathers problems under the paths of their keys.
type report struct {
	file     string
	lines    map[string]int
	problems []Problem
	bad      map[string]bool // paths that have a problem already
}

// add notes a problem with the key at path, e.g. "domain[0].name". A second
// problem with the same key is a consequence of the first and is left out.
func (r *report) add(path, format string, args ...any) {
	if r.bad[path] {
		return
	}
	if r.bad == nil {
		r.bad = map[string]bool{}
	}
	r.bad[path] = true
	r.problems = append(r.problems, Problem{
		File: r.file, Line: r.line(path), Key: mail.Sanitise(keyName(path)), Reason: mail.Sanitise(fmt.Sprintf(format, args...)),
	})
}

// line finds where path stands in the file; for a key that is not there, the
// table that should hold it, and for a table that is not there, the first line.
func (r *report) line(path string) int {
	for path != "" {
		if n, ok := r.lines[path]; ok {
			return n
		}
		cut := strings.LastIndexAny(path, ".[")
		if cut < 0 {
			break
		}
		path = path[:cut]
	}
	return 1
}

// keyName is a path without its indices: the line tells which one is meant.
func keyName(path string) string {
	var b strings.Builder
	inside := false
	for _, c := range path {
		switch {
		case c == '[':
			inside = true
		case c == ']':
			inside = false
		case !inside:
			b.WriteRune(c)
		}
	}
	return b.String()
}
