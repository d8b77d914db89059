// Package lab checks the whole: here, which package imports which.
package lab

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// allowed lists, per package or folder ("x/..." for all below it), which other
// packages of the project it may import. docs/architecture.md draws it.
var allowed = map[string][]string{
	"cmd/mailxmppd":   {"..."},
	"config":          {"mail"},
	"gateway":         {"mail", "mail/faults", "store"},
	"mail":            {},
	"mail/faults":     {},
	"dns":             {},
	"smtpbridge":      {"mail", "mail/faults", "store", "dns"},
	"xmpp/wire":       {},
	"xmpp/stream":     {"mail", "mail/faults", "xmpp/wire"},
	"xmpp/peers":      {"mail", "store", "dns", "xmpp/wire", "xmpp/stream", "xmpp/transfer"},
	"xmpp/proof":      {"dns", "xmpp/stream"},
	"xmpp/component":  {"mail", "xmpp/wire", "xmpp/stream", "xmpp/peers"},
	"docs":            {},
	"xmpp/transfer":   {"mail", "mail/faults", "store", "schema", "xmpp/wire", "xmpp/stream"},
	"store":           {"mail"},
	"store/sqlite":    {"mail", "mail/faults", "store", "schema"},
	"store/postgres":  {"mail", "mail/faults", "store", "schema"},
	"store/storetest": {"mail", "store", "schema"},
	"schema":          {},
	"trust":           {"mail", "dns", "trust/arc", "trust/author", "trust/authres", "trust/dkim", "trust/dmarc", "trust/header", "trust/spf"},
	"trust/arc":       {"trust/authres", "trust/dkim", "trust/header"},
	"trust/author":    {"mail", "trust/header"},
	"trust/contacts":  {"mail", "store", "dns", "trust", "trust/author", "trust/authres", "trust/header"},
	"trust/authres":   {},
	"trust/dkim":      {"mail", "dns", "trust/authres", "trust/header"},
	"trust/dmarc":     {"mail", "dns", "trust/authres"},
	"trust/grants":    {"mail", "store", "trust"},
	"trust/header":    {},
	"trust/signing":   {"mail", "store", "dns", "trust/author", "trust/dkim", "trust/header"},
	"trust/spf":       {"mail", "dns", "trust/authres"},
	"admin":           {"mail", "store"},
	"demo":            {"config", "mail"},
	"lab/...":         {"..."},
}

type goPackage struct {
	ImportPath string
	Imports    []string
}

// TestImports holds the arrows of the architecture: what a package may import
// of the project, that lab is imported by nothing, and that mail needs no
// module but golang.org/x.
func TestImports(t *testing.T) {
	seen := map[string]bool{}
	for _, p := range listPackages(t) {
		name := strings.TrimPrefix(p.ImportPath, "mailxmppd/")
		key := name
		if strings.HasPrefix(name, "lab/") || name == "lab" {
			key = "lab/..."
		}
		may, known := allowed[key]
		if !known {
			t.Errorf("%s has no place in the architecture", name)
			continue
		}
		seen[key] = true
		for _, i := range p.Imports {
			own, ours := strings.CutPrefix(i, "mailxmppd/")
			switch {
			case ours && own != name && !slices.Contains(may, own) && !slices.Contains(may, "..."):
				t.Errorf("%s must not import %s", name, own)
			case ours && strings.HasPrefix(own, "lab") && key != "lab/...":
				t.Errorf("%s imports %s", name, own)
			case key == "mail" && strings.Contains(i, ".") && !strings.HasPrefix(i, "golang.org/x/"):
				t.Errorf("mail imports %s", i)
			}
		}
	}
	for key := range allowed {
		if !seen[key] {
			t.Errorf("%s is in the table, but not in the tree", key)
		}
	}
}

func listPackages(t *testing.T) []goPackage {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports", "mailxmppd/...").Output()
	if err != nil {
		t.Fatal(err)
	}
	var list []goPackage
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		switch err := dec.Decode(&p); {
		case errors.Is(err, io.EOF):
			return list
		case err != nil:
			t.Fatal(err)
		}
		list = append(list, p)
	}
}
