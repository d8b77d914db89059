package grants

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// TestAskedAnsweredRevoked follows a permission from the question to its end,
// between two gateways that run.
func TestAskedAnsweredRevoked(t *testing.T) {
	montague, capulet := newVerona(t)
	montague.runs()
	capulet.runs()
	ctx := t.Context()
	if reason, ok := montague.permits(romeo, juliet); ok || reason != "" {
		t.Errorf("before anything: %q", reason)
	}
	if err := Ask(ctx, capulet.store, Name(romeo), Name(juliet), romeo.Domain, "We met\r\nat the ball."); err != nil {
		t.Fatal(err)
	}
	capulet.Changed()
	eventually(t, "romeo is asked", func() bool {
		return montague.stored(store.GrantAsked) != "" && montague.Snapshot()["request-asked"] == 1
	})

	to := address(t, replyTo(t, montague.lastMail()))
	if f := montague.Answer(ctx, romeo, to, mail.Bytes("From: romeo\r\nSubject: Re: x\r\n\r\nWith all my heart\r\n")); f != nil {
		t.Fatal(f)
	}
	eventually(t, "juliet has a key", func() bool { return len(capulet.Key(ctx, romeo, juliet)) == keyLength })
	if got := capulet.stored(store.GrantWanted) + montague.stored(store.GrantAsked); got != "" {
		t.Errorf("still waiting: %s", got)
	}
	key := string(capulet.Key(ctx, romeo, juliet))
	if ok, err := montague.opens(ctx, mail.Recipient{Address: romeo, Grant: key}, juliet.Domain); !ok || err != nil {
		t.Errorf("the key: %v %v", ok, err)
	}
	if reason, ok := montague.permits(romeo, juliet); !ok || reason != "juliet@capulet.example is permitted by the recipient" {
		t.Errorf("permitted: %v %q", ok, reason)
	}
	if _, ok := montague.permits(romeo, address(t, "tybalt@capulet.example")); ok {
		t.Error("somebody else of her domain is permitted")
	}

	if err := Revoke(ctx, montague.store, store.GrantName{Kind: store.GrantGiven, Recipient: Name(romeo), Author: Name(juliet)}, juliet.Domain); err != nil {
		t.Fatal(err)
	}
	montague.fail(mail.Fail(mail.Unreachable, "", nil))
	montague.Changed()
	if ok, _ := montague.opens(ctx, mail.Recipient{Address: romeo, Grant: key}, juliet.Domain); ok {
		t.Error("a key that was taken back is valid until the peer has heard of it")
	}
	if _, ok := montague.permits(romeo, juliet); ok {
		t.Error("permitted after it was taken back")
	}
	montague.fail(nil)
	montague.PeerUp(juliet.Domain)
	eventually(t, "juliet's key is gone", func() bool { return capulet.Key(ctx, romeo, juliet) == nil })
}

// TestGivenUp: an author's side gives a grant up, and the recipient's forgets
// it.
func TestGivenUp(t *testing.T) {
	montague, capulet := newVerona(t)
	montague.put(Permit(Name(romeo), Name(juliet), juliet.Domain, store.ByOperator, time.Time{}))
	montague.work()
	if capulet.Key(t.Context(), romeo, juliet) == nil {
		t.Fatal("no key")
	}
	if err := Revoke(t.Context(), capulet.store, store.GrantName{Kind: store.GrantHeld, Recipient: Name(romeo), Author: Name(juliet)}, romeo.Domain); err != nil {
		t.Fatal(err)
	}
	capulet.Changed()
	if capulet.Key(t.Context(), romeo, juliet) != nil {
		t.Error("a key that was given up is shown")
	}
	capulet.work()
	if got := montague.stored(store.GrantGiven); got != "" {
		t.Errorf("still given: %s", got)
	}
}

// TestRequestsShowNothing: whatever becomes of a request, whoever made it gets
// the same answer, before anything is looked at.
func TestRequestsShowNothing(t *testing.T) {
	montague := newSide(t, "montague.example")
	refused := address(t, "tybalt@capulet.example")
	montague.put(store.Grant{GrantName: store.GrantName{Kind: store.GrantGiven, Recipient: Name(romeo), Author: Name(refused)},
		Peer: refused.Domain, State: store.Revoked, Origin: store.ByRecipient, Told: true})
	montague.put(Permit(Name(romeo), "nurse@capulet.example", juliet.Domain, store.ByOperator, time.Time{}))
	looked := 0
	exists := montague.cfg.Exists
	montague.cfg.Exists = func(ctx context.Context, a mail.Address) (bool, error) { looked++; return exists(ctx, a) }
	for _, c := range []struct{ mailbox, author, want string }{
		{"romeo@montague.example", "juliet@capulet.example", "asked"},
		{"Romeo@montague.example", "JULIET@capulet.example", "repeated"},
		{"nobody@montague.example", "juliet@capulet.example", "unknown-mailbox"},
		{"romeo@montague.example", "tybalt@capulet.example", "refused"},
		{"romeo@montague.example", "nurse@capulet.example", "told-again"},
	} {
		before := looked
		if f := montague.take(request(address(t, c.mailbox), address(t, c.author))); f != nil {
			t.Errorf("%s: %v", c.want, f)
		}
		if looked != before {
			t.Errorf("%s: the mailbox was looked for before the answer", c.want)
		}
		montague.work()
		if montague.Snapshot()["request-"+c.want] != 1 {
			t.Errorf("%s: counted %v", c.want, montague.Snapshot())
		}
	}
	if len(montague.mails) != 1 {
		t.Errorf("%d mails to recipients", len(montague.mails))
	}
}

// TestFloodOfRequests: requests neither wait nor grow without a bound, and
// those of one domain leave room for another's.
func TestFloodOfRequests(t *testing.T) {
	montague := newSide(t, "montague.example")
	montague.most.askedOf, montague.most.heardOfPeer = 4, 10
	for i := range 40 {
		if f := montague.take(request(romeo, mail.Address{Local: fmt.Sprint("sybil", i), Domain: "capulet.example"})); f != nil {
			t.Fatal(f)
		}
	}
	if n := montague.Snapshot()["crowded"]; n != 30 {
		t.Errorf("%d forgotten", n)
	}
	montague.work()
	if len(montague.mails) != 3 || montague.Snapshot()["request-too-many"] != 7 {
		t.Errorf("%d mails to one recipient, %v", len(montague.mails), montague.Snapshot())
	}
	escalus := mail.Address{Local: "escalus", Domain: "verona.example"}
	for _, c := range []struct {
		mailbox, author mail.Address
		mails           int
	}{
		{romeo, escalus, 4}, {romeo, mail.Address{Local: "paris", Domain: "verona.example"}, 4}, // romeo has no place left
		{mail.Address{Local: "benvolio", Domain: "montague.example"}, escalus, 5},
	} {
		montague.take(request(c.mailbox, c.author))
		montague.work()
		if len(montague.mails) != c.mails {
			t.Errorf("%s to %s: %d mails, want %d", c.author, c.mailbox, len(montague.mails), c.mails)
		}
	}
}

// TestAskedAndWithdrawn: asking and taking it back in turns has nobody asked more
// often, and an answer comes too late once it was taken back.
func TestAskedAndWithdrawn(t *testing.T) {
	montague := newSide(t, "montague.example")
	withdraw := func(author mail.Address) {
		t.Helper()
		if f := montague.take(mail.Permission{Type: mail.PermissionRevoke, Mailbox: romeo, Author: author}); f != nil {
			t.Fatal(f)
		}
	}
	answer := func() *mail.Failure {
		return montague.Answer(t.Context(), romeo, address(t, replyTo(t, montague.mails[0])), mail.Bytes("From: romeo\r\n\r\nYes\r\n"))
	}
	for i := range 5 {
		for _, author := range []mail.Address{juliet, {Local: fmt.Sprint("sybil", i), Domain: juliet.Domain}} {
			montague.take(request(romeo, author))
			montague.work()
			withdraw(author)
		}
	}
	if len(montague.mails) != montague.most.askedOfBy {
		t.Errorf("%d mails, %v", len(montague.mails), montague.Snapshot())
	}
	if f := answer(); f == nil || f.Kind != mail.NoSuchMailbox {
		t.Errorf("an answer to what was withdrawn: %v", f)
	}
	if _, ok := montague.permits(romeo, juliet); ok {
		t.Error("permitted though it was withdrawn")
	}
	montague.take(request(romeo, juliet))
	montague.work()
	if f := answer(); f != nil {
		t.Errorf("an answer to what was asked again: %v", f)
	}
	if _, ok := montague.permits(romeo, juliet); !ok {
		t.Error("not permitted")
	}
}

// TestHostileWords plays what peers say that they have no right to, or that is
// over.
func TestHostileWords(t *testing.T) {
	capulet := newSide(t, "capulet.example") // juliet's, who holds grants of montague's
	grant := mail.Permission{Type: mail.PermissionGrant, Mailbox: romeo, Author: juliet, Key: []byte("0123456789abcdef")}
	over := grant
	over.Until = time.Now().Add(-time.Minute)
	for range 2 { // again is no other
		if f := capulet.take(grant); f != nil {
			t.Fatal(f)
		}
	}
	if got := capulet.stored(store.GrantHeld); got != "romeo@montague.example juliet@capulet.example granted" {
		t.Errorf("held: %s", got)
	}
	if capulet.Key(t.Context(), romeo, juliet) == nil {
		t.Error("no key")
	}
	if f := capulet.take(over); f != nil || capulet.stored(store.GrantHeld) != "" || capulet.Key(t.Context(), romeo, juliet) != nil {
		t.Errorf("a grant that is over: %v, %s", f, capulet.stored(store.GrantHeld))
	}
	capulet.most.heldByOne = 5
	for i := range capulet.most.heldByOne {
		p := grant
		p.Mailbox.Local = fmt.Sprint("m", i)
		if f := capulet.take(p); f != nil {
			t.Fatal(f)
		}
	}
	if f := capulet.take(grant); f == nil || f.Kind != mail.ResourceShort {
		t.Errorf("more grants than there is room for: %v", f)
	}

	montague := newSide(t, "montague.example")
	montague.put(store.Grant{GrantName: store.GrantName{Kind: store.GrantGiven, Recipient: Name(romeo), Author: Name(juliet)},
		Peer: juliet.Domain, State: store.Revoked, Origin: store.ByRecipient, Told: true})
	if f := montague.take(mail.Permission{Type: mail.PermissionRevoke, Mailbox: romeo, Author: juliet}); f != nil {
		t.Error(f)
	}
	montague.take(request(romeo, juliet))
	montague.work()
	if got := montague.stored(store.GrantGiven); got != "romeo@montague.example juliet@capulet.example revoked" || montague.stored(store.GrantAsked) != "" {
		t.Errorf("who was refused has cleared it: %s; asked %s", got, montague.stored(store.GrantAsked))
	}
	if f := montague.take(mail.Permission{Type: mail.PermissionRevoke, Mailbox: mail.Address{Local: "nobody", Domain: "montague.example"}, Author: juliet}); f != nil {
		t.Errorf("what is not there is told apart: %v", f)
	}
}

// TestPermits: the most special entry decides.
func TestPermits(t *testing.T) {
	entry := func(recipient, author string, state store.GrantState, origin store.GrantOrigin) store.Grant {
		g := Permit(recipient, author, "capulet.example", origin, time.Time{})
		g.State = state
		return g
	}
	s := newSide(t, "montague.example")
	for name, c := range map[string]struct {
		entries []store.Grant
		rcpt    string
		want    string // "" for no permit and no reason, else the reason; a reason against begins with "!"
	}{
		"nothing": {nil, "romeo@montague.example", ""},
		"mailbox": {[]store.Grant{entry("romeo@montague.example", "juliet@capulet.example", store.Granted, store.ByOperator)},
			"romeo@montague.example", "juliet@capulet.example is permitted by the operator"},
		"capital letters": {[]store.Grant{entry("romeo@montague.example", "juliet@capulet.example", store.Granted, store.ByOperator)},
			"ROMEO@montague.example", "juliet@capulet.example is permitted by the operator"},
		"detail": {[]store.Grant{entry("romeo@montague.example", "juliet@capulet.example", store.Granted, store.Automatic)},
			"romeo+ball@montague.example", "the recipient has written to juliet@capulet.example"},
		"other mailbox": {[]store.Grant{entry("benvolio@montague.example", "juliet@capulet.example", store.Granted, store.ByOperator)},
			"romeo@montague.example", ""},
		"author's domain": {[]store.Grant{entry("romeo@montague.example", "@capulet.example", store.Granted, store.ByOperator)},
			"romeo@montague.example", "all of capulet.example is permitted by the operator"},
		"both domains": {[]store.Grant{entry("@montague.example", "@capulet.example", store.Granted, store.ByOperator)},
			"romeo@montague.example", "all of capulet.example is permitted by the operator"},
		"refused in a permitted domain": {[]store.Grant{entry("@montague.example", "@capulet.example", store.Granted, store.ByOperator),
			entry("romeo@montague.example", "juliet@capulet.example", store.Revoked, store.ByRecipient)},
			"romeo@montague.example", "!juliet@capulet.example is not wanted by the recipient"},
		"permitted in a refused domain": {[]store.Grant{entry("@montague.example", "@capulet.example", store.Revoked, store.ByOperator),
			entry("romeo@montague.example", "juliet@capulet.example", store.Granted, store.ByRecipient)},
			"romeo@montague.example", "juliet@capulet.example is permitted by the recipient"},
		"author before domain": {[]store.Grant{entry("@montague.example", "juliet@capulet.example", store.Revoked, store.ByOperator),
			entry("romeo@montague.example", "@capulet.example", store.Granted, store.ByOperator)},
			"romeo@montague.example", "!juliet@capulet.example is not wanted by the operator"},
	} {
		t.Run(name, func(t *testing.T) {
			s.clear()
			for _, e := range c.entries {
				s.put(e)
			}
			reason, ok := s.permits(address(t, c.rcpt), juliet)
			if !ok && reason != "" {
				reason = "!" + reason
			}
			if reason != c.want {
				t.Errorf("%v %q, want %q", ok, reason, c.want)
			}
		})
	}
}

// TestMayPermit: before there is content a valid key, or any grant for
// the sender's domain, lets it be asked for; of whose mailbox the latter is
// does not show.
func TestMayPermit(t *testing.T) {
	s := newSide(t, "montague.example")
	g := Permit(Name(romeo), Name(juliet), juliet.Domain, store.ByOperator, time.Time{})
	may := func(sender mail.Address, mailbox, key string) bool {
		t.Helper()
		ok, err := s.MayPermit(t.Context(), sender, mail.Recipient{Address: address(t, mailbox), Grant: key})
		if err != nil {
			t.Fatal(err)
		}
		return ok
	}
	if may(juliet, "romeo@montague.example", string(g.Key)) {
		t.Error("without a grant")
	}
	s.put(g)
	for _, mailbox := range []string{"romeo@montague.example", "benvolio@montague.example", "nobody@montague.example"} {
		if !may(juliet, mailbox, "") || !may(address(t, "bounces@lists.capulet.example"), mailbox, "wrong, and wrong") {
			t.Errorf("%s: not asked for content", mailbox)
		}
		if may(mail.Address{}, mailbox, string(g.Key)) || may(address(t, "escalus@verona.example"), mailbox, string(g.Key)) {
			t.Errorf("%s: another's key opens", mailbox)
		}
	}
	opens := func(mailbox, key, peer string) bool {
		ok, err := s.opens(t.Context(), mail.Recipient{Address: address(t, mailbox), Grant: key}, peer)
		if err != nil {
			t.Fatal(err)
		}
		return ok
	}
	key := string(g.Key)
	for _, c := range []struct {
		mailbox, key, peer string
		want               bool
	}{
		{"romeo@montague.example", key, "capulet.example", true},
		{"romeo+x@montague.example", key, "capulet.example", true},
		{"benvolio@montague.example", key, "capulet.example", false},
		{"romeo@montague.example", key, "verona.example", false},
		{"romeo@montague.example", key[:keyLength-1] + "\x00", "capulet.example", false},
		{"romeo@montague.example", key[:16], "capulet.example", false},
		{"romeo@montague.example", "", "capulet.example", false},
	} {
		if got := opens(c.mailbox, c.key, c.peer); got != c.want {
			t.Errorf("%s %q %s: %v", c.mailbox, c.key, c.peer, got)
		}
	}
	g.State = store.Revoked
	s.put(g)
	if opens("romeo@montague.example", key, "capulet.example") || may(juliet, "romeo@montague.example", key) {
		t.Error("a key that was taken back opens")
	}
	g.State, g.Expires = store.Granted, time.Now().Add(-time.Second)
	s.put(g)
	if opens("romeo@montague.example", key, "capulet.example") || may(juliet, "romeo@montague.example", key) {
		t.Error("an expired key opens")
	}
}

// TestTelling: a peer that cannot be reached is told later, one that keeps no
// grants never again.
func TestTelling(t *testing.T) {
	s := newSide(t, "montague.example")
	untold := func() int {
		all, err := s.store.Grants(t.Context(), store.GrantFilter{Kind: store.GrantGiven, Untold: true, Limit: 10})
		if err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	s.fail(mail.Fail(mail.Unreachable, "", nil))
	s.put(Permit(Name(romeo), Name(juliet), juliet.Domain, store.ByOperator, time.Time{}))
	s.put(Permit(Name(romeo), "@capulet.example", juliet.Domain, store.ByOperator, time.Time{})) // nothing to tell
	s.work()
	s.work()
	if s.tellings() != 1 || untold() != 1 {
		t.Errorf("told %d times, %d left", s.tellings(), untold())
	}
	s.fail(nil)
	s.PeerUp(juliet.Domain)
	s.work()
	s.work()
	if s.tellings() != 2 || untold() != 0 {
		t.Errorf("back again: told %d times, %d left", s.tellings(), untold())
	}
	for _, kind := range []mail.Kind{mail.NotOffered, mail.Malformed, mail.NotAcceptable} {
		s.fail(mail.Fail(kind, "", nil))
		s.put(Permit(Name(romeo), Name(juliet), juliet.Domain, store.ByOperator, time.Time{}))
		s.work()
		if untold() != 0 {
			t.Errorf("%s: will be told again", kind)
		}
	}
}

// TestParty: what operators write.
func TestParty(t *testing.T) {
	for in, want := range map[string]string{
		"Romeo@Montague.example": "romeo@montague.example", "@montague.example": "@montague.example", "montague.example": "@montague.example",
		`"a b"@x.example`: `"a b"@x.example`, "a@b@c": "", "": "", "@": "", "romeo@": "",
	} {
		got, domain, err := Party(in)
		if (err == nil) != (want != "") || got != want || err == nil && !strings.HasSuffix(want, "@"+domain) {
			t.Errorf("%q: got %q %q %v, want %q", in, got, domain, err, want)
		}
	}
	if err := Ask(t.Context(), nil, "@montague.example", "juliet@capulet.example", "montague.example", ""); err == nil {
		t.Error("a domain was asked")
	}
	s := newSide(t, "montague.example")
	if err := Revoke(t.Context(), s.store, store.GrantName{Kind: store.GrantGiven, Recipient: "x", Author: "y"}, "z"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("nothing to take back: %v", err)
	}
}
