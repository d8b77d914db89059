package gateway

import (
	"math/rand/v2"
	"time"

	"mailxmppd/mail"
)

// reach is what an attempt showed of its destination.
type reach int

const (
	unknown     reach = iota // nothing: it was not asked
	unreachable              // it did not answer
	throttled                // it answered that it takes nothing more for now
	answered                 // it answered, and took nothing
	delivered                // it took mail
)

const (
	deadMin     = 5 * time.Second // how long an unreachable destination is left alone at first
	initialRuns = 5               // attempts at once to a destination nothing is known of
)

// dest is what is known of one destination: a peer domain, a smarthost or a set
// of mail exchangers, with all the recipient domains behind it. Entries that say
// nothing are removed.
//
// Its window is how many attempts may run at once. It grows by 1/n with each
// success and shrinks by 1/n with each failure of the destination, n being the
// window: by one for n in a row either way, as Postfix's queue manager does it.
// As many failures as the window is wide, with no answer between them, mean
// that the destination is dead: it is left alone for a while, and then one
// attempt finds out.
type dest struct {
	runs      int             // attempts under way: at work, before it or in line
	working   int             // of them those that have their place now
	line      []*held         // who waits for one, first come first
	outside   []chan struct{} // who waits to get into line, first come first
	window    float64         // attempts at most, never below 1
	cut       int             // cut-through transfers now
	shared    bool            // several domains may be behind it
	failing   float64         // failures without an answer, in windows
	outages   int             // times in a row that it was taken for dead
	deadUntil time.Time       // no attempt before
	why       string          // the words of the last failure
	released  time.Time       // when its waiting mail was last made due by an attempt's success
	ups       int             // how often its stream came up while it is known
	behind    bool            // mail to it waits in the store for want of a place
	pace      time.Duration   // what an attempt takes, on average
	lastTurn  time.Time       // of those put off for want of a place
	sender    string          // who sent last while mail waited
	mixed     time.Time       // when that was another than before
}

// limit is the window in whole attempts; a sum of fractions is never quite
// whole.
func (d *dest) limit() int { return max(1, int(d.window+1e-6)) }

// idle reports whether nobody has anything to do with the destination now.
func (d *dest) idle() bool { return d.runs == 0 && d.cut == 0 && len(d.outside) == 0 }

func (d *dest) dead(now time.Time) bool { return now.Before(d.deadUntil) }

// learn takes in what an attempt showed, why being its failure's words; up says
// that the destination's stream came up since the attempt began. It reports
// whether the waiting mail is to be made due.
func (d *dest) learn(r reach, why *mail.Failure, up bool, cfg Config) (due bool) {
	now := time.Now()
	switch r {
	case unreachable, throttled:
		if up && r == unreachable {
			// It came back before this attempt's failure was settled, so the
			// release at that moment passed over its deliveries.
			return true
		}
		if d.dead(now) {
			return false // one outage, seen by several attempts
		}
		d.fail(now, why, cfg)
	case answered:
		d.alive(cfg)
	case delivered:
		// Not more often than a retry would come: a destination that answers
		// now and then must not have its whole queue thrown at it each time.
		due = d.outages > 0 && now.Sub(d.released) >= cfg.RetryFirst
		if due {
			d.released = now
		}
		d.alive(cfg)
		if n := d.limit(); d.runs+1+initialRuns > n { // else the window is not what bounds it
			d.window = min(d.window+1/float64(n), float64(max(1, cfg.PerDomain)))
		}
	}
	return due
}

// fail takes in a failure of the destination itself.
func (d *dest) fail(now time.Time, why *mail.Failure, cfg Config) {
	n := float64(d.limit())
	d.window = max(1, d.window-1/n)
	d.failing += 1 / n
	if why != nil {
		d.why = why.Text
		if why.Kind == mail.ResourceShort && why.RetryAfter > 0 { // it says itself for how long
			d.pause(now, why.RetryAfter, cfg)
		}
	}
	if d.failing > 1-1e-6 {
		d.outages++
		d.pause(now, deadMin<<min(d.outages-1, 10), cfg)
	}
}

// pause leaves the destination alone. What comes after is one attempt.
func (d *dest) pause(now time.Time, wait time.Duration, cfg Config) {
	d.failing, d.window = 0, 1
	d.deadUntil = now.Add(jittered(min(wait, cfg.RetryFirst)))
}

// alive takes in that the destination answers.
func (d *dest) alive(cfg Config) {
	if d.outages > 0 {
		d.window = max(d.window, initialWindow(cfg))
	}
	d.outages, d.failing, d.deadUntil, d.why = 0, 0, time.Time{}, ""
}

// revived forgets that a destination was unreachable.
func (d *dest) revived(cfg Config) {
	d.alive(cfg)
	d.window = max(d.window, initialWindow(cfg))
}

func initialWindow(cfg Config) float64 { return float64(max(1, min(initialRuns, cfg.PerDomain))) }

// took takes in how long an attempt was.
func (d *dest) took(t time.Duration) {
	if d.pace == 0 {
		d.pace = t
	}
	d.pace += (t - d.pace) / 8
}

const (
	minTurn = 200 * time.Millisecond
	maxTurn = 30 * time.Second
)

// turn is when a delivery that finds all places taken is to come again: the
// destination takes pace/limit for each of those before it.
func (d *dest) turn(now time.Time) time.Duration {
	if d.lastTurn.Before(now) {
		d.lastTurn = now
	}
	d.lastTurn = d.lastTurn.Add(d.pace / time.Duration(d.limit()))
	if most := now.Add(maxTurn); d.lastTurn.After(most) {
		d.lastTurn = most
	}
	return jittered(max(d.lastTurn.Sub(now), minTurn))
}

// jittered is d with a tenth either way, so that what failed together does not
// come back together.
func jittered(d time.Duration) time.Duration { return d - d/10 + rand.N(d/5+1) }

// reachOf tells whether the destination answered for any recipient. What failed
// without anybody's word, such as content that the store does not give, says
// nothing of it. why is the failure that it goes by.
func reachOf(outcomes []mail.Outcome) (r reach, why *mail.Failure) {
	for _, o := range outcomes {
		if o.Failure == nil {
			return delivered, nil
		}
		if shown := reachOfFailure(o.Failure); shown > r {
			r, why = shown, o.Failure
		}
	}
	return r, why
}

// reachOfFailure tells a failure of the destination from one of a mailbox or a
// message, which says that the destination is well: only a reply that ends the
// session (421, RFC 5321 section 3.8) or speaks of the system as a whole (RFC
// 3463 sections 3.4 and 3.5: X.3.1, X.3.2, X.4.5) asks for fewer attempts.
func reachOfFailure(f *mail.Failure) reach {
	switch {
	case f.Kind == mail.Unreachable || f.Kind == mail.Doubtful:
		return unreachable
	case f.Remote == "":
		return unknown
	case f.Class == mail.Temporary && (f.Code == 421 || f.Subject == 3 && (f.Detail == 1 || f.Detail == 2) || f.Subject == 4 && f.Detail == 5):
		return throttled
	}
	return answered
}
