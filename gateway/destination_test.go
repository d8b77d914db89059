package gateway

import (
	"testing"
	"testing/synctest"
	"time"

	"mailxmppd/mail"
)

// TestWindow: attempts at once grow and shrink as the destination shows what it
// can take, by one for each window of them.
func TestWindow(t *testing.T) {
	cfg := Config{RetryFirst: time.Minute, PerDomain: 8}
	d := &dest{window: initialWindow(cfg), runs: 8}
	step := func(r reach, times, want int) {
		t.Helper()
		for range times {
			d.learn(r, nil, false, cfg)
		}
		if d.limit() != want {
			t.Errorf("limit %d after %d times %d, want %d", d.limit(), times, r, want)
		}
	}
	step(delivered, 4, 5)
	step(delivered, 1, 6)
	step(delivered, 6, 7)
	step(delivered, 7, 8)
	step(delivered, 100, cfg.PerDomain)
	step(throttled, 1, 7)
	step(throttled, 6, 7)
	step(answered, 1, 7) // no failure of the destination: they count anew
	step(throttled, 1, 6)
	step(answered, 20, 6)
	d.runs = 0
	step(delivered, 20, 6) // few attempts at once show nothing of many
	for range 20 {         // less than a window of failures at a time is no death
		for range d.limit() - 1 {
			d.learn(throttled, nil, false, cfg)
		}
		d.learn(answered, nil, false, cfg)
		if d.dead(time.Now()) || d.outages != 0 {
			t.Fatalf("dead until %s at limit %d", d.deadUntil, d.limit())
		}
	}
	if d.limit() != 1 {
		t.Errorf("limit %d of a destination that has not taken anything for long", d.limit())
	}
}

// TestDead: a window of failures without an answer between them stands for a dead
// destination; the time for which it is left alone doubles, one attempt at a time
// finds out, and the first success releases what waits.
func TestDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := Config{RetryFirst: time.Minute, PerDomain: 8}
		d := &dest{window: initialWindow(cfg)}
		down := mail.Fail(mail.Unreachable, "connection refused", nil)
		for i := range 4 {
			if d.learn(unreachable, down, false, cfg); d.dead(time.Now()) {
				t.Fatalf("dead after %d failures", i+1)
			}
		}
		d.learn(answered, nil, false, cfg)
		wait := deadMin
		for i := range 8 {
			n := d.limit()
			for range n {
				d.learn(unreachable, down, false, cfg)
			}
			left := time.Until(d.deadUntil)
			if left < wait*9/10 || left > wait*11/10 || d.limit() != 1 || d.why != down.Text {
				t.Fatalf("outage %d: dead for %s, want about %s; limit %d, %q", i, left, wait, d.limit(), d.why)
			}
			d.learn(unreachable, down, false, cfg) // of the same outage
			d.learn(unknown, nil, false, cfg)
			if d.outages != i+1 || time.Until(d.deadUntil) != left {
				t.Fatalf("one outage counts %d times", d.outages)
			}
			time.Sleep(left)
			wait = min(2*wait, cfg.RetryFirst)
		}
		if due := d.learn(delivered, nil, false, cfg); !due || d.outages != 0 || d.limit() < initialRuns {
			t.Errorf("back: released %v, %d outages, limit %d", due, d.outages, d.limit())
		}
		for range d.limit() {
			d.learn(unreachable, down, false, cfg)
		}
		if d.learn(delivered, nil, false, cfg) {
			t.Error("released again at once")
		}
		if !d.learn(unreachable, down, true, cfg) || d.failing != 0 {
			t.Error("a failure from before the stream's return counts")
		}
	})
}

// TestRetryAfter: a destination that says for how long it takes nothing is left
// alone for so long.
func TestRetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := Config{RetryFirst: time.Minute, PerDomain: 8}
		d := &dest{window: initialWindow(cfg)}
		full := mail.FromStanza("peer.example", "resource-constraint", "", "", false, 20*time.Second)
		r, why := reachOf([]mail.Outcome{{Failure: full}})
		d.learn(r, why, false, cfg)
		if left := time.Until(d.deadUntil); left < 18*time.Second || left > 22*time.Second || d.outages != 0 {
			t.Errorf("left alone for %s, %d outages", left, d.outages)
		}
	})
}

// TestReach: what outcomes say of the destination.
func TestReach(t *testing.T) {
	own := mail.Outcome{Failure: mail.Fail(mail.Internal, "", nil)}
	reply := func(code int, status string) mail.Outcome {
		return mail.Outcome{Failure: mail.FromReply("mx.far.example", code, status, "")}
	}
	for _, c := range []struct {
		name     string
		outcomes []mail.Outcome
		want     reach
	}{
		{"taken", []mail.Outcome{refuse(mail.Unreachable), {}}, delivered},
		{"refused", []mail.Outcome{refuse(mail.NoSuchMailbox)}, answered},
		{"the peer's own trouble is an answer", []mail.Outcome{refuse(mail.Internal)}, answered},
		{"our own trouble is none", []mail.Outcome{own}, unknown},
		{"in doubt", []mail.Outcome{refuse(mail.Doubtful), own}, unreachable},
		{"no stream", []mail.Outcome{refuse(mail.Unreachable)}, unreachable},
		{"a full mailbox", []mail.Outcome{reply(452, "4.2.2")}, answered},
		{"greylisted", []mail.Outcome{reply(451, "4.7.1")}, answered},
		{"too many recipients", []mail.Outcome{reply(452, "4.5.3")}, answered},
		{"session ended", []mail.Outcome{reply(421, "4.7.0")}, throttled},
		{"disk full", []mail.Outcome{reply(452, "4.3.1")}, throttled},
		{"not accepting", []mail.Outcome{reply(451, "4.3.2")}, throttled},
		{"congestion", []mail.Outcome{reply(451, "4.4.5")}, throttled},
		{"refused for good", []mail.Outcome{reply(554, "5.3.2")}, answered},
		{"one mailbox of several", []mail.Outcome{reply(421, "4.3.2"), reply(550, "5.1.1")}, answered},
		{"resource-constraint", []mail.Outcome{refuse(mail.ResourceShort)}, throttled},
	} {
		if got, _ := reachOf(c.outcomes); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}
