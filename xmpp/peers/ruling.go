package peers

import (
	"context"
	"time"

	"mailxmppd/mail"
	"mailxmppd/xmpp/stream"
)

// Ruling is how mail to a domain travels now, and why.
type Ruling struct {
	Standing mail.Standing
	Basis    Basis
	Reason   string
}

// Standing says how mail from local to domain travels. A failure comes with
// Unsure only.
func (d *Directory) Standing(ctx context.Context, local, domain string) (mail.Standing, *mail.Failure) {
	r, f := d.Rule(ctx, local, domain)
	return r.Standing, f
}

// Rule is Standing with its reason.
func (d *Directory) Rule(ctx context.Context, local, domain string) (Ruling, *mail.Failure) {
	p, policy := pair{d.nameOf(local), domain}, d.configured[domain].Policy
	switch policy {
	case Never:
		return Ruling{mail.Legacy, Operator, "configured to get its mail by SMTP"}, nil
	case Required:
		return Ruling{mail.Peer, Operator, "configured to get its mail over XMPP"}, nil
	}
	if d.takesNow(ctx, p) {
		return Ruling{mail.Peer, Seen, "takes mail on a live stream"}, nil
	}
	k, basis, why, err := d.memory.recall(ctx, domain)
	switch {
	case err != nil:
		return Ruling{mail.Unsure, Unknown, "memory cannot be read"}, mail.Fail(mail.Internal, "", err)
	case basis == Negative && (policy == Preferred || k.final(time.Now(), d.cfg.NegativeFor) || !d.memory.mayLook(domain)):
		return Ruling{mail.Legacy, Negative, why}, nil
	case basis == Negative: // unless it has announced itself meanwhile
	case policy == Preferred: // every failure means SMTP, whatever the domain says
	case basis == Pinned:
		return Ruling{mail.Peer, Pinned, "has pinned its mail to XMPP"}, nil
	case basis == Seen:
		return Ruling{mail.Peer, Seen, "was seen to take mail within 30 days"}, nil
	}
	return d.discover(ctx, p)
}

// HeldToXMPP reports whether a domain's mail may go over XMPP only, even where
// it may have been taken there already (xep-draft section 9.3): the operator has
// named the domain, or it has pinned itself. So it is where that cannot be told.
func (d *Directory) HeldToXMPP(ctx context.Context, domain string) bool {
	if _, named := d.configured[domain]; named {
		return true
	}
	_, basis, _, err := d.memory.recall(ctx, domain)
	return err != nil || basis == Pinned
}

// XMPPOnly reports whether a domain says that its own mail comes to its peers
// over XMPP alone, while its pin holds.
func (d *Directory) XMPPOnly(ctx context.Context, domain string) (bool, error) {
	k, basis, _, err := d.memory.recall(ctx, domain)
	return basis == Pinned && k.xmppOnly, err
}

// discover asks about a domain to which nothing binds us, once for all who ask
// at the same time.
func (d *Directory) discover(ctx context.Context, p pair) (Ruling, *mail.Failure) {
	ch := d.probes.DoChan(p.local+" "+p.remote, func() (any, error) {
		if !d.waiting.run(func() { d.running.Add(1) }) {
			return nil, context.Canceled
		}
		defer d.running.Done()
		ctx, cancel := context.WithTimeout(d.ctx, d.cfg.Timeout)
		defer cancel()
		return d.explore(ctx, p), nil
	})
	select {
	case r := <-ch:
		if found, ok := r.Val.(Ruling); ok {
			return found, nil
		}
		return Ruling{Standing: mail.Unsure}, mail.Fail(mail.Internal, "", r.Err)
	case <-ctx.Done():
		return Ruling{Standing: mail.Unsure}, mail.Fail(mail.Internal, "", ctx.Err())
	}
}

const hasRecords = "has _xmpps-mail records"

// explore finds out about a domain in the order of xep-draft section 4.1.
func (d *Directory) explore(ctx context.Context, p pair) Ruling {
	preferred := d.configured[p.remote].Policy == Preferred
	// Somebody may have found out between our look and this one.
	switch k, basis, why, err := d.memory.recall(ctx, p.remote); {
	case err != nil:
	case basis == Negative && !preferred && !k.final(time.Now(), d.cfg.NegativeFor) && d.announces(ctx, p.remote):
		return Ruling{mail.Peer, Announced, hasRecords}
	case basis == Negative:
		d.memory.noteLooked(p.remote)
		return Ruling{mail.Legacy, Negative, why}
	case !preferred && (basis == Pinned || basis == Seen):
		return Ruling{mail.Peer, basis, "was seen to take mail just now"}
	}
	var at place
	if len(d.configured[p.remote].Addrs) == 0 {
		at = d.lookup(ctx, p.remote)
		switch {
		case len(at.records) == 0:
			return Ruling{mail.Legacy, Unknown, at.why}
		case at.service == atMail && !preferred:
			return Ruling{mail.Peer, Announced, hasRecords}
		}
	}
	_, _, err := d.Link(ctx, p.local, p.remote)
	if err == nil {
		return Ruling{mail.Peer, Seen, "takes mail on a live stream"}
	}
	f := mail.AsFailure(err)
	d.cfg.Log.Debug("domain is no peer", "peer", p.remote, "local", p.local, "err", err)
	// So that not every message pays for a chat server that cannot be reached
	// or authenticated.
	switch {
	case f.Kind == mail.Unavailable: // its own word, and noted
	case lasting(err) && !preferred && !at.mailDark:
		d.note(p.remote, func(k *known, now time.Time) { k.refuse(now, f.Text) })
	default:
		d.memory.noteFailed(p.remote, f.Text)
	}
	// Another node may have seen or pinned it meanwhile.
	if _, basis, _, err := d.memory.recall(ctx, p.remote); err == nil && !preferred && (basis == Pinned || basis == Seen) {
		return Ruling{mail.Peer, basis, "was seen to take mail just now"}
	}
	return Ruling{mail.Legacy, Unknown, f.Text}
}

// lasting reports whether a failure is the server's own and will be there
// tomorrow: no bidirectional streams. A refusal of our own certificate may end
// when ours is renewed. A certificate that does not prove the domain may have
// lacked but a proof that could not be looked up just then, such as a TLSA
// record.
func lasting(err error) bool { return stageOf(err) == stream.StageBidi }
