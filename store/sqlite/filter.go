package sqlite

import (
	"fmt"
	"slices"
	"strings"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// conditions are those of a query over deliveries d and their messages m, with
// its arguments.
type conditions struct {
	from  string
	conds []string
	args  []any
}

func (w *conditions) and(cond string, args ...any) {
	w.conds = append(w.conds, cond)
	w.args = append(w.args, args...)
}

func (w *conditions) where() string {
	if len(w.conds) == 0 {
		return ""
	}
	return " WHERE " + strings.Join(w.conds, " AND ")
}

// filtered are the conditions of a filter, but for states, After and Limit.
func filtered(f store.Filter, now int64) *conditions {
	w := &conditions{from: "deliveries d JOIN messages m ON m.num = d.key >> 16"}
	if f.Domain != "" {
		w.and("d.domain = ?", f.Domain)
	}
	// What is no JSON would end the query.
	const sender = "CASE WHEN json_valid(m.envelope) THEN json_extract(m.envelope, '$.sender') END"
	switch {
	case f.Sender == "":
	case f.Sender == "<>":
		w.and(sender + " = ''")
	case f.Sender[0] == '@':
		w.and("substr("+sender+", -length(?)) = ?", f.Sender, f.Sender)
	default:
		w.and(sender+" = ?", f.Sender)
	}
	if f.Older > 0 {
		w.and("m.created <= ?", now-millis(f.Older))
	}
	if f.Younger > 0 {
		w.and("m.created > ?", now-millis(f.Younger))
	}
	if f.Text != "" {
		w.and("instr(lower(d.text), lower(?)) > 0", f.Text)
	}
	return w
}

// statesOf are those that a filter asks for.
func statesOf(f store.Filter) ([]store.State, error) {
	for _, s := range f.States {
		if !slices.Contains(store.States(), s) {
			return nil, fmt.Errorf("no such delivery state: %q", s)
		}
	}
	switch {
	case len(f.States) > 0:
		return f.States, nil
	case f.Closed:
		return store.States(), nil
	}
	return openStates(), nil
}

func openStates() []store.State {
	return slices.DeleteFunc(store.States(), func(s store.State) bool { return !s.Open() })
}

// of asks for states.
func (w *conditions) of(states []store.State) {
	numbers := make([]string, len(states))
	for i, s := range states {
		n, _ := stateNumber(s) // statesOf has checked it
		numbers[i] = fmt.Sprint(n)
	}
	w.and("d.state IN (" + strings.Join(numbers, ", ") + ")")
}

// listed asks for states and has open ones found by their indexes, however
// many finished ones there are.
func (w *conditions) listed(states []store.State, domain string) {
	if !slices.ContainsFunc(states, func(s store.State) bool { return !s.Open() }) {
		ofDomain, args := "", []any(nil)
		if domain != "" {
			ofDomain, args = " AND domain = ?", []any{domain, domain, domain}
		}
		w.and("d.key IN (SELECT key FROM deliveries WHERE state < 2"+ofDomain+" UNION ALL SELECT key FROM deliveries WHERE state = 2"+
			ofDomain+" UNION ALL SELECT key FROM deliveries WHERE state = 7"+ofDomain+")", args...)
	}
	w.of(states)
}

// after asks for what follows a delivery in a list. Its message may be gone:
// then for what follows the message before it.
func (w *conditions) after(c *conn, id mail.ID, n int) error {
	r, err := c.first("SELECT num, id FROM messages WHERE id <= ? ORDER BY id DESC LIMIT 1", string(id))
	switch {
	case err != nil:
		return err
	case r == nil:
		w.and("0")
	case r.text(1) != string(id):
		w.and("d.key < ?", deliveryKey(r.int(0)+1, 0))
	default:
		first, last := deliveryKeys(r.int(0))
		w.and("(d.key < ? OR d.key BETWEEN ? AND ?)", first, first+int64(n)+1, last)
		w.and("d.key <= ?", last)
	}
	return nil
}
