package config

import (
	"encoding"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// bind puts the values of a parsed table into the struct that target points
// to. It goes on after a mistake: unknown keys and values of a wrong type are
// all reported, which a decoder that stops at the first wrong type cannot do.
func bind(r *report, path string, table map[string]any, target any) {
	v := reflect.ValueOf(target).Elem()
	fields := map[string]reflect.Value{}
	for i := range v.NumField() {
		if key := v.Type().Field(i).Tag.Get("toml"); key != "-" {
			fields[key] = v.Field(i)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(table)) {
		at := join(path, key)
		field, ok := fields[key]
		if !ok {
			r.add(at, "unknown key%s", suggest(key, slices.Sorted(maps.Keys(fields))))
			continue
		}
		bindValue(r, at, table[key], field)
	}
}

// bindValue puts one value into a field of one of the kinds that Config uses.
func bindValue(r *report, path string, value any, field reflect.Value) {
	if u, ok := field.Addr().Interface().(encoding.TextUnmarshaler); ok {
		bindText(r, path, value, u)
		return
	}
	switch field.Kind() {
	case reflect.Struct:
		table, ok := value.(map[string]any)
		if !ok {
			r.add(path, "wants a table, not %s", kindOf(value))
			return
		}
		bind(r, path, table, field.Addr().Interface())
	case reflect.Slice:
		bindList(r, path, value, field)
	case reflect.String:
		if s, ok := value.(string); ok {
			field.SetString(s)
			return
		}
		r.add(path, "wants a string, not %s", kindOf(value))
	case reflect.Bool:
		if b, ok := value.(bool); ok {
			field.SetBool(b)
			return
		}
		r.add(path, "wants true or false, not %s", kindOf(value))
	case reflect.Int:
		n, ok := value.(int64)
		switch {
		case !ok:
			r.add(path, "wants an integer, not %s", kindOf(value))
		case n < 0 || n > math.MaxInt32:
			r.add(path, "%d is out of range", n)
		default:
			field.SetInt(n)
		}
	}
}

// bindText reads a value with a form of its own; a bare integer is taken for
// its digits, which sizes allow.
func bindText(r *report, path string, value any, u encoding.TextUnmarshaler) {
	text, ok := value.(string)
	if n, isInt := value.(int64); isInt {
		if _, isSize := u.(*Size); isSize {
			text, ok = strconv.FormatInt(n, 10), true
		}
	}
	if !ok {
		r.add(path, "wants a string, not %s", kindOf(value))
		return
	}
	if err := u.UnmarshalText([]byte(text)); err != nil {
		r.add(path, "%s", err)
	}
}

func bindList(r *report, path string, value any, field reflect.Value) {
	tables := field.Type().Elem().Kind() == reflect.Struct &&
		!field.Type().Elem().Implements(reflect.TypeFor[encoding.TextMarshaler]())
	list, ok := value.([]any)
	switch {
	case !ok && tables:
		r.add(path, "wants double brackets: [[%s]]", path)
		return
	case !ok:
		r.add(path, "wants a list, not %s", kindOf(value))
		return
	}
	out := reflect.MakeSlice(field.Type(), len(list), len(list))
	for i, item := range list {
		element := out.Index(i)
		if d, ok := element.Addr().Interface().(defaulter); ok {
			d.defaults()
		}
		bindValue(r, fmt.Sprintf("%s[%d]", path, i), item, element)
	}
	field.Set(out)
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// kindOf names the type of a parsed value in TOML's words.
func kindOf(value any) string {
	switch value.(type) {
	case string:
		return "a string"
	case bool:
		return "a boolean"
	case int64:
		return "an integer"
	case float64:
		return "a float"
	case []any:
		return "a list"
	case map[string]any:
		return "a table"
	}
	return "a date or time"
}

// suggest points to a known key that one slip of the hand, or a hyphen for an
// underscore, turns into the unknown one.
func suggest(key string, known []string) string {
	for _, k := range known {
		if k == strings.ReplaceAll(strings.ToLower(key), "-", "_") || oneSlip(key, k) {
			return fmt.Sprintf(", %q is meant?", k)
		}
	}
	return ""
}

// oneSlip reports whether a and b differ by one letter more, less, changed, or
// by two neighbours swapped.
func oneSlip(a, b string) bool {
	i := 0
	for i < len(a) && i < len(b) && a[i] == b[i] {
		i++
	}
	x, y := a[i:], b[i:]
	switch {
	case len(x) == len(y)+1:
		return x[1:] == y
	case len(y) == len(x)+1:
		return y[1:] == x
	case len(x) != len(y) || x == "":
		return false
	case x[1:] == y[1:]:
		return true
	}
	return len(x) > 1 && x[0] == y[1] && x[1] == y[0] && x[2:] == y[2:]
}
