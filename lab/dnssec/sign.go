package dnssec

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// top is the zone between the root and those that are asked for.
const top = "example."

// zoneFile is a zone as the server loads it.
type zoneFile struct{ name, path string }

// signAll writes the zones, then the one above them and the root, with the DS
// records of those that are signed, and returns the root's key as an anchor.
func signAll(dir string, zones []Zone) (files []zoneFile, anchor string, err error) {
	var delegations []string
	add := func(z Zone, origin string) error {
		f, ds, key, err := write(dir, z, origin)
		files, anchor = append(files, f), key
		delegations = append(delegations, ds...)
		return err
	}
	for _, z := range zones {
		if err := add(z, z.Name+"."); err != nil {
			return nil, "", err
		}
		delegations = append(delegations, z.Name+". NS ns."+top)
	}
	records := append([]string{"ns A 127.0.0.1"}, delegations...)
	delegations = nil
	if err := add(Zone{Records: records, Signed: true}, top); err != nil {
		return nil, "", err
	}
	records = append([]string{top + " NS ns." + top, "ns." + top + " A 127.0.0.1"}, delegations...)
	if err := add(Zone{Records: records, Signed: true}, "."); err != nil {
		return nil, "", err
	}
	return files, anchor, nil
}

// write makes a zone's file, and where it is signed its DS records and the
// file of its key.
func write(dir string, z Zone, origin string) (f zoneFile, ds []string, key string, err error) {
	f = zoneFile{origin, filepath.Join(dir, "zone-"+origin)}
	text := "$ORIGIN " + origin + "\n$TTL 300\n@ IN SOA ns." + top + " root." + top + " 1 3600 600 86400 60\n@ NS ns." + top + "\n" +
		strings.Join(z.Records, "\n") + "\n"
	if err := os.WriteFile(f.path, []byte(text), 0o600); err != nil || !z.Signed {
		return f, nil, "", err
	}
	base, err := run(dir, "ldns-keygen", "-a", "ECDSAP256SHA256", "-k", origin)
	if err != nil {
		return f, nil, "", err
	}
	args := []string{"-o", origin, "-f", f.path + ".signed"}
	if z.Expired {
		year := time.Now().AddDate(-1, 0, 0)
		args = append(args, "-i", year.AddDate(0, -1, 0).Format("20060102"), "-e", year.Format("20060102"))
	}
	if _, err := run(dir, "ldns-signzone", append(args, f.path, base)...); err != nil {
		return f, nil, "", err
	}
	f.path += ".signed"
	if z.Spoilt != "" {
		if err := spoil(f.path, z.Spoilt); err != nil {
			return f, nil, "", err
		}
	}
	line, err := os.ReadFile(filepath.Join(dir, base+".ds"))
	return f, []string{strings.TrimSpace(string(line))}, filepath.Join(dir, base+".key"), err
}

// run starts a program in a folder and returns the last word that it prints.
func run(dir, program string, args ...string) (string, error) {
	cmd := exec.Command(program, args...)
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil {
		text := out
		if exit, ok := err.(*exec.ExitError); ok {
			text = append(text, exit.Stderr...)
		}
		return "", fmt.Errorf("%s %q: %w: %s", program, args, err, text)
	}
	return strings.TrimSpace(string(out)), nil
}

// spoil overwrites the beginning of every signature over records of a type.
func spoil(path, rrType string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	signature := regexp.MustCompile(`(?m)^(\S+\s+\d+\s+IN\s+RRSIG\s+` + regexp.QuoteMeta(rrType) + `\s+(?:\S+\s+){6}\S+\s+)\S{20}`)
	if !signature.Match(text) {
		return fmt.Errorf("no signature over %s records in %s", rrType, path)
	}
	return os.WriteFile(path, signature.ReplaceAll(text, []byte("${1}AAAAAAAAAAAAAAAAAAAA")), 0o600)
}
