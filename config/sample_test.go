package config

import (
	"bufio"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
)

const sample = "../docs/mailxmppd.sample.toml"

// shown finds a key that is commented out to show its default; prose has a
// space after its number sign.
var shown = regexp.MustCompile(`(?m)^#([a-z_]+ = )`)

// installSample writes the sample with paths that exist here.
func installSample(t *testing.T) (dir, text string) {
	t.Helper()
	dir = t.TempDir()
	data, err := os.ReadFile(sample)
	if err != nil {
		t.Fatal(err)
	}
	cert, key := makeCertificate(t, "capulet.example")
	if err := os.MkdirAll(filepath.Join(dir, "capulet.example"), 0o700); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "capulet.example", "fullchain.pem"), cert)
	writeFile(t, filepath.Join(dir, "capulet.example", "key.pem"), key)
	writeFile(t, filepath.Join(dir, "smarthost.password"), "hush\n")
	writeFile(t, filepath.Join(dir, "component.secret"), "hush\n")
	return dir, strings.ReplaceAll(string(data), "/etc/mailxmppd/", dir+"/")
}

// The sample loads as it is shipped, and again with every default written out,
// with the same result: so what it says of defaults is true.
func TestSampleDefaults(t *testing.T) {
	dir, text := installSample(t)
	shipped, full := filepath.Join(dir, "shipped.toml"), filepath.Join(dir, "full.toml")
	writeFile(t, shipped, text)
	writeFile(t, full, shown.ReplaceAllString(text, "$1"))
	a, err := Load(shipped)
	if err != nil {
		t.Fatal(err)
	}
	b, err := Load(full)
	if err != nil {
		t.Fatal(err)
	}
	normalise(reflect.ValueOf(a).Elem())
	normalise(reflect.ValueOf(b).Elem())
	if !reflect.DeepEqual(a, b) {
		t.Errorf("a default in the sample is not the default:\n%+v\n%+v", a, b)
	}
}

// normalise makes empty lists nil: the file can say "[]" but not nil.
func normalise(v reflect.Value) {
	switch {
	case v.Kind() == reflect.Struct && v.Type().PkgPath() == reflect.TypeFor[Config]().PkgPath():
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				normalise(v.Field(i))
			}
		}
	case v.Kind() == reflect.Slice && v.Len() == 0:
		v.SetZero()
	case v.Kind() == reflect.Slice:
		for i := range v.Len() {
			normalise(v.Index(i))
		}
	}
}

// Every key of the struct is in the sample.
func TestSampleIsComplete(t *testing.T) {
	_, text := installSample(t)
	lines := indexLines([]byte(shown.ReplaceAllString(text, "$1")))
	there := map[string]bool{}
	for path := range lines {
		there[keyName(path)] = true
	}
	keys := keysOf("", reflect.TypeFor[Config]())
	if len(keys) < 60 {
		t.Fatalf("only %d keys found in the struct", len(keys))
	}
	for _, key := range keys {
		if !there[key] {
			t.Errorf("%s is not in the sample", key)
		}
	}
}

// Every key has a comment: on the line above it, or above the keys that share
// one.
func TestSampleIsCommented(t *testing.T) {
	_, text := installSample(t)
	commented, table, told := false, "", map[string]bool{}
	for scan := bufio.NewScanner(strings.NewReader(text)); scan.Scan(); {
		line := scan.Text()
		key, _, isKey := strings.Cut(strings.TrimPrefix(line, "#"), " = ")
		switch {
		case strings.HasPrefix(line, "# "):
			commented = true
		case strings.HasPrefix(line, "["):
			table, commented = line, false
		case line == "":
			commented = false
		case isKey && !strings.Contains(key, " "):
			if !commented && !told[table+key] {
				t.Errorf("%s %s has no comment", table, key)
			}
			told[table+key] = true
		}
	}
}

func keysOf(prefix string, t reflect.Type) []string {
	var out []string
	for i := range t.NumField() {
		f := t.Field(i)
		key := f.Tag.Get("toml")
		if key == "-" {
			continue
		}
		path := join(prefix, key)
		of := f.Type
		if of.Kind() == reflect.Slice {
			of = of.Elem()
		}
		// A struct of ours whose fields have keys is a table; others are values.
		if of.Kind() == reflect.Struct && of.NumField() > 0 && of.Field(0).Tag.Get("toml") != "" {
			out = append(out, keysOf(path, of)...)
			continue
		}
		out = append(out, path)
	}
	return out
}
