package peers

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"mailxmppd/mail"
	"mailxmppd/xmpp/stream"
	"mailxmppd/xmpp/transfer"
)

// The ends of mail in the table.
const (
	overXMPP      = "XMPP"
	bySMTP        = "SMTP"
	deferred      = "defer"
	deferredFirst = "defer, then SMTP" // the attempt that finds out defers, the next goes by SMTP
)

// held is what is known of a domain before anything happens: a row.
type held struct {
	name, meaning string
	known         func(*known, time.Time)
	age           time.Duration // of what is known
	policy        Policy
	service       string // where the domain has what happens; "" for _xmpps-server
	through       bool   // it happens to the service mail.<domain>, which the domain's chat server lists
}

// happening is what a sender meets now: a column.
type happening struct {
	name, meaning string
	prep          func(z *zone, s servers, service, domain string)
	why           string // what the sender says of it
	whyAnnounced  string // the same where _xmpps-mail records are there; "" for why
}

func rows() []held {
	again := func(k *known, now time.Time) {
		k.sight(now.Add(-hour), capsOf("enforce", 60*day), atServer)
		k.deny(now, saysNo, atServer)
	}
	through := func(k *known, now time.Time) { k.sightThrough(now, transfer.Unstated(), atServer, "mail.") } // completed by meet
	return []held{
		{"never seen", "nothing is known of the domain", nil, 0, "", "", false},
		{"seen", "it showed the feature at its chat server's records a day ago", sightedAt(atServer), day, "", "", false},
		{"seen at _xmpps-mail", "it showed the feature at its `_xmpps-mail` records a day ago, and these are hidden now", sightedAt(atMail), day, "", "", false},
		{"pinned", "it announced `policy=enforce` a day ago", pinnedAt(atServer, 60*day), day, "", "", false},
		{"pinned and denied", "the same, and it said 25 hours ago that it takes no mail", again, 25 * hour, "", "", false},
		{"required", "the operator requires XMPP", nil, 0, Required, "", false},
		{"preferred", "the operator prefers XMPP; it is pinned as well", pinnedAt(atServer, 60*day), day, Preferred, "", false},
		{"never", "the operator wants SMTP; it is pinned as well", pinnedAt(atServer, 60*day), day, Never, "", false},
		{"_xmpps-mail", "nothing is known of it, but its `_xmpps-mail` records are there", nil, 0, "", mailService, false},
		{"service", "nothing is known of it; its chat server lists a service of another name", nil, 0, "", "", true},
		{"seen at a service", "a service of another name took its mail a day ago, and its chat server lists it", through, day, "", "", true},
	}
}

func columns() []happening {
	at := func(pick func(servers) string) func(*zone, servers, string, string) {
		return func(z *zone, s servers, service, domain string) { z.serve(service, domain, pick(s)) }
	}
	dnsFails := func(how string) func(*zone, servers, string, string) {
		return func(z *zone, _ servers, service, domain string) {
			z.fail(domain, how)
			if service == mailService { // the records are there: it is the host that cannot be found
				z.set(service+domain+". SRV", "0 0 5270 host."+domain+".")
			}
		}
	}
	const noAddress = "its hosts have no address that can be found"
	return []happening{
		{"takes mail", "the server is proven and shows the feature", at(func(s servers) string { return s.taking }), "takes mail on a live stream", ""},
		{"unsigned NXDOMAIN", "no SRV records", dnsFails(""), "no SRV records", noAddress},
		{"signed NXDOMAIN", "the same, proven by DNSSEC", dnsFails("signed"), "no SRV records, proven by DNSSEC", noAddress},
		{"SERVFAIL", "DNS servers that fail", dnsFails("servfail"), "SRV records cannot be looked up", noAddress},
		{"time-out", "DNS servers that do not answer", dnsFails("silent"), "SRV records cannot be looked up", noAddress},
		{"target \".\"", "a single `_xmpps-mail` record with the target `.`", func(z *zone, s servers, _, domain string) {
			z.serve(serverService, domain, s.taking)
			z.set(mailService+domain+". SRV", "0 0 0 .")
		}, "SRV target of _xmpps-mail is \".\"", ""},
		{"no connection", "the port is closed", at(func(s servers) string { return s.nobody }), "no stream to the peer domain (dial)", ""},
		{"silent server", "it takes the connection and says nothing", at(func(s servers) string { return s.silent }), "no stream to the peer domain (tls)", ""},
		{"TLS failure", "its certificate does not prove the domain", at(func(s servers) string { return s.other }), "no stream to the peer domain (tls)", ""},
		{"authentication failure", "it is proven and refuses us", at(func(s servers) string { return s.refusing }), "no stream to the peer domain (auth)", ""},
		{"dialback only", "it is proven and offers us no SASL EXTERNAL", at(func(s servers) string { return s.dialback }), "no stream to the peer domain (auth)", ""},
		{"no bidi", "it is proven, lets us in, and has no bidirectional streams", at(func(s servers) string { return s.oneway }), "server of the peer domain has no bidirectional streams (XEP-0288)", ""},
		{"without the feature", "it is proven, and says that it has no mail transport", at(func(s servers) string { return s.without }), saysNo, ""},
	}
}

// cell is how a row and a column end: where mail goes, and why.
type cell struct{ end, why string }

// expected is the table. What is not an exception is deferred where the domain
// is held for and goes by SMTP where it is not.
func expected(row held, col happening) cell {
	why := col.why
	if row.service == mailService && col.whyAnnounced != "" {
		why = col.whyAnnounced
	}
	switch key := row.name + " x " + col.name; {
	case row.name == "never":
		return cell{bySMTP, "configured to get its mail by SMTP"}
	case col.name == "takes mail" && row.name == "required":
		return cell{overXMPP, "configured to get its mail over XMPP"}
	case col.name == "takes mail":
		return cell{overXMPP, why}
	case row.name == "service": // what cannot be asked is passed over
		return cell{bySMTP, saysNo}
	case row.name == "seen at a service" && col.name == "without the feature":
		return cell{deferredFirst, saysNo}
	case row.name == "seen at a service":
		return cell{deferred, "mail service of the peer domain cannot be asked"}
	case row.name == "never seen", row.name == "preferred":
		return cell{bySMTP, why}
	case key == `_xmpps-mail x target "."`:
		return cell{bySMTP, why}
	case key == "seen x without the feature", key == "_xmpps-mail x without the feature", key == "pinned and denied x without the feature":
		return cell{deferredFirst, why}
	case key == "pinned x without the feature":
		return cell{deferred, saysNo + "; it is pinned until it says so again a day later"}
	case key == "seen at _xmpps-mail x without the feature":
		return cell{deferred, "chat server of the peer domain takes no mail, and its mail service was another"}
	}
	return cell{deferred, why}
}

// TestDowngrade is the table of xep-draft section 4.3: what is known of a
// domain against what happens now, with real DNS and real streams.
func TestDowngrade(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	z, s := startZone(t), startServers(t, ca)
	own := newCertificates(t, ca)
	type run struct {
		row held
		col happening
		got cell
	}
	var runs []*run
	var wg sync.WaitGroup
	places := make(chan struct{}, 24) // all at once, a slow machine would run into time-outs that are not meant
	for i, row := range rows() {
		for j, col := range columns() {
			r := &run{row: row, col: col}
			runs = append(runs, r)
			wg.Go(func() {
				places <- struct{}{}
				defer func() { <-places }()
				r.got = meet(t, z, s, own, row, col, fmt.Sprintf("r%dc%d.example", i, j))
			})
		}
	}
	wg.Wait()
	for _, r := range runs {
		t.Run(r.row.name+" x "+r.col.name, func(t *testing.T) {
			want := expected(r.row, r.col)
			if r.got.end != want.end || !strings.Contains(r.got.why, want.why) {
				t.Errorf("%s: %q, want %s: %q", r.got.end, r.got.why, want.end, want.why)
			}
		})
	}
}

// meet plays two attempts to deliver as the gateway makes them.
func meet(t *testing.T, z *zone, s servers, own *certificates, row held, col happening, domain string) cell {
	if row.service == "" {
		row.service = serverService
	}
	happensTo := domain
	if row.through {
		happensTo = "mail." + domain
		z.serve(serverService, domain, s.listing)
	}
	col.prep(z, s, row.service, happensTo)
	memory := newMemoryStore()
	if row.known != nil {
		memory.put(domain, row.age, func(k *known, now time.Time) {
			if row.known(k, now); row.through {
				k.via = happensTo
			}
		})
	}
	streams := stream.Config{Certificate: own.of, Roots: rootsOf(own.ca), CloseTimeout: 200 * time.Millisecond, NegotiateTimeout: 15 * time.Second}
	cfg := Config{DNS: z.resolver(t), Store: memory, Validating: true, Timeout: 15 * time.Second}
	switch col.name {
	case "silent server":
		streams.NegotiateTimeout = time.Second
	case "no bidi":
		cfg.Timeout = 2 * time.Second // for the answer that never comes
	}
	if row.policy != "" {
		cfg.Peers = []Configured{{Domain: domain, Policy: row.policy}}
	}
	m := stream.NewManager(streams)
	defer m.Shutdown(context.Background())
	cfg.Streams = Over(m)
	d := NewDirectory(cfg)
	defer d.Close()
	first, second := try(d, domain), try(d, domain)
	switch {
	case first == second:
		return first
	case first.end == deferred && second.end == bySMTP:
		return cell{deferredFirst, second.why}
	case first.end == second.end: // of a negative remembered, or a back-off
		return second
	}
	return cell{first.end + ", then " + second.end, first.why + "; " + second.why}
}

func try(d *Directory, domain string) cell {
	ctx := context.Background()
	r, f := d.Rule(ctx, "capulet.example", domain)
	switch {
	case f != nil:
		return cell{deferred, f.Text}
	case r.Standing == mail.Legacy:
		return cell{bySMTP, r.Reason}
	}
	_, _, err := d.Link(ctx, "capulet.example", domain)
	if err == nil {
		return cell{overXMPP, r.Reason}
	}
	f = mail.AsFailure(err)
	if f.Class != mail.Temporary {
		return cell{"lost", f.Text}
	}
	return cell{deferred, f.Text}
}
