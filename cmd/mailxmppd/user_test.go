package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"mailxmppd/config"
	"mailxmppd/smtpbridge"
	"mailxmppd/store"
)

// A name that is nobody's has the one form that a user's would have: what a
// client is shown for it must not depend on capital letters, since it does not
// for users.
func TestNobodyHasOneForm(t *testing.T) {
	cfg, err := config.Load(newSite(t).write(t))
	if err != nil {
		t.Fatal(err)
	}
	st, err := openStore(t.Context(), cfg, quiet())
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	for _, name := range []string{"nobody", "NoBody"} {
		if user, _, found, err := smtpUsers(cfg, st).Verifier(t.Context(), name); user != "nobody" || found || err != nil {
			t.Errorf("%s: %q, %v, %v", name, user, found, err)
		}
	}
}

// The verbs do the same through the socket of a running gateway and on the
// store itself.
func TestUserVerbs(t *testing.T) {
	for _, running := range []bool{true, false} {
		t.Run(fmt.Sprintf("running=%v", running), func(t *testing.T) {
			s := newSite(t)
			file := s.write(t)
			cfg, err := config.Load(file)
			if err != nil {
				t.Fatal(err)
			}
			if running {
				serveAdmin(t, cfg)
			}
			first, second, empty := filepath.Join(s.dir, "first"), filepath.Join(s.dir, "second"), filepath.Join(s.dir, "empty")
			writeFile(t, first, "correct horse\r\n")
			writeFile(t, second, "battery staple")
			writeFile(t, empty, "\n")
			for _, c := range []struct {
				args         string
				code         int
				stdout, says string // all of standard output; part of standard error
			}{
				{"add Juliet --password-file " + first, 0, "user juliet added, may write from juliet@capulet.example\n", ""},
				{"add JULIET --password-file " + first, 1, "", "user juliet is there already\n"},
				{"add romeo@montague.example --password-file " + first + " --address romeo@MONTAGUE.example --address @b\u00fccher.example", 0,
					"user romeo@montague.example added, may write from romeo@montague.example @xn--bcher-kva.example\n", ""},
				{"add x --password-file " + empty, 1, "", "password must be text"},
				{"add x --password-file " + filepath.Join(s.dir, "absent"), 1, "", "absent: no such file"},
				{"add a,b --password-file " + first, 1, "", "--address is needed"},
				{"passwd juliet --password-file " + second, 0, "user juliet changed, may write from juliet@capulet.example\n", ""},
				{"passwd nobody --password-file " + second, 1, "", "user nobody: not found\n"},
				{"addresses juliet juliet@capulet.example nurse@capulet.example", 0, "user juliet changed, may write from juliet@capulet.example nurse@capulet.example\n", ""},
				{"addresses nobody a@b.example", 1, "", "user nobody: not found\n"},
				{"list", 0, "USER                    ADDRESSES\njuliet                  juliet@capulet.example nurse@capulet.example\n" +
					"romeo@montague.example  romeo@montague.example @xn--bcher-kva.example\n", ""},
				{"del romeo@montague.example", 0, "user romeo@montague.example deleted\n", ""},
				{"del romeo@montague.example", 1, "", "user romeo@montague.example: not found\n"},
			} {
				code, stdout, stderr := call(t, append(append([]string{"user"}, strings.Fields(c.args)...), "--config", file)...)
				if code != c.code || stdout != c.stdout || !strings.Contains(stderr, c.says) || (c.says == "") != (stderr == "") {
					t.Errorf("%s: got %d %q %q", c.args, code, stdout, stderr)
				}
			}
			code, stdout, _ := call(t, "user", "list", "--json", "--config", file)
			var list []store.User
			if err := json.Unmarshal([]byte(stdout), &list); err != nil || code != 0 {
				t.Fatal(code, err)
			}
			if want := []store.User{{Name: "juliet", Addresses: []string{"juliet@capulet.example", "nurse@capulet.example"}}}; !reflect.DeepEqual(list, want) {
				t.Errorf("got %+v", list)
			}
			if strings.Contains(stdout, "scram") || strings.Contains(stdout, "argon") {
				t.Errorf("a verifier is shown: %s", stdout)
			}
		})
	}
}

// What is stored matches the last password alone, and holds neither.
func TestUserPassword(t *testing.T) {
	s := newSite(t)
	file := s.write(t)
	cfg, err := config.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	// A process of its own: the password comes from its standard input.
	cmd := exec.Command(os.Args[0], "user", "add", "juliet", "--config", file)
	cmd.Env = append(os.Environ(), asProgram+"=1")
	cmd.Stdin = strings.NewReader("correct horse\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	second := filepath.Join(s.dir, "second")
	writeFile(t, second, "battery staple\n")
	matches := func(password string) bool {
		t.Helper()
		st, err := openStore(t.Context(), cfg, quiet())
		if err != nil {
			t.Fatal(err)
		}
		defer st.Close()
		_, stored, found, err := users{store: st}.Verifier(t.Context(), "JULIET")
		if err != nil || !found || strings.Contains(stored, "horse") || strings.Contains(stored, "staple") {
			t.Fatalf("found %v, %v, stored %q", found, err, stored)
		}
		v, err := smtpbridge.ParseVerifier(stored)
		if err != nil {
			t.Fatal(err)
		}
		return v.Matches(password)
	}
	if !matches("correct horse") || matches("battery staple") {
		t.Error("the first password is not the one")
	}
	if code, _, stderr := call(t, "user", "passwd", "juliet", "--password-file", second, "--config", file); code != 0 {
		t.Fatal(stderr)
	}
	if matches("correct horse") || !matches("battery staple") {
		t.Error("the second password is not the one")
	}
}

// Only adding a user makes a store.
func TestUserWithoutStore(t *testing.T) {
	s := newSite(t)
	file := s.write(t)
	for _, args := range []string{"list", "del juliet", "addresses juliet a@b.example"} {
		code, _, stderr := call(t, append(append([]string{"user"}, strings.Fields(args)...), "--config", file)...)
		if code != 1 || !strings.Contains(stderr, "there is no store at "+filepath.Join(s.dir, "mail.db")) {
			t.Errorf("%s: got %d %q", args, code, stderr)
		}
	}
}

// Users whom only Dovecot knows own the address that their name is, unless the
// store says otherwise.
func TestUsersOfDovecot(t *testing.T) {
	s := newSite(t)
	s.more = "[[listener]]\nkind = \"submission\"\naddress = \"127.0.0.1:0\"\nauth = \"dovecot:/run/dovecot/auth-client\"\n"
	file := s.write(t)
	cfg, err := config.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	makeStore(t, s)
	if code, _, stderr := call(t, "user", "addresses", "nurse", "@verona.example", "--config", file); code != 0 {
		t.Fatal(stderr)
	}
	st, err := openStore(t.Context(), cfg, quiet())
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	known := smtpUsers(cfg, st)
	for name, want := range map[string]string{
		"juliet": "juliet@capulet.example", "Romeo@montague.example": "Romeo@montague.example",
		"nurse": "@verona.example", "a b": "", "a@b@c": "",
	} {
		got, err := known.Owns(t.Context(), name)
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("%s owns %q, %v, want %q", name, got, err, want)
		}
	}
	if got, err := (users{store: st}).Owns(t.Context(), "juliet"); err != nil || got != nil {
		t.Errorf("without Dovecot somebody unknown owns %q, %v", got, err)
	}
	if _, _, found, err := known.Verifier(t.Context(), "nurse"); found || err != nil {
		t.Errorf("a user without a password here can log in here: %v", err)
	}
}
