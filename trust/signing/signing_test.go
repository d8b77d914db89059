package signing

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
	"go.uber.org/goleak"

	"mailxmppd/dns"
	"mailxmppd/mail"
	"mailxmppd/store"
	"mailxmppd/store/sqlite"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// zone answers from a table; with down, not at all.
type zone struct {
	mu    sync.Mutex
	texts map[string][]string
	down  bool
	asked int
}

func (z *zone) TXT(_ context.Context, name string) dns.Answer[string] {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.asked++
	switch texts := z.texts[name]; {
	case z.down:
		return dns.Answer[string]{Status: dns.Failed}
	case texts == nil:
		return dns.Answer[string]{Status: dns.NoDomain}
	default:
		return dns.Answer[string]{Status: dns.Found, Records: texts}
	}
}

// site is a Signer over a real store.
type site struct {
	*Signer
	*testing.T
	zone  *zone
	store store.Store
	clock time.Time
}

func newSite(t *testing.T) *site {
	st, err := sqlite.Open(t.Context(), sqlite.Config{Path: t.TempDir() + "/mail.db", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	s := &site{T: t, zone: &zone{texts: map[string][]string{}}, store: st, clock: time.Date(2026, 11, 23, 6, 0, 0, 0, time.UTC)}
	s.restart()
	return s
}

// restart makes a Signer that knows nothing yet.
func (s *site) restart() {
	s.Signer = New(Config{Store: s.store, DNS: s.zone, Domains: []string{"home.example"}, Log: slog.New(slog.DiscardHandler)})
	s.Signer.now = func() time.Time { return s.clock }
}

func (s *site) refresh() {
	s.Helper()
	if err := s.Refresh(s.Context()); err != nil {
		s.Fatal(err)
	}
}

func (s *site) keys() []Key {
	s.Helper()
	stored, err := s.store.SigningKeys(s.Context())
	if err != nil {
		s.Fatal(err)
	}
	var out []Key
	for _, k := range stored {
		key, err := Open(k)
		if err != nil {
			s.Fatal(err)
		}
		out = append(out, key)
	}
	return out
}

func (s *site) publish(keys ...Key) {
	s.Helper()
	for _, k := range keys {
		text, err := k.Record()
		if err != nil {
			s.Fatal(err)
		}
		s.zone.texts[k.RecordName()] = []string{text}
	}
}

// signedBy compares the selectors with which a message of ours is signed.
func (s *site) signedBy(want ...string) {
	s.Helper()
	fields, err := s.Sign(s.Context(), mail.Bytes("From: a@home.example\r\n\r\nx\r\n"))
	if err != nil {
		s.Fatal(err)
	}
	var got []string
	for _, w := range strings.Fields(fields) {
		if sel, ok := strings.CutPrefix(w, "s="); ok {
			got = append(got, strings.TrimSuffix(sel, ";"))
		}
	}
	if !slices.Equal(got, want) {
		s.Errorf("signed by %v, want %v", got, want)
	}
}

// TestLife: keys are made at the first start, sign once DNS shows them, hand
// over to newer ones once those are shown, and sign on while DNS is down.
func TestLife(t *testing.T) {
	s := newSite(t)
	s.signedBy()
	s.refresh()
	first := s.keys()
	if len(first) != 2 || first[0].Selector != "e20261123" || first[1].Selector != "r20261123" {
		t.Fatalf("made %+v", first)
	}
	s.signedBy()
	s.publish(first[1])
	s.refresh()
	s.signedBy("r20261123")
	s.publish(first...)
	s.refresh()
	s.signedBy("r20261123", "e20261123")
	asked := s.zone.asked
	if s.refresh(); s.zone.asked != asked {
		t.Error("what is published was looked at again at once")
	}

	more, err := GenerateAll("home.example", s.clock, s.stored())
	if err != nil || more[0].Selector != "r20261123b" {
		t.Fatalf("got %v, %v", more, err)
	}
	if err := s.store.AddSigningKeys(t.Context(), more, false); err != nil {
		t.Fatal(err)
	}
	s.refresh()
	s.signedBy("r20261123", "e20261123")
	second := s.keys()[2:]
	s.publish(second...)
	s.refresh()
	s.signedBy("r20261123b", "e20261123b")

	// Taken back: at the next look the older ones sign again.
	delete(s.zone.texts, second[0].RecordName())
	s.clock = s.clock.Add(2 * lookAgain)
	s.refresh()
	s.signedBy("r20261123b", "e20261123")

	s.zone.down = true
	s.clock = s.clock.Add(2 * lookAgain)
	s.refresh()
	s.signedBy("r20261123b", "e20261123")
	s.restart() // with nothing known, the newest signs: a signature that cannot be verified does no harm
	s.refresh()
	s.signedBy("r20261123b", "e20261123b")
	s.zone.down = false
	s.zone.texts = map[string][]string{}
	s.refresh()
	s.signedBy()
	s.conf.Always = true
	s.refresh()
	s.signedBy("r20261123b", "e20261123b")
}

func (s *site) stored() []store.SigningKey {
	var out []store.SigningKey
	for _, k := range s.keys() {
		out = append(out, k.SigningKey)
	}
	return out
}

// TestForced: a key signs before DNS shows it where its maker says so.
func TestForced(t *testing.T) {
	s := newSite(t)
	k, err := Generate("home.example", "now", rsaKind)
	if err != nil {
		t.Fatal(err)
	}
	k.Forced = true
	if err := s.store.AddSigningKeys(t.Context(), []store.SigningKey{k}, true); err != nil {
		t.Fatal(err)
	}
	s.refresh()
	s.signedBy("now")
}

// TestLook: only a record with the key itself counts, and only one.
func TestLook(t *testing.T) {
	s := newSite(t)
	s.refresh()
	keys := s.keys()
	own, err := keys[0].Record()
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := keys[1].Record()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		texts []string
		want  Standing
	}{
		"own":            {[]string{own}, Published},
		"beside garbage": {[]string{"google-site-verification=x", own}, Published},
		"another's":      {[]string{foreign}, Unpublished},
		"two":            {[]string{own, own}, Unpublished},
		"revoked":        {[]string{"v=DKIM1; p="}, Unpublished},
		"none":           {nil, Unpublished},
		"huge":           {[]string{"v=DKIM1; p=" + strings.Repeat("A", 1<<20)}, Unpublished},
	} {
		s.zone.texts[keys[0].RecordName()] = c.texts
		if got := keys[0].Look(t.Context(), s.zone); got != c.want {
			t.Errorf("%s: %s", name, got)
		}
	}
}

// TestZoneLine: a zone file's reader finds the record in what we print.
func TestZoneLine(t *testing.T) {
	s := newSite(t)
	s.refresh()
	for _, k := range s.keys() {
		line, err := k.ZoneLine()
		if err != nil {
			t.Fatal(err)
		}
		p := mdns.NewZoneParser(strings.NewReader("$TTL 3600\n"+line+"\n"), ".", "")
		rr, ok := p.Next()
		txt, is := rr.(*mdns.TXT)
		if !ok || !is || p.Err() != nil {
			t.Fatalf("%v: %s", p.Err(), line)
		}
		want, _ := k.Record()
		if txt.Hdr.Name != k.RecordName()+"." || strings.Join(txt.Txt, "") != want {
			t.Errorf("got %s", txt)
		}
		for _, part := range txt.Txt {
			if len(part) > 255 {
				t.Errorf("a string of %d octets", len(part))
			}
		}
	}
}

// TestUnsigned: what is not of one domain of ours is left alone.
func TestUnsigned(t *testing.T) {
	s := newSite(t)
	s.refresh()
	s.publish(s.keys()...)
	s.refresh()
	s.signedBy("r20261123", "e20261123")
	for _, m := range []string{
		"From: a@far.example\r\n\r\n", "From: a@home.example, b@far.example\r\n\r\n", "To: a@home.example\r\n\r\n",
		"From: a@sub.home.example\r\n\r\n", "From: a@home.example\r\nFrom: b@far.example\r\n\r\n", "From: \x00\r\n\r\n", "",
		"From: a@home.example\r\n" + strings.Repeat("X: y\r\n", 2000) + "\r\n",
	} {
		if fields, err := s.Sign(t.Context(), mail.Bytes(m)); err != nil || fields != "" {
			t.Errorf("%.60q: %q, %v", m, fields, err)
		}
	}
}
