package grants

import (
	"context"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"mailxmppd/mail"
	"mailxmppd/store"
	"mailxmppd/store/sqlite"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// side is one gateway's grants, on a store of its own. What it tells goes to
// the other side, as the protocol would carry it.
type side struct {
	*Grants
	t      *testing.T
	domain string
	store  store.Store
	other  *side

	mu     sync.Mutex
	mails  []string
	ids    map[mail.ID]bool // of mails
	asks   error            // why nobody can be asked by mail
	told   []mail.Permission
	fails  *mail.Failure // what the peer says to everything
	absent map[string]bool
	unsure error // why it cannot be told who is absent
}

func newSide(t *testing.T, domain string) *side {
	t.Helper()
	st, err := sqlite.Open(t.Context(), sqlite.Config{Path: filepath.Join(t.TempDir(), "mail.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	s := &side{t: t, domain: domain, store: st, absent: map[string]bool{"nobody": true}}
	s.Grants = New(Config{
		Store: st, Secret: []byte("the secret of " + domain),
		Ours:   func(d string) bool { return d == domain },
		Exists: func(_ context.Context, a mail.Address) (bool, error) { return !s.absent[a.Local], s.unsure },
		Notify: s.notify, Tell: s.tell,
	})
	return s
}

// notify keeps a mail once for its id, as the queue does.
func (s *side) notify(_ context.Context, id mail.ID, _ mail.Address, content []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.asks != nil || s.ids[id] {
		return s.asks
	}
	if s.ids == nil {
		s.ids = map[mail.ID]bool{}
	}
	s.ids[id] = true
	s.mails = append(s.mails, string(content))
	return nil
}

func (s *side) tell(ctx context.Context, local, domain string, p mail.Permission) *mail.Failure {
	s.mu.Lock()
	s.told = append(s.told, p)
	fails, other := s.fails, s.other
	s.mu.Unlock()
	if fails != nil || other == nil {
		return fails
	}
	return other.Take(ctx, mail.Binding{Local: domain, Remote: local}, p)
}

func (s *side) fail(f *mail.Failure) {
	s.mu.Lock()
	s.fails = f
	s.mu.Unlock()
}

func (s *side) tellings() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.told)
}

// runs starts it until the test ends.
func (s *side) runs() {
	ctx, stop := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() { s.Run(ctx) })
	s.t.Cleanup(func() { stop(); done.Wait() })
}

// work does what waits, on this goroutine.
func (s *side) work() {
	s.t.Helper()
	for {
		select {
		case job := <-s.jobs:
			job(s.t.Context())
			continue
		default:
		}
		break
	}
	if err := s.lookAtHeard(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
	for _, kind := range []store.GrantKind{store.GrantGiven, store.GrantWanted, store.GrantHeld} {
		if err := s.tellKind(s.t.Context(), kind); err != nil {
			s.t.Fatal(err)
		}
	}
}

// lastMail is the last mail to a recipient here.
func (s *side) lastMail() string {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.mails) == 0 {
		s.t.Fatal("nobody was asked by mail")
	}
	return s.mails[len(s.mails)-1]
}

// newVerona is two gateways that talk to each other.
func newVerona(t *testing.T) (montague, capulet *side) {
	montague, capulet = newSide(t, "montague.example"), newSide(t, "capulet.example")
	montague.other, capulet.other = capulet, montague
	return montague, capulet
}

func address(t testing.TB, s string) mail.Address {
	t.Helper()
	a, err := mail.ParseAddress(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

var (
	romeo  = mail.Address{Local: "romeo", Domain: "montague.example"}
	juliet = mail.Address{Local: "juliet", Domain: "capulet.example"}
)

func request(mailbox, author mail.Address) mail.Permission {
	return mail.Permission{Type: mail.PermissionRequest, Mailbox: mailbox, Author: author, Text: "We met at the ball."}
}

func (s *side) take(p mail.Permission) *mail.Failure {
	return s.Take(s.t.Context(), mail.Binding{Local: s.domain, Remote: "capulet.example"}, p)
}

// stored lists what is kept of a kind, as "recipient author state".
func (s *side) stored(kind store.GrantKind) string {
	s.t.Helper()
	all, err := s.store.Grants(s.t.Context(), store.GrantFilter{Kind: kind, Limit: 1000})
	if err != nil {
		s.t.Fatal(err)
	}
	var out []string
	for _, g := range all {
		out = append(out, g.Recipient+" "+g.Author+" "+string(g.State))
	}
	return strings.Join(out, "; ")
}

func (s *side) put(g store.Grant) {
	s.t.Helper()
	if err := s.store.PutGrant(s.t.Context(), g, store.GrantBounds{}); err != nil {
		s.t.Fatal(err)
	}
	s.Changed()
}

// clear empties the store: cheaper than another one.
func (s *side) clear() {
	s.t.Helper()
	s.mails = nil
	for _, kind := range []store.GrantKind{store.GrantGiven, store.GrantAsked, store.GrantHeard, store.GrantHeld, store.GrantWanted} {
		all, err := s.store.Grants(s.t.Context(), store.GrantFilter{Kind: kind, Limit: 1000})
		if err != nil {
			s.t.Fatal(err)
		}
		for _, g := range all {
			if err := s.store.DeleteGrant(s.t.Context(), g.GrantName); err != nil {
				s.t.Fatal(err)
			}
		}
	}
	s.Changed()
}

// permits is what the verdict hears.
func (s *side) permits(recipient, author mail.Address) (string, bool) {
	s.t.Helper()
	reason, ok, err := s.Permits(s.t.Context(), recipient, author, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	return reason, ok
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never happened: %s", what)
		}
	}
}
