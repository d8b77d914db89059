package config

import "time"

// Grants is about who may write to whom (xep-draft section 10).
type Grants struct {
	Enabled    bool     `toml:"enabled"`
	AskByMail  bool     `toml:"ask_by_mail"`  // recipients are asked by mail
	RequestFor Duration `toml:"request_for"`  // how long a request waits
	WayBackFor Duration `toml:"way_back_for"` // of who was written to
}

func (g *Grants) defaults() {
	*g = Grants{Enabled: true, AskByMail: true, RequestFor: span(14 * 24 * time.Hour), WayBackFor: span(180 * 24 * time.Hour)}
}

func (c *checker) grants(g *Grants) {
	const day = 24 * time.Hour
	c.span("grants.request_for", g.RequestFor, day, 90*day)
	c.span("grants.way_back_for", g.WayBackFor, day, 3650*day)
}
