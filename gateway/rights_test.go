package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"mailxmppd/mail"
)

// rights is who owns what in the tests; the user "broken" cannot be looked up.
type rights map[string][]string

func (r rights) Owns(_ context.Context, user string) ([]string, error) {
	if user == "broken" {
		return nil, errors.New("the store is away")
	}
	return r[user], nil
}

func withRights(c *Config) {
	c.Owners = rights{"juliet": {"juliet@home.example", "Nurse.Alias@second.example"}, "admin": {"@second.example"}}
}

func client(user string) mail.Client {
	return mail.Client{Addr: netip.MustParseAddrPort("192.0.2.1:1024"), ESMTP: true, TLS: "TLS1.3", User: user}
}

// verdict is a reply's code and status; "" for none.
func verdict(f *mail.Failure) string {
	if f == nil {
		return ""
	}
	return fmt.Sprintf("%d %s", f.Code, f.Status())
}

func TestOwnAddresses(t *testing.T) {
	for _, c := range []struct {
		own, address string
		want         bool
	}{
		{"juliet@home.example", "juliet@home.example", true},
		{"juliet@home.example", "JULIET@HOME.example", true},
		{"Juliet@home.example", "juliet@home.example", true},
		{"juliet@home.example", "juliet+balcony@home.example", true},
		{"juliet@home.example", "Juliet+a+b@home.example", true},
		{"juliet@home.example", "juliet+@home.example", true},
		{"juliet+balcony@home.example", "juliet+balcony@home.example", true},
		{"juliet+balcony@home.example", "juliet@home.example", false},
		{"juliet+balcony@home.example", "juliet+tomb@home.example", false},
		{"juliet@home.example", "juliet@second.example", false},
		{"juliet@home.example", "juliet@sub.home.example", false},
		{"juliet@home.example", "juliette@home.example", false},
		{"juliet@home.example", "+juliet@home.example", false},
		{"juliet@home.example", "juliet-balcony@home.example", false},
		{"kate@home.example", "\u212aate@home.example", false}, // the Kelvin sign is no letter k
		{"\u00c9va@home.example", "\u00c9va@home.example", true},
		{"@home.example", "anybody@home.example", true},
		{"@home.example", "anybody@sub.home.example", false},
		{"@home.example", "anybody@second.example", false},
		{"@", "postmaster", false},
		{"", "juliet@home.example", false},
		{"*", "juliet@home.example", false},
		{`"the nurse"@home.example`, `"The Nurse"@home.example`, true},
	} {
		if got := owns([]string{c.own}, address(t, c.address)); got != c.want {
			t.Errorf("%q owns %q: got %v", c.own, c.address, got)
		}
	}
}

func TestSenderRights(t *testing.T) {
	w := newWorld(t, withRights)
	for _, c := range []struct{ user, from, want string }{
		{"juliet", "juliet@home.example", ""},
		{"juliet", "juliet+1@home.example", ""},
		{"juliet", "nurse.alias@second.example", ""},
		{"juliet", "", ""}, // a notification of a mail client
		{"juliet", "romeo@home.example", "553 5.7.1"},
		{"juliet", "juliet@elsewhere.example", "553 5.7.1"},
		{"admin", "anybody@second.example", ""},
		{"admin", "juliet@home.example", "553 5.7.1"},
		{"stranger", "stranger@home.example", "553 5.7.1"},
		{"broken", "juliet@home.example", "451 4.3.0"},
		{"", "romeo@home.example", ""}, // nobody: relay rights decide
	} {
		f := w.entrance.Sender(t.Context(), client(c.user), mail.Envelope{Sender: address(t, c.from)})
		if got := verdict(f); got != c.want {
			t.Errorf("%s from <%s>: got %q, want %q", c.user, c.from, got, c.want)
		}
		if c.want == "553 5.7.1" && !strings.Contains(f.Text, "user "+c.user+" may not write from <"+c.from+">") {
			t.Errorf("%s from <%s>: unclear text %q", c.user, c.from, f.Text)
		}
	}
}

// Without anybody to ask, an authenticated user owns nothing.
func TestNobodyOwnsWithoutOwners(t *testing.T) {
	w := newWorld(t, nil)
	f := w.entrance.Sender(t.Context(), client("juliet"), mail.Envelope{Sender: address(t, "juliet@home.example")})
	if verdict(f) != "553 5.7.1" {
		t.Errorf("got %v", f)
	}
}

func TestAuthorRights(t *testing.T) {
	w := newWorld(t, withRights)
	const own = "From: Juliet <juliet@home.example>\r\n"
	for _, c := range []struct{ name, user, header, want string }{
		{"own", "juliet", own, ""},
		{"own, bare", "juliet", "From: JULIET+x@home.example\r\n", ""},
		{"own, folded", "juliet", "FROM :\r\n\tJuliet\r\n <juliet@home.example>\r\n", ""},
		{"own alias as Sender", "juliet", own + "Sender: nurse.alias@second.example\r\n", ""},
		{"two of one's own", "juliet", "From: juliet@home.example, A <nurse.alias@second.example>\r\n", ""},
		{"name in a rare charset", "juliet", "From: =?iso-2022-jp?B?GyRCJUYbKEI=?= <juliet@home.example>\r\n", ""},
		{"address in a name", "juliet", "From: \"romeo@home.example\" <juliet@home.example>\r\n", ""},
		{"group of one's own", "juliet", "From: Capulets: juliet@home.example;\r\n", ""},
		{"domain in U-labels", "idn", "From: x@b\u00fccher.example\r\n", "553 5.7.1"},
		{"Resent-From is no author", "juliet", own + "Resent-From: romeo@home.example\r\n", ""},
		{"From in the body", "juliet", own + "\r\nFrom: romeo@home.example\r\n", ""},
		{"whole domain", "admin", "From: anybody@second.example\r\n", ""},
		{"foreign", "juliet", "From: romeo@home.example\r\n", "553 5.7.1"},
		{"foreign behind one's own name", "juliet", "From: \"juliet@home.example\" <romeo@home.example>\r\n", "553 5.7.1"},
		{"one of two is foreign", "juliet", "From: juliet@home.example, romeo@home.example\r\n", "553 5.7.1"},
		{"foreign in a group", "juliet", "From: Capulets: juliet@home.example, romeo@home.example;\r\n", "553 5.7.1"},
		{"foreign Sender", "juliet", own + "Sender: romeo@home.example\r\n", "553 5.7.1"},
		{"second From", "juliet", own + "From: romeo@home.example\r\n", "553 5.7.1"},
		{"second From, of one's own", "juliet", own + own, "553 5.7.1"},
		{"second Sender", "juliet", own + "Sender: juliet@home.example\r\nSender: juliet@home.example\r\n", "553 5.7.1"},
		{"second From after a line that is no field", "juliet", own + "nonsense\r\nfrom\t: romeo@home.example\r\n", "553 5.7.1"},
		{"no From", "juliet", "Subject: x\r\n", "553 5.7.1"},
		{"no header", "juliet", "", "553 5.7.1"},
		{"header that begins with white space", "juliet", " \r\n" + own, "553 5.7.1"},
		{"empty From", "juliet", "From:\r\n", "553 5.7.1"},
		{"empty group", "juliet", "From: undisclosed:;\r\n", "553 5.7.1"},
		{"From that is no list", "juliet", "From: juliet@home.example (\r\n", "553 5.7.1"},
		{"From after a long header", "juliet", strings.Repeat("X-Filler: "+strings.Repeat("x", 900)+"\r\n", 100) + "From: romeo@home.example\r\n", "553 5.7.1"},
		{"unknown user", "stranger", own, "553 5.7.1"},
		{"rights cannot be told", "broken", own, "451 4.3.0"},
		{"nobody", "", "From: romeo@home.example\r\n", ""},
	} {
		for _, perRecipient := range []bool{false, true} {
			m := w.message(c.header+"\r\nbody\r\n", "", "a@home.example", "b@home.example")
			verdicts := w.entrance.Accept(t.Context(), client(c.user), m, perRecipient)
			if perRecipient && c.want != "" && len(verdicts) != 2 {
				t.Errorf("%s: %d verdicts for two recipients", c.name, len(verdicts))
			}
			for _, v := range verdicts {
				if got := verdict(v.Failure); got != c.want {
					t.Errorf("%s: got %q (%v), want %q", c.name, got, v.Failure, c.want)
				}
			}
		}
	}
}

// Whatever a From field holds, all of its addresses are read or none.
func FuzzMailboxes(f *testing.F) {
	for _, s := range []string{"a@b.example", "A <a@b.example>, \"c d\"@e.example", "g: a@b.example;", "=?x?q?y?= <a@b.example>", "<a@[192.0.2.1]>", "a@b.example\r\n c", "<@x:a@b>"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		list, err := mailboxes(s)
		if err == nil && len(list) == 0 {
			t.Error("nothing was read and nothing is wrong")
		}
		for _, a := range list {
			if a.Local == "" || a.Domain == "" {
				t.Errorf("%q: half an address %+v", s, a)
			}
		}
	})
}
