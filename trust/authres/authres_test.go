package authres

import (
	"reflect"
	"strings"
	"testing"
)

func TestFormat(t *testing.T) {
	long := strings.Repeat("x", 5000)
	for _, c := range []struct {
		name    string
		id      string
		methods []Method
		want    string
	}{
		{"nothing", "gw.example", nil, "Authentication-Results: gw.example; none\r\n"},
		{"two", "gw.example", []Method{
			{Name: "spf", Result: Pass, Props: []Prop{{"smtp", "mailfrom", "a@b.example"}}},
			{Name: "dkim", Result: Fail, Comment: "2048-bit key", Reason: "the body", Props: []Prop{{"header", "d", "b.example"}, {"header", "s", ""}}},
		}, "Authentication-Results: gw.example;\r\n\tspf=pass smtp.mailfrom=a@b.example;\r\n\tdkim=fail (2048-bit key) reason=\"the body\" header.d=b.example\r\n"},
		{"another field in a value", "gw.example", []Method{{Name: "auth", Result: Pass, Props: []Prop{{"smtp", "auth", "x\r\nX-Evil: yes\r\n\r\nbody"}}}},
			"Authentication-Results: gw.example;\r\n\tauth=pass smtp.auth=\"x??X-Evil: yes????body\"\r\n"},
		{"another result in a value", "gw.example", []Method{{Name: "dkim", Result: Fail, Props: []Prop{{"header", "d", "x; dkim=pass"}, {"header", "i", `"; dkim=pass`}}}},
			"Authentication-Results: gw.example;\r\n\tdkim=fail header.d=\"x; dkim=pass\" header.i=\"\\\"; dkim=pass\"\r\n"},
		{"a comment that ends itself", "gw.example", []Method{{Name: "dkim", Result: Fail, Comment: "x) dkim=pass (", Reason: `\`}},
			"Authentication-Results: gw.example;\r\n\tdkim=fail (x' dkim=pass ') reason=\"\\\\\"\r\n"},
		{"words that are none", "a b", []Method{{Name: "d=k;im", Result: "pa ss", Props: []Prop{{"he\nader", "(", "v"}}}},
			"Authentication-Results: \"a b\";\r\n\tdkim=pass header.x=v\r\n"},
		{"UTF-8", "gw.example", []Method{{Name: "spf", Result: None, Reason: "für", Props: []Prop{{"smtp", "mailfrom", "jürgen@b.example"}}}},
			"Authentication-Results: gw.example;\r\n\tspf=none reason=\"f?r\" smtp.mailfrom=\"j?rgen@b.example\"\r\n"},
		{"two at signs", "gw.example", []Method{{Name: "spf", Result: None, Props: []Prop{{"smtp", "mailfrom", "a@b@c"}}}},
			"Authentication-Results: gw.example;\r\n\tspf=none smtp.mailfrom=\"a@b@c\"\r\n"},
		{"a long value", "gw.example", []Method{{Name: "spf", Result: None, Props: []Prop{{"smtp", "mailfrom", long}}}},
			"Authentication-Results: gw.example;\r\n\tspf=none\r\n\tsmtp.mailfrom=\"" + long[:maxValue] + "\"\r\n"},
	} {
		if got := Format(c.id, c.methods); got != c.want {
			t.Errorf("%s:\n%q, want\n%q", c.name, got, c.want)
		}
	}
}

func TestParse(t *testing.T) {
	one := func(m Method) []Method { return []Method{m} }
	for _, c := range []struct {
		in      string
		id      string
		methods []Method
		fails   string
	}{
		{in: " example.org 1; none", id: "example.org"},
		{in: "Example.ORG; none;", id: "example.org"},
		{in: "example.com;\r\n\tspf=pass smtp.mailfrom=example.net", id: "example.com",
			methods: one(Method{Name: "spf", Result: Pass, Props: []Prop{{"smtp", "mailfrom", "example.net"}}})},
		// The example of RFC 8601 appendix B.7.
		{in: "foo.example.net (foobar) 1 (baz);\r\n dkim (Because I like it) / 1 (One yay) = (wait for it) fail\r\n policy (A dot can go here) . (like that) expired\r\n (this surprised me) = (as I wasn't expecting it) 1362471462",
			id: "foo.example.net", methods: one(Method{Name: "dkim", Result: Fail, Props: []Prop{{"policy", "expired", "1362471462"}}})},
		{in: `a.example; dkim/1=fail (x(y)\)) reason="bad \"sig\"" header.d=b.example; SPF=SoftFail`, id: "a.example", methods: []Method{
			{Name: "dkim", Result: Fail, Reason: `bad "sig"`, Props: []Prop{{"header", "d", "b.example"}}}, {Name: "spf", Result: SoftFail}}},
		{in: `a.example; auth=pass smtp.auth="john doe"@b.example`, id: "a.example",
			methods: one(Method{Name: "auth", Result: Pass, Props: []Prop{{"smtp", "auth", "john doe@b.example"}}})},
		{in: `"a b"; none`, id: "a b"},
		{in: "", fails: "value is missing"},
		{in: "; spf=pass", fails: "value is missing"},
		{in: "a.example 2; none", fails: "version"},
		{in: "a.example spf=pass", fails: "unexpected"},
		{in: "a.example; spf", fails: "without a result"},
		{in: "a.example; spf=", fails: "word is missing"},
		{in: "a.example; spf=great", fails: "unknown result"},
		{in: "a.example; spf=pass smtp.mailfrom", fails: "without a value"},
		{in: "a.example; spf=pass (never ends", fails: "comment"},
		{in: "a.example; spf=pass reason=\"never ends", fails: "quoted string"},
		{in: "a.example" + strings.Repeat("(", 100), fails: "too deep"},
		{in: "a.example; " + strings.Repeat("spf=pass;", 100), fails: "too many results"},
		{in: "a.example; spf=pass" + strings.Repeat(" a.b=c", 100), fails: "too many properties"},
		{in: strings.Repeat("a", 20000), fails: "more than"},
	} {
		id, methods, err := Parse(c.in)
		switch {
		case c.fails != "":
			if err == nil || !strings.Contains(err.Error(), c.fails) || methods != nil {
				t.Errorf("%.60q: %v, %v, want %q", c.in, methods, err, c.fails)
			}
		case err != nil || id != c.id || !reflect.DeepEqual(methods, c.methods):
			t.Errorf("%.60q: %q %+v %v", c.in, id, methods, err)
		}
	}
}

// TestServID: a field is somebody's in every way in which it can be written.
func TestServID(t *testing.T) {
	for in, want := range map[string]string{
		"gw.example; none":                "gw.example",
		" GW.Example\r\n\t; spf=pass":     "gw.example",
		"(gw.other) gw.example (x); none": "gw.example",
		`"gw.example"; none`:              "gw.example",
		`"gw\.exa\mple" 1; none`:          "gw.example",
		"gw.example/1; none":              "gw.example/1",
		"gw.example":                      "gw.example",
		"(((":                             "", "": "", ";": "", `"never ends`: "", "(x": "",
		"gw.example\x00; none": "gw.example",
	} {
		if got, ok := ServID(in); got != want || ok != (want != "") {
			t.Errorf("%q: %q, %v", in, got, ok)
		}
	}
}

// FuzzFormat: whatever the values, it is one field, and reads back as the
// results that were written.
func FuzzFormat(f *testing.F) {
	f.Add("gw.example", "dkim", "x", "y", "d", "v")
	f.Add("a;b", "d(k", "x\r\n\r\n", `"`, ";", "a@b@c")
	f.Fuzz(func(t *testing.T, id, name, comment, reason, prop, value string) {
		in := []Method{{Name: name, Result: Fail, Comment: comment, Reason: reason, Props: []Prop{{"header", prop, value}}}, {Name: "spf", Result: Neutral}}
		field := Format(id, in)
		for i, line := range strings.Split(strings.TrimSuffix(field, "\r\n"), "\r\n") {
			if strings.ContainsAny(line, "\r\n\x00") || i > 0 && !strings.HasPrefix(line, "\t") {
				t.Fatalf("not one field: %q", field)
			}
		}
		if id == "" {
			return
		}
		_, methods, err := Parse(strings.TrimPrefix(field, "Authentication-Results:"))
		if err != nil || len(methods) != 2 || methods[0].Result != Fail || methods[1].Result != Neutral || len(methods[0].Props) > 1 {
			t.Fatalf("%q reads %+v, %v", field, methods, err)
		}
	})
}

// FuzzParse: no field panics; ServID and Parse agree.
func FuzzParse(f *testing.F) {
	f.Add("gw.example 1; spf=pass (c) reason=\"r\" smtp.mailfrom=a@b; dkim=none")
	f.Add(`"x\"y"; none`)
	f.Fuzz(func(t *testing.T, in string) {
		id, _, err := Parse(in)
		got, ok := ServID(in)
		if err == nil && id != "" && (!ok || got != id) {
			t.Fatalf("%q: Parse says %q, ServID %q", in, id, got)
		}
	})
}
