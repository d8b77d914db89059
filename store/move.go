package store

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"
)

// MoveTable is a table of a store as two backends speak of it to each other:
// under the names of the shared schema, an instant without the "_at" that
// Postgres gives it. What one backend keeps for itself alone is not among them.
type MoveTable struct {
	Name    string
	Columns []string
	Rows    int64 // of a source
}

// MoveSource is a store that is read out whole, and that nobody writes to as
// long as it is open.
type MoveSource interface {
	Tables(ctx context.Context) ([]MoveTable, error)
	// Export yields the rows of a table, one at a time, values in the order of
	// its columns: nil, int64 (instants as Unix milliseconds, true as 1), string,
	// []byte. A row is good until the next one. The first error is the last.
	Export(ctx context.Context, t MoveTable) iter.Seq2[[]any, error]
	// MovingTo is the target of a move that was marked and may not have come to its
	// end, "" for none.
	MovingTo(ctx context.Context) (string, error)
	// MarkMoving has the source refuse to be opened from now on, but for the same
	// move: two stores that hold the same mail would deliver it twice.
	MarkMoving(ctx context.Context, to string) error
	// Unmark takes that back.
	Unmark(ctx context.Context) error
	// MarkMoved makes it for good.
	MarkMoved(ctx context.Context) error
}

// TargetState is what a move finds at its target.
type TargetState int

const (
	TargetEmpty      TargetState = iota
	TargetUnfinished             // a move to it has begun, and it cannot be opened
	TargetFilled                 // it holds something
)

// MoveTarget is an empty store that is filled in one transaction: others see
// all of it or nothing.
type MoveTarget interface {
	Tables(ctx context.Context) ([]MoveTable, error)
	// State looks at what others see of it, which needs an answer of its own even
	// where a transaction has failed.
	State(ctx context.Context) (TargetState, error)
	// Begin refuses a store that holds something. From now until Commit, dead
	// processes included, nobody can open the store: it is marked as unfinished.
	Begin(ctx context.Context, from string) error
	// Import adds the rows of a table and says how many there were.
	Import(ctx context.Context, t MoveTable, rows iter.Seq2[[]any, error]) (int64, error)
	// Check compares what the target holds with what it was given: the rows of
	// each table by their count, the content of each message by its hash. It says
	// how many contents it read.
	Check(ctx context.Context, given []MoveTable) (contents int64, err error)
	// Commit makes all durable and takes the mark away.
	Commit(ctx context.Context) error
}

// Moved is what a move came to.
type Moved struct {
	Tables   []MovedTable `json:"tables"`   // none where an earlier move had brought all of it
	Contents int64        `json:"contents"` // of messages, compared by their hashes
}

// MovedTable counts the rows of a table.
type MovedTable struct {
	Name string `json:"name"`
	Rows int64  `json:"rows"`
}

// progressStep is how many rows lie between two calls of a move's progress.
const progressStep = 10_000

// Move brings everything from one store into another. Names are for the
// messages of either side. What fails leaves the source as it was and the
// target marked as unfinished, to be begun anew.
//
// The source is marked before the target is committed, so that at no moment both
// can be opened. A death between the two leaves a move that nobody but the same
// move again can go on with: it sees at the target whether that was committed.
func Move(ctx context.Context, from MoveSource, fromName string, to MoveTarget, toName string, progress func(table string, rows, of int64)) (Moved, error) {
	tables, err := from.Tables(ctx)
	if err != nil {
		return Moved{}, err
	}
	wanted, err := to.Tables(ctx)
	if err != nil {
		return Moved{}, err
	}
	if err := sameTables(tables, wanted); err != nil {
		return Moved{}, err
	}
	done, err := goneOver(ctx, from, fromName, to, toName)
	switch {
	case err != nil:
		return Moved{}, err
	case done:
		return Moved{}, from.MarkMoved(ctx)
	}
	if err := to.Begin(ctx, fromName); err != nil {
		return Moved{}, err
	}
	var m Moved
	for _, t := range tables {
		n, err := to.Import(ctx, t, watched(from.Export(ctx, t), t, progress))
		if err == nil && n != t.Rows {
			err = fmt.Errorf("%d rows came of %d", n, t.Rows)
		}
		if err != nil {
			return m, fmt.Errorf("move %s: %w", t.Name, err)
		}
		progress(t.Name, n, t.Rows)
		m.Tables = append(m.Tables, MovedTable{Name: t.Name, Rows: n})
	}
	if m.Contents, err = to.Check(ctx, tables); err != nil {
		return m, fmt.Errorf("check the move: %w", err)
	}
	if err := from.MarkMoving(ctx, toName); err != nil {
		return m, fmt.Errorf("mark %s as moved: %w", fromName, err)
	}
	if err := to.Commit(ctx); err != nil {
		return m, uncommitted(ctx, from, fromName, to, err)
	}
	if err := from.MarkMoved(ctx); err != nil {
		return m, fmt.Errorf("all is in %s, and %s is not opened any more, but its mark says that the move may go on: run it again: %w", toName, fromName, err)
	}
	return m, nil
}

// goneOver reports whether an earlier move of the source to the same target had
// brought everything there when it died.
func goneOver(ctx context.Context, from MoveSource, fromName string, to MoveTarget, toName string) (bool, error) {
	before, err := from.MovingTo(ctx)
	if err != nil || before == "" {
		return false, err
	}
	if before != toName {
		return false, fmt.Errorf("%s is on its way to %s: finish that move first", fromName, before)
	}
	state, err := to.State(ctx)
	return state == TargetFilled, err
}

// uncommitted gives the source back where it is certain that the target was not
// committed.
func uncommitted(ctx context.Context, from MoveSource, fromName string, to MoveTarget, why error) error {
	if state, err := to.State(ctx); err != nil || state != TargetUnfinished {
		return fmt.Errorf("whether the move was finished is not known, so that %s is not opened any more: run the move again: %w", fromName, why)
	}
	if err := from.Unmark(ctx); err != nil {
		return fmt.Errorf("finish the move: %w; and %s stays marked, run the move again: %w", why, fromName, err)
	}
	return fmt.Errorf("finish the move: %w", why)
}

// watched tells progress of the rows that pass.
func watched(rows iter.Seq2[[]any, error], t MoveTable, progress func(string, int64, int64)) iter.Seq2[[]any, error] {
	return func(yield func([]any, error) bool) {
		n := int64(0)
		for row, err := range rows {
			if n++; err == nil && n < t.Rows && n%progressStep == 0 {
				progress(t.Name, n, t.Rows)
			}
			if !yield(row, err) {
				return
			}
		}
	}
}

// sameTables refuses a move that would leave something behind: a table or
// column that one of the two does not know.
func sameTables(from, to []MoveTable) error {
	var wrong []string
	missing := func(what string, in, of []string) {
		for _, name := range in {
			if !slices.Contains(of, name) {
				wrong = append(wrong, what+name)
			}
		}
	}
	missing("the target has no table ", tableNames(from), tableNames(to))
	missing("the source has no table ", tableNames(to), tableNames(from))
	for _, f := range from {
		i := slices.IndexFunc(to, func(t MoveTable) bool { return t.Name == f.Name })
		if i < 0 {
			continue
		}
		missing("the target has no column "+f.Name+".", f.Columns, to[i].Columns)
		missing("the source has no column "+f.Name+".", to[i].Columns, f.Columns)
	}
	if wrong != nil {
		return fmt.Errorf("the two stores do not fit: %s", strings.Join(wrong, ", "))
	}
	return nil
}

func tableNames(tables []MoveTable) []string {
	out := make([]string, len(tables))
	for i, t := range tables {
		out[i] = t.Name
	}
	return out
}
