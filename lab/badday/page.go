// Package badday plays what docs/operations.md tells of a bad day: the commands
// of the page, in their order, against gateways that run, and compares what
// they answer with what the page shows.
package badday

import (
	"regexp"
	"strings"
)

// step is what the page does next: a command with the output that it shows, or
// an event of the lab, which stands in a comment that readers do not see.
type step struct {
	line   int // of the page, from 0
	event  []string
	args   []string
	output string
	lines  int // of the output on the page
}

// stepsOf reads the part of a page under a heading.
func stepsOf(page, heading string) (steps []step) {
	within, fenced := false, false
	for n, line := range strings.Split(page, "\n") {
		text, isEvent := strings.CutPrefix(line, "<!-- lab: ")
		switch {
		case strings.HasPrefix(line, "## "):
			within = line == "## "+heading
		case !within:
		case strings.HasPrefix(line, "```"):
			fenced = !fenced
		case isEvent:
			steps = append(steps, step{line: n, event: strings.Fields(strings.TrimSuffix(text, " -->"))})
		case fenced && strings.HasPrefix(line, "$ "):
			steps = append(steps, step{line: n, args: argsOf(line[2:])})
		case fenced:
			s := &steps[len(steps)-1]
			s.output += line + "\n"
			s.lines++
		}
	}
	return steps
}

// argsOf splits a command line at blanks outside single quotes.
func argsOf(line string) (args []string) {
	quoted, within := false, false
	for _, r := range line {
		switch {
		case r == '\'':
			quoted = !quoted
			if !within {
				args, within = append(args, ""), true
			}
		case r == ' ' && !quoted:
			within = false
		default:
			if !within {
				args, within = append(args, ""), true
			}
			args[len(args)-1] += string(r)
		}
	}
	return args
}

var (
	idForm = regexp.MustCompile(`\b[0-9A-HJKMNP-TV-Z]{26}\b`)
	spaces = regexp.MustCompile(` {2,}|-{3,}`)
)

// shapeOf leaves of an output what is the same on any day: ids, times, ages,
// numbers of attempts and addresses are their kind.
func shapeOf(s string) string {
	for _, r := range [][2]string{
		{`(?m)^[a-z_]+: \d+ of \d+$`, "TABLE: N of N"},
		{`\b[0-9A-HJKMNP-TV-Z]{26}\b`, "ID"},
		{`\b20\d\d-\d\d-\d\dT[0-9:.]+Z`, "TIME"},
		{`\b\d{8}T\d{6}\.\d{3}Z`, "TIME"},
		{`\b[0-9a-f]{64}\b`, "HASH"},
		{`(127\.0\.0\.1|\[::1\]):\d+`, "ADDRESS"},
		{`\b(now|in [0-9dhmsµ.]*[dhms])( |$)`, "DUE "},
		{`\b\d+(\.\d+)?(d|h|m|s|ms|µs)([0-9hms]*)\b`, "AGE"},
		{`attempts: \d+`, "attempts: N"},
		{`(?m)^(\d+) +\d+ +TIME`, "$1  N  TIME"},
		{`(DUE|AGE|-) +\d+ +<`, "$1  N  <"},
		{`(attempt +)\d+( |:)`, "${1}N$2"},
		{`\b\d+ deliver(y|ies) due now`, "N due now"},
		{`(?m)^(messages|deliveries [a-z]+) +\d+`, "$1  N"},
		{`\d+ (rows in|tables moved|contents compared)`, "N $1"},
		{`schema version \d+`, "schema version N"},
		{`\b\d+ octets|(octets +)\d+`, "N octets"},
		{`(?m)(operator +.*) \([^()]+\)$`, "$1 (WHO)"},
		{`TLS1\.3 [A-Z0-9_]+`, "TLS"},
	} {
		s = regexp.MustCompile(r[0]).ReplaceAllString(s, r[1])
	}
	return spaces.ReplaceAllString(s, "  ")
}

// linesOf are the different lines of an output, for comparison: how often one
// of them comes, such as that of a repeated attempt, and in which order those
// of one moment come, is not the page's to say.
func linesOf(s string) map[string]bool {
	out := map[string]bool{}
	for line := range strings.Lines(shapeOf(s)) {
		out[strings.TrimSpace(line)] = true
	}
	return out
}

// differences are the lines that only one of two outputs has, but for what
// differs each day.
func differences(page, day string) (out []string) {
	want, is := linesOf(page), linesOf(day)
	for line := range want {
		if !is[line] {
			out = append(out, "only on the page: "+line)
		}
	}
	for line := range is {
		if !want[line] {
			out = append(out, "not on the page: "+line)
		}
	}
	return out
}
