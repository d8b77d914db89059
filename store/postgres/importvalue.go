package postgres

import (
	"encoding/json"
	"fmt"
	"time"
)

// value turns what a source of a move gives into what the column holds.
func (f field) value(v any) (any, error) {
	switch v := v.(type) {
	case nil:
		switch {
		case f.null:
			return nil, nil
		case f.kind == "bytea":
			return []byte{}, nil
		}
		return nil, errNothing
	case int64:
		return f.number(v)
	case string:
		switch f.kind {
		case "text":
			return clean(v), nil
		case "_text":
			var list []string
			err := json.Unmarshal([]byte(v), &list)
			return list, err
		}
	case []byte:
		if f.kind == "bytea" {
			return orEmpty(v), nil
		}
	}
	return nil, fmt.Errorf("a %T does not fit a %s", v, f.kind)
}

// number is a number, a yes or no, or an instant, where 0 may stand for none.
func (f field) number(v int64) (any, error) {
	switch f.kind {
	case "int4", "int8":
		return v, nil
	case "bool":
		return v != 0, nil
	case "timestamptz":
		if v == 0 && f.null {
			return nil, nil
		}
		return time.UnixMilli(v), nil
	}
	return nil, fmt.Errorf("a number does not fit a %s", f.kind)
}
