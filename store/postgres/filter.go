package postgres

import (
	"fmt"
	"slices"
	"strings"

	"mailxmppd/store"
)

// conditions are those of a query over deliveries d, with its arguments.
type conditions struct {
	from  string
	conds []string
	args  []any
}

// arg adds an argument and returns its place.
func (w *conditions) arg(v any) string {
	w.args = append(w.args, v)
	return fmt.Sprintf("$%d", len(w.args))
}

func (w *conditions) and(cond string) { w.conds = append(w.conds, cond) }

func (w *conditions) where() string {
	if len(w.conds) == 0 {
		return ``
	}
	return ` WHERE ` + strings.Join(w.conds, ` AND `)
}

// filtered are the conditions of a filter, but for After and Limit, after
// arguments that are there already.
func filtered(f store.Filter, args ...any) (*conditions, error) {
	w := &conditions{from: `deliveries d`, args: args}
	states := f.States
	if len(states) == 0 && !f.Closed {
		states = openStates()
	}
	if f.Domain != "" {
		w.and(`d.domain = ` + w.arg(f.Domain))
	}
	if f.Sender != "" {
		w.from += ` JOIN messages m ON m.id = d.message_id`
		const sender = `(` + senderToken + `::json #>> '{}')`
		switch {
		case f.Sender == "<>":
			w.and(sender + ` = ''`)
		case f.Sender[0] == '@':
			w.and(`right(` + sender + `, ` + fmt.Sprint(len([]rune(f.Sender))) + `) = ` + w.arg(f.Sender))
		default:
			w.and(sender + ` = ` + w.arg(f.Sender))
		}
	}
	if len(states) > 0 {
		var names []string
		for _, s := range states {
			if !slices.Contains(store.States(), s) {
				return nil, fmt.Errorf("no such delivery state: %q", s)
			}
			names = append(names, `'`+string(s)+`'`)
		}
		// Written out, so that partial indexes fit.
		w.and(`d.state IN (` + strings.Join(names, `, `) + `)`)
	}
	if f.Older > 0 {
		w.and(`d.created_at <= now() - ` + w.arg(seconds(f.Older)) + `::float8 * interval '1 second'`)
	}
	if f.Younger > 0 {
		w.and(`d.created_at > now() - ` + w.arg(seconds(f.Younger)) + `::float8 * interval '1 second'`)
	}
	if f.Text != "" {
		w.and(`position(lower(` + w.arg(clean(f.Text)) + `) IN lower(d.last_text)) > 0`)
	}
	return w, nil
}

// senderToken is the JSON string of a stored envelope's sender; NULL where there is
// none that could be read. Reading the envelope as JSON would end the query at one
// that is damaged.
const senderToken = `substring(m.envelope FROM '"sender":("(?:[^"\\[:cntrl:]]|\\["\\/bfnrt]|\\u(?!0000|[dD][89a-fA-F])[0-9a-fA-F]{4})*")')`

func openStates() []store.State {
	return slices.DeleteFunc(store.States(), func(s store.State) bool { return !s.Open() })
}

// ofDomain is where to find the open deliveries of a domain by the partial
// indexes that have them.
func (w *conditions) ofDomain(domain string) {
	w.from = strings.Replace(w.from, `deliveries d`, fmt.Sprintf(`(
		SELECT * FROM deliveries WHERE state IN ('due', 'deferred') AND domain = %[1]s UNION ALL
		SELECT * FROM deliveries WHERE state = 'leased' AND domain = %[1]s UNION ALL
		SELECT * FROM deliveries WHERE state = 'held' AND domain = %[1]s) AS d`, w.arg(domain)), 1)
}
