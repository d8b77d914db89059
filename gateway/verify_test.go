package gateway

import (
	"context"
	"errors"
	"testing"

	"mailxmppd/mail"
)

// asked is a Verifier that counts and refuses what needs SMTPUTF8.
type asked struct {
	times int
	err   error
}

func (a *asked) Verify(_ context.Context, _ mail.Address, utf8 bool, rcpts []mail.Recipient) ([]*mail.Failure, error) {
	a.times++
	out := make([]*mail.Failure, len(rcpts))
	for i := range out {
		if utf8 {
			out[i] = mail.Fail(mail.NotAcceptable, "", nil)
		}
	}
	return out, a.err
}

// TestVerdictsRemembered: an answer holds for its question only, and not
// knowing is not remembered.
func TestVerdictsRemembered(t *testing.T) {
	v := &asked{}
	g, err := New(Config{Domains: []Domain{{Name: "home.example", Verifier: v}}})
	if err != nil {
		t.Fatal(err)
	}
	ask := func(sender string, utf8 bool) *mail.Failure {
		return g.verifyLocal(t.Context(), g.Domains[0], address(t, sender), utf8, []mail.Recipient{{Address: address(t, "a@home.example")}})[0]
	}
	v.err = errors.New("no connection")
	if f := ask("x@far.example", false); f == nil || f.Class != mail.Temporary {
		t.Errorf("not knowing: %v", f)
	}
	v.err = nil
	for _, c := range []struct {
		sender  string
		utf8    bool
		times   int
		refused bool
	}{
		{"x@far.example", true, 2, true}, {"x@far.example", true, 2, true},
		{"x@far.example", false, 3, false}, {"x@far.example", false, 3, false}, {"y@far.example", false, 4, false},
	} {
		if f := ask(c.sender, c.utf8); (f != nil) != c.refused || v.times != c.times {
			t.Errorf("%+v: %v after %d questions", c, f, v.times)
		}
	}
}

// TestTable: ASCII case aside, what is in the table, and postmaster.
func TestTable(t *testing.T) {
	table := NewTable([]mail.Address{{Local: "Juliet", Domain: "home.example"}, {Local: "k", Domain: "home.example"}})
	for local, want := range map[string]bool{"JULIET": true, "juliet": true, "PostMaster": true, "nobody": false, "\u212a": false} {
		f, err := table.Verify(t.Context(), mail.Address{}, false, []mail.Recipient{{Address: mail.Address{Local: local, Domain: "home.example"}}})
		if err != nil || (f[0] == nil) != want {
			t.Errorf("%q: %v, %v", local, f[0], err)
		}
	}
}
