package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"mailxmppd/config"
	"mailxmppd/store"
)

// The verbs do the same through the socket of a running gateway and on the
// store itself.
func TestGrantVerbs(t *testing.T) {
	nextYear := time.Now().AddDate(1, 0, 0).UTC().Format(time.DateOnly)
	for _, running := range []bool{true, false} {
		t.Run(fmt.Sprintf("running=%v", running), func(t *testing.T) {
			s := newSite(t)
			file := s.write(t)
			cfg, err := config.Load(file)
			if err != nil {
				t.Fatal(err)
			}
			putGrants(t, cfg)
			if running {
				serveAdmin(t, cfg)
			}
			for _, c := range []struct {
				args         string
				code         int
				stdout, says string // part of standard output, which may be a line of it; part of standard error
			}{
				{"pending", 0, "juliet@capulet.example  romeo@montague.example", ""},
				{"approve Juliet@capulet.example romeo@Montague.example", 0, "permitted: romeo@montague.example to write to juliet@capulet.example\n", ""},
				{"approve juliet@capulet.example romeo@montague.example", 1, "", "nobody has asked for romeo@montague.example to write to juliet@capulet.example\n"},
				{"approve juliet@capulet.example paris@verona.example", 1, "", "nobody has asked for paris@verona.example to write to juliet@capulet.example\n"}, // it was withdrawn
				{"deny juliet@capulet.example tybalt@verona.example", 0, "refused: tybalt@verona.example to write to juliet@capulet.example\n", ""},
				{"pending", 0, "RECIPIENT  AUTHOR  STATE  BY  UNTIL  TOLD  TEXT\n", ""},
				{"add juliet@capulet.example friar@verona.example --until " + nextYear, 0, "permitted friar@verona.example to write to juliet@capulet.example until ", ""},
				{"add capulet.example @paris.example --for 90d", 0, "permitted @paris.example to write to @capulet.example until ", ""},
				{"add nurse@capulet.example b\u00fccher.example", 0, "permitted @xn--bcher-kva.example to write to nurse@capulet.example\n", ""},
				{"add romeo@montague.example juliet@capulet.example", 1, "", "`grant request` asks for it\n"},
				{"add nurse@capulet.example juliet@capulet.example", 1, "", "both ours"},
				{"add a@x.example b@y.example", 1, "", "neither a@x.example nor b@y.example is of a domain of ours\n"},
				{"add juliet@capulet.example a@b@c", 1, "", "a@b@c"},
				{"add juliet@capulet.example a@y.example --for 1d --until " + nextYear, 2, "", "only one of --for and --until"},
				{"add juliet@capulet.example a@y.example --until 2020-01-01", 2, "", "not a day to come"},
				{"add juliet@capulet.example a@y.example --for soon", 2, "", "not a time span"},
				{"revoke juliet@capulet.example friar@verona.example", 0, "no longer permitted: friar@verona.example to write to juliet@capulet.example\n", ""},
				{"revoke juliet@capulet.example nobody@verona.example", 1, "", "not found"},
				{"request romeo@montague.example juliet@capulet.example --text hello", 0, "romeo@montague.example is asked to permit juliet@capulet.example\n", ""},
				{"request montague.example juliet@capulet.example", 1, "", "only a mailbox can ask a mailbox"},
				{"request juliet@capulet.example romeo@montague.example", 1, "", "`grant add` permits"},
				{"pending --ours", 0, "pending  operator", ""},
				{"list --held", 0, "romeo@montague.example  nurse@capulet.example  granted  peer", ""},
				{"revoke romeo@montague.example nurse@capulet.example", 0, "no longer permitted: nurse@capulet.example to write to romeo@montague.example\n", ""},
				{"list --held", 0, "revoked", ""},
				{"list --recipient a@b@c", 2, "", "a@b@c"},
			} {
				code, stdout, stderr := call(t, append(append([]string{"grant"}, strings.Fields(c.args)...), "--config", file)...)
				if code != c.code || !strings.Contains(stdout, c.stdout) || (c.stdout == "") != (stdout == "") || !strings.Contains(stderr, c.says) || (c.says == "") != (stderr == "") {
					t.Errorf("%s: got %d %q %q", c.args, code, stdout, stderr)
				}
			}
			code, stdout, stderr := call(t, "grant", "list", "--json", "--config", file)
			var all []store.Grant
			if err := json.Unmarshal([]byte(stdout), &all); code != 0 || err != nil || strings.Contains(stdout, "key") {
				t.Fatalf("%d %v %s %s", code, err, stdout, stderr)
			}
			var got []string
			for _, g := range all {
				got = append(got, fmt.Sprint(g.Recipient, " ", g.Author, " ", g.State, " ", g.Origin, " ", g.Told, " ", !g.Expires.IsZero()))
			}
			want := []string{
				"@capulet.example @paris.example granted operator true true",
				"juliet@capulet.example friar@verona.example revoked operator false false",
				"juliet@capulet.example romeo@montague.example granted operator false false",
				"juliet@capulet.example tybalt@verona.example revoked operator true false",
				"nurse@capulet.example @xn--bcher-kva.example granted operator true false",
			}
			if strings.Join(got, "\n") != strings.Join(want, "\n") {
				t.Errorf("got\n%s", strings.Join(got, "\n"))
			}
			if _, stdout, _ := call(t, "grant", "list", "--recipient", "NURSE@capulet.example", "--config", file); strings.Count(stdout, "\n") != 2 {
				t.Errorf("of one recipient:\n%s", stdout)
			}
			if _, stdout, _ := call(t, "grant", "pending", "--json", "--config", file); stdout != "[]\n" {
				t.Errorf("nothing waits: %q", stdout)
			}
		})
	}
}

// putGrants stores what peers would have brought.
func putGrants(t *testing.T, cfg *config.Config) {
	t.Helper()
	st, err := openStore(t.Context(), cfg, newLog(t.Output(), config.Log{Level: "warn"}))
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	for _, g := range []store.Grant{
		{GrantName: store.GrantName{Kind: store.GrantAsked, Recipient: "juliet@capulet.example", Author: "romeo@montague.example"}, Peer: "montague.example", State: store.Pending, Origin: store.ByPeer},
		{GrantName: store.GrantName{Kind: store.GrantAsked, Recipient: "juliet@capulet.example", Author: "tybalt@verona.example"}, Peer: "verona.example", State: store.Pending, Origin: store.ByPeer},
		{GrantName: store.GrantName{Kind: store.GrantAsked, Recipient: "juliet@capulet.example", Author: "paris@verona.example"}, Peer: "verona.example", State: store.Revoked, Origin: store.ByPeer},
		{GrantName: store.GrantName{Kind: store.GrantHeld, Recipient: "romeo@montague.example", Author: "nurse@capulet.example"}, Peer: "montague.example", State: store.Granted, Origin: store.ByPeer, Key: []byte("0123456789abcdef")},
	} {
		if err := st.PutGrant(t.Context(), g, store.GrantBounds{}); err != nil {
			t.Fatal(err)
		}
	}
}
