package peers

import (
	"time"

	"mailxmppd/mail"
)

// Seen notes that a stream proven by remote is live: what was held against
// the domain is asked anew. It does not block.
func (d *Directory) Seen(local, remote string) {
	d.memory.seen(remote)
	if d.configured[remote].Policy != Never {
		d.waiting.note(func() { d.running.Go(func() { d.ask(pair{local, remote}) }) })
	}
}

// ask learns what a domain with a live link takes.
func (d *Directory) ask(p pair) {
	defer d.waiting.noted()
	if l := d.cfg.Streams.Live(p.local, p.remote); l != nil {
		if a := d.features(d.ctx, p, l, atUnknown); a.err != nil {
			d.cfg.Log.Debug("domain does not say what it takes", "peer", p.remote, "err", a.err)
		}
	}
}

// Expect keeps dialling a domain that has mail waiting, until there is a link:
// whoever keeps the streams tells when there is. It does not block. Beyond
// MaxExpected domains it does nothing, and the mail waits for its own retry.
func (d *Directory) Expect(local, domain string) {
	p := pair{d.nameOf(local), domain}
	if d.configured[domain].Policy != Never {
		d.waiting.enter(p, func() { d.running.Go(func() { d.redial(p) }) })
	}
}

// redial tries again after 1 s, doubling up to 60 s.
func (d *Directory) redial(p pair) {
	defer d.waiting.leave(p)
	for pause := firstPause; d.waiting.lasts(p); pause = min(2*pause, longestPause) {
		select {
		case <-time.After(jitter(pause)):
		case <-d.ctx.Done():
			return
		}
		if d.Live(p.local, p.remote) {
			return
		}
		up := d.cfg.Streams.Live(p.local, p.remote) != nil
		_, _, err := d.Link(d.ctx, p.local, p.remote)
		if err == nil {
			if up && d.cfg.Reached != nil { // the pair had a stream, so that nobody hears of another
				d.cfg.Reached(p.local, p.remote)
			}
			return
		}
		if f := mail.AsFailure(err); f.Kind == mail.Unavailable {
			return // it answers, and takes no mail: nothing to wait for
		}
	}
}
