package schema

import (
	"slices"
	"testing"
	"testing/fstest"
)

// TestStanding: what is missing below the newest counts, and so does what is there
// and not ours.
func TestStanding(t *testing.T) {
	of := fstest.MapFS{"0001_a.sql": {}, "0002_b.sql": {}, "0004_d.sql": {}}
	for _, c := range []struct {
		applied    []int64
		has, knows int64
		unknown    []int64
	}{
		{nil, 0, 4, nil},
		{[]int64{0, 1}, 1, 4, nil},
		{[]int64{4, 2, 1, 0}, 4, 4, nil},
		{[]int64{1, 4}, 1, 4, nil},
		{[]int64{2, 4}, 0, 4, nil},
		{[]int64{1, 2, 3, 4}, 4, 4, []int64{3}},
		{[]int64{1, 2, 4, 9}, 9, 4, []int64{9}},
		{[]int64{1, 9}, 9, 4, []int64{9}},
	} {
		has, knows, unknown, err := Standing(of, c.applied)
		if err != nil || has != c.has || knows != c.knows || !slices.Equal(unknown, c.unknown) {
			t.Errorf("%v: got %d, %d, %v, %v", c.applied, has, knows, unknown, err)
		}
	}
}

// TestBothSchemas: the two databases have the same steps.
func TestBothSchemas(t *testing.T) {
	lite, err := Migrations(SQLite(), 0)
	if err != nil {
		t.Fatal(err)
	}
	pg, err := Migrations(Postgres(), 0)
	if err != nil || !slices.Equal(lite, pg) {
		t.Errorf("%v and %v, %v", lite, pg, err)
	}
}
