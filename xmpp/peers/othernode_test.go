package peers

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
	"mailxmppd/xmpp/stream"
)

var errNoBidi = &stream.NegotiationError{Stage: stream.StageBidi, Permanent: true}

// anotherNode is the memory of a node that has read nothing yet.
func anotherNode(s *memoryStore) *memory {
	return &memory{store: s, negativeFor: day, writing: make(chan struct{}, 1), entries: map[string]entry{}}
}

func holds(t *testing.T, m *memory) Basis {
	t.Helper()
	_, b, _, err := m.recall(context.Background(), "montague.example")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestOlderRecordErasesNothing: a node that has read the store within the
// minute changes what another has written since, not what it has read.
func TestOlderRecordErasesNothing(t *testing.T) {
	refused := func(k *known, now time.Time) { k.refuse(now, "no stream") }
	for _, c := range []struct {
		name  string
		other func(*known, time.Time)
		own   func(*known, time.Time)
		want  Basis
	}{
		{"failure after a pin", pinnedAt(atMail, 80*day), refused, Pinned},
		{"failure after a sighting", sightedAt(atMail), refused, Seen},
		{"absence once after a pin", pinnedAt(atServer, 80*day), denied, Pinned},
		{"absence after a sighting", sightedAt(atServer), denied, Negative},
		{"failure", nil, refused, Negative},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newMemoryStore()
			m := anotherNode(s)
			if b := holds(t, m); b != Unknown { // from now on fresh for a minute
				t.Fatal(b)
			}
			if c.other != nil {
				if err := anotherNode(s).change(t.Context(), "montague.example", c.other); err != nil {
					t.Fatal(err)
				}
			}
			if err := m.change(t.Context(), "montague.example", c.own); err != nil {
				t.Fatal(err)
			}
			if here, all := holds(t, m), holds(t, anotherNode(s)); here != c.want || all != c.want {
				t.Errorf("%s here, %s elsewhere, want %s", here, all, c.want)
			}
		})
	}
}

// TestWithdrawalFoundByAnotherNode is not undone by a pin that is held here.
func TestWithdrawalFoundByAnotherNode(t *testing.T) {
	s := newMemoryStore()
	m := anotherNode(s)
	for _, step := range []struct {
		at    *memory
		learn func(*known, time.Time)
	}{
		{m, pinnedAt(atMail, 80*day)},
		{anotherNode(s), func(k *known, _ time.Time) { k.withdraw() }},
		{m, func(k *known, now time.Time) { k.refuse(now, "no stream") }},
	} {
		if err := step.at.change(t.Context(), "montague.example", step.learn); err != nil {
			t.Fatal(err)
		}
	}
	if here, all := holds(t, m), holds(t, anotherNode(s)); here != Negative || all != Negative {
		t.Errorf("%s here, %s elsewhere", here, all)
	}
}

// TestPinOfAnotherNodeOutlivesAFailure is the same through the Directory.
// What has read the store anew does not go by SMTP either.
func TestPinOfAnotherNodeOutlivesAFailure(t *testing.T) {
	for _, c := range []struct {
		name     string
		err      error
		info     string
		standing mail.Standing // of this attempt: a failure that is not stored does not read the store
	}{
		{"no bidirectional streams", errNoBidi, "", mail.Peer},
		{"bad certificate", errTLS, "", mail.Legacy},
		{"chat server takes no mail", nil, without, mail.Peer},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := newSetup(t)
			x.service(serverService)
			x.streams.err, x.streams.dialled = c.err, newFakeLink(c.info, nil)
			holds(t, &x.dir.memory)
			if err := anotherNode(x.store).change(t.Context(), "montague.example", pinnedAt(atMail, 80*day)); err != nil {
				t.Fatal(err)
			}
			before := x.store.peers["montague.example"]
			if got := x.standing(t); got != c.standing {
				t.Errorf("standing %v", got)
			}
			if b := holds(t, anotherNode(x.store)); b != Pinned {
				t.Errorf("elsewhere %s", b)
			}
			if x.store.puts != 1 || string(x.store.peers["montague.example"].Facts) != string(before.Facts) {
				t.Errorf("written %d times: %s", x.store.puts, x.store.peers["montague.example"].Facts)
			}
		})
	}
}

// TestSightingThatCouldNotBeWritten is not lost to the store's older record.
func TestSightingThatCouldNotBeWritten(t *testing.T) {
	s := newMemoryStore()
	m := anotherNode(s)
	full := failingPuts{s}
	m.store = full
	if err := m.change(t.Context(), "montague.example", pinnedAt(atMail, 80*day)); !errors.Is(err, errFull) {
		t.Fatal(err)
	}
	m.store = s
	if err := m.change(t.Context(), "montague.example", func(k *known, now time.Time) { k.refuse(now, "no stream") }); err != nil {
		t.Fatal(err)
	}
	if b := holds(t, anotherNode(s)); b != Pinned {
		t.Errorf("elsewhere %s", b)
	}
}

// TestSightingsAreWrittenOnceAnHour, by whichever node.
func TestSightingsAreWrittenOnceAnHour(t *testing.T) {
	s := newMemoryStore()
	for _, puts := range []int{1, 1, 2, 2} {
		if err := anotherNode(s).change(t.Context(), "montague.example", pinnedAt(atMail, 80*day)); err != nil {
			t.Fatal(err)
		}
		if s.puts != puts {
			t.Errorf("after %v written %d times, want %d", s.now, s.puts, puts)
		}
		s.now += 40 * time.Minute
	}
}

// TestSecureAnswersOfAResolverThatDoesNotValidate: anybody on the way sets the
// AD bit.
func TestSecureAnswersOfAResolverThatDoesNotValidate(t *testing.T) {
	for validating, want := range map[bool]mail.Standing{false: mail.Peer, true: mail.Legacy} {
		x := newSetup(t)
		x.change = func(cfg *Config) { cfg.Validating = validating }
		x.again()
		x.store.put("montague.example", day, sightedAt(atMail))
		x.service(serverService)
		x.dns.secure = true
		x.streams.dialled = newFakeLink(without, nil)
		text := x.link(t)
		x.streams.set(func(f *fakeStreams) { f.live = nil })
		if got := x.standing(t); got != want {
			t.Errorf("validating %v: standing %v: %s", validating, got, text)
		}
		x.dns.srv = nil
		if why := x.dir.lookup(t.Context(), "montague.example").why; strings.Contains(why, "proven") != validating {
			t.Errorf("validating %v: %s", validating, why)
		}
	}
}

var errFull = errors.New("disk full")

// failingPuts is a store that can be read only.
type failingPuts struct{ *memoryStore }

func (failingPuts) PutPeer(context.Context, store.Peer) error { return errFull }
