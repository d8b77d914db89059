package peers

import (
	"encoding/json"
	"testing"
	"time"

	"mailxmppd/xmpp/transfer"
)

const (
	hour = time.Hour
	day  = 24 * time.Hour
)

// TestWhatIsKnown plays what a domain says over the days, each step written
// down and read back, against what holds afterwards (xep-draft section 4.3).
func TestWhatIsKnown(t *testing.T) {
	saw := func(policy string, age time.Duration) func(*known, time.Time) {
		return func(k *known, now time.Time) {
			k.sight(now, transfer.Capabilities{Policy: policy, MaxAge: age, Sends: "xmpp-only"}, atMail)
		}
	}
	withdraw := func(k *known, _ time.Time) { k.withdraw() }
	refused := func(k *known, now time.Time) { k.refuse(now, "no stream") }
	type step struct {
		after time.Duration
		what  func(*known, time.Time) // nil: time passes
		want  Basis
	}
	for _, c := range []struct {
		name  string
		steps []step
	}{
		{"nothing", []step{{0, nil, Unknown}}},
		{"seen", []step{{0, saw("none", 0), Seen}, {29 * day, nil, Seen}, {day, nil, Unknown}}},
		{"seen again", []step{{0, saw("none", 0), Seen}, {29 * day, saw("none", 0), Seen}, {29 * day, nil, Seen}}},
		{"testing is no pin", []step{{0, saw("testing", 90*day), Seen}}},
		{"enforce without age is no pin", []step{{0, saw("enforce", 0), Seen}}},
		{"pin ends by age, the sighting stays", []step{{0, saw("enforce", 7*day), Pinned}, {7*day - hour, nil, Pinned}, {hour, nil, Seen}}},
		{"pin outlives the sighting", []step{{0, saw("enforce", 60*day), Pinned}, {59 * day, nil, Pinned}, {day, nil, Unknown}}},
		{"pin of at most 90 days", []step{{0, saw("enforce", 365*day), Pinned}, {90*day - hour, nil, Pinned}, {hour, nil, Unknown}}},
		{"a sighting renews the pin", []step{{0, saw("enforce", 10*day), Pinned}, {9 * day, saw("enforce", 10*day), Pinned}, {9 * day, nil, Pinned}}},
		{"none ends a pin at once", []step{{0, saw("enforce", 90*day), Pinned}, {hour, saw("none", 0), Seen}}},
		{"testing ends a pin at once", []step{{0, saw("enforce", 90*day), Pinned}, {hour, saw("testing", 90*day), Seen}}},
		{"absence ends a sighting", []step{{0, saw("none", 0), Seen}, {hour, denied, Negative}, {23 * hour, nil, Negative}, {hour, nil, Unknown}}},
		{"absence once leaves a pin", []step{{0, saw("enforce", 90*day), Pinned}, {hour, denied, Pinned}, {60 * day, nil, Pinned}}},
		{"absence twice within a day leaves a pin", []step{
			{0, saw("enforce", 90*day), Pinned}, {hour, denied, Pinned}, {hour, denied, Pinned}, {22*hour + 59*time.Minute, denied, Pinned},
		}},
		{"absence twice a day apart ends a pin", []step{
			{0, saw("enforce", 90*day), Pinned}, {hour, denied, Pinned}, {hour, denied, Pinned}, {23 * hour, denied, Negative},
		}},
		{"a sighting between two absences", []step{
			{0, saw("enforce", 90*day), Pinned}, {hour, denied, Pinned}, {hour, saw("enforce", 90*day), Pinned}, {25 * hour, denied, Pinned},
		}},
		{"a pin's end after an absence leaves no sighting", []step{{0, saw("enforce", 2*day), Pinned}, {hour, denied, Pinned}, {2 * day, nil, Unknown}}},
		{"withdrawal ends a pin", []step{{0, saw("enforce", 90*day), Pinned}, {hour, withdraw, Unknown}}},
		{"withdrawal ends a sighting", []step{{0, saw("none", 0), Seen}, {hour, withdraw, Unknown}, {hour, saw("none", 0), Seen}}},
		{"refusal", []step{{0, refused, Negative}, {24 * hour, nil, Unknown}}},
		{"refusal, then seen", []step{{0, refused, Negative}, {hour, saw("none", 0), Seen}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			now := time.Now()
			var k known
			for i, s := range c.steps {
				facts, err := k.encode(now)
				if err != nil {
					t.Fatal(err)
				}
				if k, err = decode(facts, s.after, now); err != nil { // s.after later, as the store says
					t.Fatal(err)
				}
				if s.what != nil {
					s.what(&k, now)
				}
				if got := k.basis(now, day); got != s.want {
					t.Fatalf("step %d: %s, want %s (%+v)", i, got, s.want, k)
				}
			}
		})
	}
}

func TestSendsHoldsAsLongAsThePin(t *testing.T) {
	now := time.Now()
	var k known
	k.sight(now, transfer.Capabilities{Policy: "enforce", MaxAge: day, Sends: "xmpp-only"}, atServer)
	for _, c := range []struct {
		age  time.Duration
		want bool
	}{{0, true}, {23 * hour, true}, {25 * hour, false}} {
		facts, _ := k.encode(now)
		got, err := decode(facts, c.age, now)
		if holds := got.basis(now, day) == Pinned && got.xmppOnly; err != nil || holds != c.want || got.service != atServer {
			t.Errorf("after %v: %+v, %v", c.age, got, err)
		}
	}
	k.sight(now, transfer.Capabilities{Policy: "none", MaxAge: day, Sends: "xmpp-only"}, atServer)
	if k.xmppOnly {
		t.Error("holds without a pin")
	}
}

func TestDecodeRefuses(t *testing.T) {
	for _, facts := range []string{"", "[]", `{"v":2,"pin_left_ms":1}`, `{"v":1,"sighted_ms":"x"}`} {
		if k, err := decode([]byte(facts), 0, time.Now()); err == nil {
			t.Errorf("%s is %+v", facts, k)
		}
	}
	if k, err := decode([]byte(`{"feature":true}`), 0, time.Now()); err != nil || k != (known{}) {
		t.Errorf("older form: %+v, %v", k, err)
	}
}

// FuzzDecode: whatever is stored, no time leaves its bounds, and what was read
// is written and read the same.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"v":1,"sighted_ms":1000,"service":"mail","pin_left_ms":1000,"xmpp_only":true,"absent_ms":0}`), int64(5))
	f.Add([]byte(`{"v":1,"pin_left_ms":1}`), int64(75))
	f.Add([]byte(`{"v":1,"sighted_ms":-9223372036854775808,"pin_left_ms":9223372036854775807,"negative_ms":9223372036854775807}`), int64(-1))
	f.Fuzz(func(t *testing.T, facts []byte, age int64) {
		now := time.Now()
		k, err := decode(facts, time.Duration(age), now)
		if err != nil {
			return
		}
		if k.pinned.Sub(now) > longestPin || k.sighted.After(now) || k.negative.After(now) || k.absent.After(now) {
			t.Fatalf("in the future: %+v", k)
		}
		out, err := k.encode(now)
		if err != nil {
			t.Fatal(err)
		}
		again, err := decode(out, 0, now)
		if err != nil || !near(again.sighted, k.sighted) || !near(again.absent, k.absent) || !near(again.negative, k.negative) ||
			now.Before(k.pinned.Add(-time.Millisecond)) && !near(again.pinned, k.pinned) {
			t.Fatalf("%s: %+v, then %+v, %v", out, k, again, err)
		}
		var r record
		if json.Unmarshal(out, &r) != nil || r.PinLeft < 0 {
			t.Fatalf("written as %s", out)
		}
	})
}

// near: times are kept in milliseconds.
func near(a, b time.Time) bool { return a.IsZero() == b.IsZero() && a.Sub(b).Abs() <= time.Millisecond }
