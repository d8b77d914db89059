package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"mailxmppd/config"
)

// TestKeyVerbs: the verbs do the same through the socket of a running gateway
// and on the store itself, and never show what is private.
func TestKeyVerbs(t *testing.T) {
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
			say := func(args string, code int, says string) string {
				t.Helper()
				got, stdout, stderr := call(t, append(append([]string{"keys"}, strings.Fields(args)...), "--config", file)...)
				if got != code || !strings.Contains(stdout+stderr, says) {
					t.Errorf("%s: got %d %q %q, want %q", args, got, stdout, stderr, says)
				}
				return stdout
			}
			if running {
				say("dns", 1, "there are no keys")
				say("rotate capulet.example", 1, "has no keys yet")
			} else {
				say("rotate capulet.example", 1, "there is no store")
			}
			first := say("add CAPULET.example", 0, "._domainkey.capulet.example. IN TXT ( \"v=DKIM1; k=rsa; p=")
			if strings.Count(first, "IN TXT") != 2 {
				t.Errorf("got %s", first)
			}
			say("add capulet.example", 1, "has keys already")
			say("add montague.example", 1, "montague.example is no domain of ours")
			if got := say("dns capulet.example", 0, "v=DKIM1"); sorted(got) != sorted(first) {
				t.Errorf("dns prints\n%swant\n%s", got, first)
			}
			second := say("rotate capulet.example --force", 0, "v=DKIM1; k=ed25519; p=")
			if strings.Contains(first, second) {
				t.Error("the same keys again")
			}
			say("list", 0, "unpublished, signs anyway")
			out := say("list --json", 0, "")
			var rows []map[string]any
			if err := json.Unmarshal([]byte(out), &rows); err != nil || len(rows) != 4 || strings.Contains(out, "rivate") {
				t.Fatalf("%v: %s", err, out)
			}
			selector := rows[0]["selector"].(string)
			say("remove capulet.example "+selector, 0, "key "+selector+" of capulet.example deleted")
			say("remove capulet.example "+selector, 1, "not found")
			say("dns montague.example", 1, "there are no keys")
		})
	}
}

// sorted puts records into one order.
func sorted(records string) string {
	list := strings.Split(strings.TrimSpace(records), ")\n")
	for i := range list {
		for j := i + 1; j < len(list); j++ {
			if strings.TrimSuffix(list[j], ")") < strings.TrimSuffix(list[i], ")") {
				list[i], list[j] = list[j], list[i]
			}
		}
	}
	return strings.ReplaceAll(strings.Join(list, ""), ")", "")
}
