package store

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// AgeClasses are the upper bounds of the classes that Totals counts by; the
// last class has none. They are those of Postfix's qshape.
func AgeClasses() [9]time.Duration {
	var c [9]time.Duration
	for i := range c {
		c[i] = 5 * time.Minute << i
	}
	return c
}

// Total counts deliveries.
type Total struct {
	Domain     string  `json:"domain,omitempty"` // "" for several
	Deliveries int     `json:"deliveries"`
	Ages       [10]int `json:"ages"`   // of all of them, by AgeClasses
	Held       int     `json:"held"`   // of them
	Leased     int     `json:"leased"` // of them
}

// Add adds another count.
func (t *Total) Add(o Total) {
	t.Deliveries, t.Held, t.Leased = t.Deliveries+o.Deliveries, t.Held+o.Held, t.Leased+o.Leased
	for i, n := range o.Ages {
		t.Ages[i] += n
	}
}

// Totals is what Queue.Totals counts.
type Totals struct {
	All     Total   `json:"all"`
	Domains []Total `json:"domains"` // those with most deliveries, in that order
	Others  Total   `json:"others"`  // the remaining domains
}

// Rank makes Totals of what a backend counted for each domain: top of them by
// name, the others together.
func Rank(byDomain map[string]*Total, top int) Totals {
	t := Totals{Domains: make([]Total, 0, len(byDomain))}
	for _, d := range byDomain {
		t.Domains = append(t.Domains, *d)
		t.All.Add(*d)
	}
	slices.SortFunc(t.Domains, func(a, b Total) int {
		return cmp.Or(cmp.Compare(b.Deliveries, a.Deliveries), strings.Compare(a.Domain, b.Domain))
	})
	top = min(max(top, 0), len(t.Domains))
	for _, d := range t.Domains[top:] {
		t.Others.Add(d)
	}
	t.Domains = slices.Clip(t.Domains[:top])
	return t
}
