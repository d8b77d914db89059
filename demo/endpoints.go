package demo

import (
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
)

// endpoints tells a program where everything is. Every key is always there,
// empty or 0 where the network has no such thing.
type endpoints struct {
	Version int              `json:"version"`
	DNS     string           `json:"dns"`
	CA      string           `json:"ca"`
	CAKey   string           `json:"ca_key"`
	Domains []domainEndpoint `json:"domains"`
}

type domainEndpoint struct {
	Name        string `json:"name"`
	SMTP        string `json:"smtp"`        // relay listener, host:port
	Submission  string `json:"submission"`  // port 587's service
	Submissions string `json:"submissions"` // port 465's service
	User        string `json:"user"`        // of submission
	Password    string `json:"password"`
	XMPP        string `json:"xmpp"`    // streams with STARTTLS, host:port
	XMPPS       string `json:"xmpps"`   // streams with direct TLS, host:port
	Maildir     string `json:"maildir"` // where the domain's mail ends
	Config      string `json:"config"`
	Store       string `json:"store"` // URL
	Admin       string `json:"admin"` // "unix:" and the path of the socket
	PID         int    `json:"pid"`
}

func (n *network) endpoints() endpoints {
	e := endpoints{Version: 1, DNS: n.dns.addr, CA: n.ca.certFile, CAKey: n.ca.keyFile}
	for i, g := range n.gateways {
		e.Domains = append(e.Domains, domainEndpoint{
			Name:  g.domain,
			SMTP:  g.smtp,
			XMPPS: g.xmpps,
			XMPP:  g.xmpp,

			Submission:  g.submission,
			Submissions: g.submissions,
			User:        g.user,
			Password:    g.password,

			Maildir: n.boxes[i].dir.path,
			Config:  g.config,
			Store:   g.storeURL(),
			Admin:   "unix:" + g.admin,
			PID:     g.pid(),
		})
	}
	sink := n.boxes[len(n.boxes)-1]
	e.Domains = append(e.Domains, domainEndpoint{Name: sink.domain, SMTP: sink.addr, Maildir: sink.dir.path})
	return e
}

// storeURL is the gateway's store; with Postgres it leads to its own schema.
func (g *gateway) storeURL() string {
	u, err := url.Parse(g.store)
	if g.schema == "" || err != nil {
		return g.store
	}
	q := u.Query()
	q.Set("search_path", g.schema)
	u.RawQuery = q.Encode()
	return u.String()
}

// writeEndpoints writes the file that was asked for, at the start and again
// when a restart has given a gateway another process id.
func (n *network) writeEndpoints() error {
	if n.options.Endpoints == "" {
		return nil
	}
	if err := writeJSON(n.options.Endpoints, n.endpoints()); err != nil {
		return fmt.Errorf("endpoints: %w", err)
	}
	return nil
}

// writeJSON writes v to file whole or not at all: a reader that waits for the
// file never sees a part of it. The file may hold a store's password.
func writeJSON(file string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(file), ".demo-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	if _, err := tmp.Write(append(b, '\n')); err != nil {
		tmp.Close()
		return err
	}
	if err := tmp.Close(); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), file)
}
