package badday

import (
	"slices"
	"strings"
	"testing"
)

func TestStepsOf(t *testing.T) {
	const page = "## Another\n```\n$ no\n```\n## It\n<!-- lab: send a b -->\ntext\n```\n$ mailxmppd queue fail X --reason 'so it is' --to='a b'\none\n\ntwo\n$ mailxmppd y\n```\n## Next\n```\n$ no\n```\n"
	steps := stepsOf(page, "It")
	if len(steps) != 3 || !slices.Equal(steps[0].event, []string{"send", "a", "b"}) ||
		!slices.Equal(steps[1].args, []string{"mailxmppd", "queue", "fail", "X", "--reason", "so it is", "--to=a b"}) ||
		steps[1].output != "one\n\ntwo\n" || steps[1].lines != 3 || steps[2].output != "" {
		t.Errorf("got %+v", steps)
	}
}

// A page that shows something else is found out; one of another day is not.
func TestDifferences(t *testing.T) {
	const page = "01M83NC8KN5X1CD5WTNDQW6WAW.0  deferred  4s   in 1s  2         <a@capulet.example>  <b@montague.example>  gone\n"
	for other, differs := range map[string]bool{
		strings.Replace(page, "4s   in 1s  2 ", "1d2h  now  17", 1):                          false,
		strings.Replace(page, "01M83NC8KN5X1CD5WTNDQW6WAW", "01M83NC8KK2RYBRN96WS7K408W", 1): false,
		strings.Replace(page, "deferred", "held", 1):                                         true,
		strings.Replace(page, "gone", "here", 1):                                             true,
		strings.Replace(page, ".0", ".1", 1):                                                 true,
		page + "more\n":                                                                      true,
		"":                                                                                   true,
	} {
		if got := differences(page, other); (len(got) > 0) != differs {
			t.Errorf("%s: %q", other, got)
		}
	}
}

// A table that is moved may hold any number of rows.
func TestMovedTables(t *testing.T) {
	if got := differences("attempts: 8 of 8\n38 rows in 17 tables moved\n", "attempts: 5 of 5\ntls_reports: 0 of 0\n9 rows in 18 tables moved\n"); len(got) > 0 {
		t.Errorf("%q", got)
	}
}
