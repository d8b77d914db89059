package sqlite

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestExportReadsEveryColumn: a column that a later schema adds to a table that
// is brought into another shape must not be forgotten there.
func TestExportReadsEveryColumn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mail.db")
	if err := open(t, path).Close(); err != nil {
		t.Fatal(err)
	}
	x, err := OpenSource(t.Context(), Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	tables, err := x.Tables(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := map[string]bool{
		"transfers.pieces":     true, // counts the rows of content, which are there to be counted
		"messages.expires":     strings.Contains(exportOf("deliveries"), "m.expires"),
		"acceptances.delivery": true, // its own order by time
	}
	shaped := 0
	for _, table := range tables {
		query := exportOf(table.Name)
		if strings.HasPrefix(query, "SELECT * ") {
			continue
		}
		shaped++
		err := x.c.query("SELECT name FROM pragma_table_info('"+table.Name+"')", nil, func(r row) error {
			if name := r.text(0); !elsewhere[table.Name+"."+name] && !regexp.MustCompile(`\b`+name+`\b`).MatchString(query) {
				t.Errorf("%s.%s is not exported", table.Name, name)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if shaped != 7 {
		t.Errorf("%d tables are brought into another shape", shaped)
	}
}
