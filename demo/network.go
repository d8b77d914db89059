package demo

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
)

// The domains of the demo, and who lives there.
const (
	capulet  = "capulet.example"  // has a gateway
	montague = "montague.example" // has a gateway
	legacy   = "legacy.example"   // takes mail by SMTP alone
	mallory  = "mallory.example"  // has a good certificate and bad intentions

	juliet = "juliet"
	romeo  = "romeo"
	friar  = "friar"
)

// network is everything that one run starts.
type network struct {
	options  Options
	timeline *timeline
	dir      string
	signer   *signer // nil without samples
	ca       *authority
	dns      *nameServer
	boxes    []*mailbox // in the order of the domains above
	gateways []*gateway // capulet's, montague's
	ledger   *ledger
	crashed  chan error // a gateway that ended by itself
	refusals int        // what had to be refused and was

	mu       sync.Mutex
	problems []string // what had to hold and did not
}

// problem records that something that must hold does not.
func (n *network) problem(format string, args ...any) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.problems = append(n.problems, fmt.Sprintf(format, args...))
}

// start brings up DNS, authority, mailboxes and both gateways.
func (n *network) start(ctx context.Context) error {
	var err error
	n.crashed = make(chan error, 2)
	if n.ca, err = newAuthority(n.dir); err != nil {
		return err
	}
	if n.dns, err = startNameServer(); err != nil {
		return err
	}
	n.ledger = newLedger(n.timeline, n.problem, func(message []byte) error { return verifySignature(ctx, n.dns, message) })
	if err := n.startMailboxes(); err != nil {
		return err
	}
	if err := n.fillDNS(); err != nil {
		return err
	}
	n.timeline.heading("The network: two domains with a gateway each, one domain with SMTP alone, all on loopback")
	n.timeline.say(event{Step: "start", OK: true, Text: fmt.Sprintf("dns %s, a throwaway CA, Maildir mailboxes by LMTP; %s takes SMTP on %s", n.dns.addr, legacy, n.boxes[2].addr)})
	return n.startGateways(ctx)
}

func (n *network) startMailboxes() error {
	log, err := os.Create(filepath.Join(n.dir, "mailboxes.log"))
	if err != nil {
		return err
	}
	mx, err := n.ca.leaf("mx." + legacy)
	if err != nil {
		return err
	}
	specs := []mailboxSpec{
		{domain: capulet, lmtp: true, users: []string{juliet, "nurse", "postmaster"}},
		{domain: montague, lmtp: true, users: []string{romeo, "benvolio", "postmaster"}},
		{domain: legacy, users: []string{friar, "apothecary", "postmaster"}, tls: &tls.Config{Certificates: []tls.Certificate{mx.pair}}},
	}
	for _, spec := range specs {
		spec.path = filepath.Join(n.dir, spec.domain, "Maildir")
		spec.log, spec.arrived = log, n.ledger.arrived
		box, err := startMailbox(spec)
		if err != nil {
			return fmt.Errorf("mailbox of %s: %w", spec.domain, err)
		}
		n.boxes = append(n.boxes, box)
	}
	return nil
}

// fillDNS publishes where the domains take mail.
func (n *network) fillDNS() error {
	addrs, err := freeAddresses(10)
	if err != nil {
		return err
	}
	for i, domain := range []string{capulet, montague} {
		of := addrs[5*i:]
		g := &gateway{domain: domain, smtp: of[0], xmpps: of[1], submission: of[2], submissions: of[3], xmpp: of[4]}
		n.gateways = append(n.gateways, g)
		if err := n.dns.addPeer(domain, g.xmpps); err != nil {
			return err
		}
	}
	if n.signer != nil {
		record, err := n.signer.record()
		if err != nil {
			return err
		}
		if err := n.dns.add(record); err != nil {
			return err
		}
	}
	return n.dns.addLegacy(legacy)
}

// startGateways configures both, makes their users and starts them side by
// side.
func (n *network) startGateways(ctx context.Context) error {
	for i, g := range n.gateways {
		if err := n.configure(g, n.boxes[i]); err != nil {
			return err
		}
	}
	failures := make([]error, len(n.gateways))
	var both sync.WaitGroup
	for i, g := range n.gateways {
		user := []string{juliet, romeo}[i]
		both.Go(func() {
			if err := g.login(ctx, user); err != nil {
				failures[i] = fmt.Errorf("gateway of %s: %w", g.domain, err)
				return
			}
			failures[i] = n.bringUp(ctx, g)
		})
	}
	both.Wait()
	return errors.Join(failures...)
}

func (n *network) bringUp(ctx context.Context, g *gateway) error {
	if err := g.start(ctx, n.crashed); err != nil {
		return fmt.Errorf("gateway of %s: %w", g.domain, err)
	}
	n.timeline.say(event{Step: "start", OK: true, Text: fmt.Sprintf("gateway of %s is up: process %d, smtp %s, xmpp with direct TLS %s", g.domain, g.pid(), g.smtp, g.xmpps)})
	return nil
}

// close ends everything; nothing is left but, where clean is false or the end
// itself goes wrong, the files of the run.
func (n *network) close(clean bool) error {
	failures := make([]error, len(n.gateways))
	var all sync.WaitGroup
	for i, g := range n.gateways {
		all.Go(func() { failures[i] = g.stop() })
	}
	all.Wait()
	for _, box := range n.boxes {
		failures = append(failures, box.close())
	}
	if n.dns != nil {
		failures = append(failures, n.dns.close())
	}
	err := errors.Join(failures...)
	if !clean || err != nil {
		return err
	}
	return errors.Join(n.dropSchemas(), os.RemoveAll(n.dir))
}
