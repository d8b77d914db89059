package demo

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestOutAndIndex(t *testing.T) {
	n := newTestNetwork(t)
	n.options.Out = filepath.Join(t.TempDir(), "new", "out")
	if err := prepareOut(n.options.Out); err != nil {
		t.Fatal(err)
	}
	l := letter{source: "given/x.eml", content: []byte("a: b\r\n\r\n.\r\n")}
	arrive := func(s *sending, message string) {
		file := filepath.Join(t.TempDir(), "m")
		if err := os.WriteFile(file, []byte(message), 0o600); err != nil {
			t.Fatal(err)
		}
		n.ledger.arrived(arrival{domain: domainOf(s.rcpt), from: s.from, rcpt: s.rcpt, file: file})
	}
	good := n.ledger.open(pathAB, "xmpp", juliet, capulet, romeo+"@"+montague, l)
	bad := n.ledger.open(pathQueued, "xmpp", juliet, capulet, romeo+"@"+montague, l)
	lost := n.ledger.open(pathLegacy, "smtp", juliet, capulet, friar+"@"+legacy, l)
	arrive(good, overXMPP+string(l.content))
	arrive(bad, "changed\r\n")
	if err := n.writeOut(); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(n.options.Out, "index.json"))
	if err != nil {
		t.Fatal(err)
	}
	var index []indexEntry
	if err := json.Unmarshal(raw, &index); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(l.content)
	hexSum := hex.EncodeToString(sum[:])
	want := []indexEntry{
		{"montague.example/1.eml", pathAB, "given/x.eml", good.from, good.rcpt, "xmpp", hexSum, len(overXMPP), true},
		{"montague.example/2.eml", pathQueued, "given/x.eml", bad.from, bad.rcpt, "smtp", hexSum, 0, false},
		{"", pathLegacy, "given/x.eml", lost.from, lost.rcpt, "", hexSum, 0, false},
	}
	if !slices.Equal(index, want) {
		t.Errorf("index %+v\nwant  %+v", index, want)
	}
	file, err := os.ReadFile(filepath.Join(n.options.Out, index[0].File))
	if err != nil || string(file) != overXMPP+string(l.content) {
		t.Errorf("file %q, %v", file, err)
	}
}

// TestOutDirectoryUsedAgain: what an earlier run listed goes, whatever else is
// there stays, and a foreign index is left alone.
func TestOutDirectoryUsedAgain(t *testing.T) {
	dir := t.TempDir()
	if err := prepareOut(dir); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"montague.example/1.eml": "old", "montague.example/mine.eml": "mine", "keep.txt": "mine",
		"index.json": `[{"file":"montague.example/1.eml"},{"file":"../../etc/passwd"},{"file":"keep.txt"},{"file":""}]`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := prepareOut(dir); err != nil {
		t.Fatal(err)
	}
	for name, there := range map[string]bool{"montague.example/1.eml": false, "montague.example/mine.eml": true, "keep.txt": true, "index.json": false} {
		if _, err := os.Stat(filepath.Join(dir, name)); (err == nil) != there {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "index.json"), []byte("not ours"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := prepareOut(dir); err == nil {
		t.Error("a foreign index.json is taken for ours")
	}
}

func TestOutDirectoryThatCannotBe(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := prepareOut(file); err == nil || !strings.Contains(err.Error(), "output directory") {
		t.Errorf("got %v", err)
	}
}

func TestEndpoints(t *testing.T) {
	n := newTestNetwork(t)
	for i, g := range n.gateways {
		if err := n.configure(g, n.boxes[i]); err != nil {
			t.Fatal(err)
		}
	}
	n.options.Endpoints = filepath.Join(t.TempDir(), "e.json")
	if err := n.writeEndpoints(); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(n.options.Endpoints)
	if err != nil {
		t.Fatal(err)
	}
	var e map[string]any
	if err := json.Unmarshal(raw, &e); err != nil {
		t.Fatal(err)
	}
	if e["version"] != 1.0 || e["dns"] != n.dns.addr || e["ca"] != n.ca.certFile || e["ca_key"] != n.ca.keyFile {
		t.Errorf("got %v", e)
	}
	domains := e["domains"].([]any)
	keys := []string{"name", "smtp", "submission", "submissions", "user", "password", "xmpp", "xmpps", "maildir", "config", "store", "admin", "pid"}
	for i, name := range []string{capulet, montague, legacy} {
		d := domains[i].(map[string]any)
		if len(d) != len(keys) || d["name"] != name || d["smtp"] == "" || d["maildir"] != n.boxes[i].dir.path {
			t.Errorf("%s: %v", name, d)
		}
		for _, k := range keys {
			v, there := d[k]
			gateway := slices.Contains([]string{"xmpp", "xmpps", "config", "store", "admin"}, k)
			if !there || gateway && (v == "") != (name == legacy) {
				t.Errorf("%s: %s is %v", name, k, v)
			}
		}
	}
	if admin := domains[0].(map[string]any)["admin"].(string); !strings.HasPrefix(admin, "unix:/") {
		t.Errorf("admin %q", admin)
	}
	files, err := os.ReadDir(filepath.Dir(n.options.Endpoints))
	if err != nil || len(files) != 1 {
		t.Errorf("left beside the file: %v, %v", files, err)
	}
}

func TestStoreOption(t *testing.T) {
	for store, want := range map[string]string{
		"":                              "",
		"postgres://u@h/db":             "",
		"postgresql://u:secret@h/db":    "",
		"sqlite:///x":                   "want postgres://",
		"mysql://u:secret@h/db":         "want postgres://",
		"postgres://u:secret@h:port/db": "not a URL",
	} {
		err := checkStore(store)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v", store, err)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("the password is told: %v", err)
		}
	}
	if a, b := newSchema(capulet), newSchema(capulet); a == b || len(a) > 63 {
		t.Errorf("schemas %s and %s", a, b)
	}
}
