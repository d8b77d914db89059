package main

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"mailxmppd/config"
	"mailxmppd/mail"
	"mailxmppd/store"
	"mailxmppd/store/storetest"
)

// bounceInStore stands for a gateway's Fail, without the DSN.
func bounceInStore(st store.Store) func(context.Context, mail.ID, int, string, string) (int, error) {
	return func(ctx context.Context, id mail.ID, n int, by, text string) (total int, err error) {
		leases, err := st.Seize(ctx, id, n, by, time.Minute)
		for _, l := range leases {
			results := make([]store.Result, len(l.Deliveries))
			for i := range results {
				results[i] = store.Result{State: store.Bounced, Outcome: mail.Outcome{Failure: mail.Fail(mail.Rejected, text, nil)}}
			}
			if err := st.Settle(ctx, store.Settlement{Lease: l, Results: results}); err != nil {
				return total, err
			}
			total += len(results)
		}
		return total, err
	}
}

// spoken makes an output comparable: ids, times and ages are their kind.
func spoken(s string) string {
	for _, r := range [][2]string{
		{`[0-9A-Z]{26}`, "ID"}, {`20\d\d-\d\d-\d\dT[0-9:.]+Z`, "TIME"}, {`\b\d+[hms][0-9hms]*\b`, "AGE"}, {`\b[0-9a-f]{64}\b`, "HASH"}, {` {2,}`, "  "},
	} {
		s = regexp.MustCompile(r[0]).ReplaceAllString(s, r[1])
	}
	return s
}

// TestQueueVerbs: the verbs do the same through the socket of a running
// gateway and on either store itself, with the words and the JSON that they have.
func TestQueueVerbs(t *testing.T) {
	me := operator()
	url := storetest.StartPostgres(t)
	for _, c := range []struct {
		name, store string
		running     bool
	}{
		{"gateway", `url = "sqlite:mail.db"`, true},
		{"sqlite", `url = "sqlite:mail.db"`, false},
		{"postgres", fmt.Sprintf("url = %q", url), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, running := newSite(t), c.running
			s.store = c.store
			file := s.write(t)
			cfg, err := config.Load(file)
			if err != nil {
				t.Fatal(err)
			}
			id := string(spool(t, cfg))
			if running {
				serveAdmin(t, cfg)
			}
			failed := "mailxmppd: delivery ID.0: no gateway is running here, and it alone can write the DSNs: start it (mailxmppd serve), then ask again\n"
			if running {
				failed = ""
			}
			for i, c := range []struct{ args, says, fails string }{
				{"list --domain VERONA.example", "DELIVERY  STATE  AGE  DUE  ATTEMPTS  FROM  RCPT  LAST\n" +
					"ID.2  due  AGE  in AGE  0  <juliet@capulet.example>  <prince@verona.example>  \n", ""},
				{"list --sender @elsewhere.example", "DELIVERY  STATE  AGE  DUE  ATTEMPTS  FROM  RCPT  LAST\n", ""},
				{"list --sender <Juliet@capulet.example>", "DELIVERY  STATE  AGE  DUE  ATTEMPTS  FROM  RCPT  LAST\n", ""}, // local parts differ by case
				{"list --limit 1 --sender juliet@CAPULET.example --younger 1h", "DELIVERY  STATE  AGE  DUE  ATTEMPTS  FROM  RCPT  LAST\n" +
					"ID.0  due  AGE  in AGE  0  <juliet@capulet.example>  <romeo@montague.example>  \nthere may be more: --after ID.0\n", ""},
				{"list --limit 1 --after ID.1", "DELIVERY  STATE  AGE  DUE  ATTEMPTS  FROM  RCPT  LAST\n" +
					"ID.2  due  AGE  in AGE  0  <juliet@capulet.example>  <prince@verona.example>  \nthere may be more: --after ID.2\n", ""},
				{"list --older 1d --json", "[]\n", ""},
				{"totals --top 1", "  DELIVERIES  <AGE  <AGE  <AGE  <AGE  <AGE  <AGE  <AGE  <AGE  <AGE  AGE+  HELD  LEASED  DOMAIN\n" +
					"  3  3  0  0  0  0  0  0  0  0  0  0  0  all\n" +
					"  2  2  0  0  0  0  0  0  0  0  0  0  0  montague.example\n" +
					"  1  1  0  0  0  0  0  0  0  0  0  0  0  others\n", ""},
				{"retry ID.2", "1 delivery due now\n", ""},
				{"retry --domain montague.example --all --yes", "2 deliveries due now\n", ""},
				{"hold --all --yes --state due,held", "3 deliveries held\n", ""},
				{"hold ID", "", "mailxmppd: message ID has nothing to hold, which is for what is due, deferred or leased: its deliveries are 3 held\n"},
				{"list --state held --text nothing", "DELIVERY  STATE  AGE  DUE  ATTEMPTS  FROM  RCPT  LAST\n", ""},
				{"retry id.1", "", "mailxmppd: delivery ID.1 is held: retry is for what is due or deferred\n"},
				{"release ID.1", "1 delivery released\n", ""},
				{"release --all --yes --domain montague.example", "1 delivery released\n", ""},
				{"release --all --yes --state due", "", "mailxmppd: release is for deliveries that are held\n"},
				{"redirect --next smtp://192.0.2.1:25 ID.0", "1 delivery redirected\n", ""},
				{"redirect --next smtp://192.0.2.1:25 ID.0", "", "mailxmppd: delivery ID.0: nothing to change\n"},
				{"list --domain montague.example", "DELIVERY  STATE  AGE  DUE  ATTEMPTS  FROM  RCPT  LAST\n" +
					"ID.0  due  AGE  now  0  <juliet@capulet.example>  <romeo@montague.example> by smtp://192.0.2.1:25  \n" +
					"ID.1  due  AGE  now  0  <juliet@capulet.example>  <benvolio@montague.example>  \n", ""},
				{"redirect --back --all --yes --json", "{\n  \"deliveries\": 1\n}\n", ""},
				{"drop ID.2", "1 delivery dropped\n", ""},
				{"drop ID.2", "", "mailxmppd: delivery ID.2 is dropped: drop is for what is due, deferred, leased or held\n"},
				{"restore ID", "1 delivery restored\n", ""},
				{"restore --all --yes", "0 deliveries restored\n", ""},
				{"fail ID.0 --reason=enough", map[bool]string{true: "1 delivery failed\n"}[running], failed},
				{"drop --all", "", "mailxmppd: not at a terminal: --yes says that --all is meant\n"},
				{"drop ID", map[bool]string{true: "2 deliveries dropped\n", false: "3 deliveries dropped\n"}[running], ""},
				{"drop --all", "0 deliveries dropped\n", ""},
				{"show 01JDX2V9N0000000000000000A", "", "mailxmppd: message ID: not found (what is finished is forgotten after [queue] keep_trace)\n"},
				{"retry 01JDX2V9N0000000000000000A.1", "", "mailxmppd: delivery ID.1: not found (what is finished is forgotten after [queue] keep_trace)\n"},
				{"log 01JDX2V9N0000000000000000A", "", "mailxmppd: message ID: not found (what is finished is forgotten after [queue] keep_trace)\n"},
				{"retry ID.7", "", "mailxmppd: delivery ID.7: not found (what is finished is forgotten after [queue] keep_trace)\n"},
			} {
				args := strings.NewReplacer("ID", id, "id", strings.ToLower(id)).Replace(c.args)
				code, stdout, stderr := call(t, append(append([]string{"queue"}, strings.Fields(args)...), "--config", file)...)
				if spoken(stdout) != c.says || spoken(stderr) != c.fails || (code == 0) != (c.fails == "") {
					t.Errorf("%d, %s: got %d\n%s\n%s", i, c.args, code, spoken(stdout), spoken(stderr))
				}
			}
			code, story, stderr := call(t, "queue", "log", id, "--config", file)
			bounced := "TIME  .0  dropped  <romeo@montague.example>, AGE after it was stored, attempts: 0\n"
			if running {
				bounced = ""
			}
			for _, line := range []string{
				"TIME  -  received  <juliet@capulet.example> by smtp, from 192.0.2.1:1024, no TLS, 17 octets\n",
				"TIME  -  stored  3 deliveries, transfer id HASH\n",
				"TIME  .2  operator  retry (" + me + ")\n",
				"TIME  .1  operator  release (" + me + ")\n",
				"TIME  .0  operator  redirect smtp://192.0.2.1:25 (" + me + ")\n",
				"TIME  -  operator  restore (" + me + ")\n",
				"TIME  .2  dropped  <prince@verona.example>, AGE after it was stored, attempts: 0\n",
				bounced,
			} {
				if !strings.Contains(spoken(story), line) {
					t.Errorf("no %q", line)
				}
			}
			if code != 0 || stderr != "" || running && !strings.Contains(story, ".0  operator  fail") {
				t.Errorf("got %d %q\n%s", code, stderr, spoken(story))
			}
		})
	}
}

// TestQueueJSON: the shapes that programs read.
func TestQueueJSON(t *testing.T) {
	file := newSite(t).write(t)
	cfg, err := config.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	id := string(spool(t, cfg))
	for _, c := range []struct {
		args string
		keys string // of the object, or of the first of the array
	}{
		{"list", "age_s attempts domain due_in_s from id n rcpt size state"},
		{"totals", "all domains others"},
		{"show " + id, "attempts deliveries envelope id origin sha256 size stored tid trace"},
		{"log " + id, "at event n text"},
		{"hold " + id, "deliveries"},
	} {
		code, stdout, stderr := call(t, append(append([]string{"queue"}, strings.Fields(c.args)...), "--json", "--config", file)...)
		var first map[string]any
		var list []map[string]any
		err := json.Unmarshal([]byte(stdout), &first)
		if strings.HasPrefix(stdout, "[") {
			if err = json.Unmarshal([]byte(stdout), &list); err == nil && len(list) > 0 {
				first = list[0]
			}
		}
		var keys []string
		for k := range first {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		if code != 0 || err != nil || strings.Join(keys, " ") != c.keys {
			t.Errorf("%s: %d %q %v, keys %s", c.args, code, stderr, err, strings.Join(keys, " "))
		}
	}
}

// TestFailAll: one DSN for a message whose deliveries are all meant, one for
// each delivery otherwise; what fails on the way is said.
func TestFailAll(t *testing.T) {
	file := newSite(t).write(t)
	cfg, err := config.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	var ids []mail.ID
	for range 3 {
		ids = append(ids, spool(t, cfg))
	}
	st, err := openStore(t.Context(), cfg, quiet())
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	gw := &calls{fail: bounceInStore(st)}
	for _, c := range []struct {
		f    store.Filter
		want string
	}{
		{store.Filter{Domain: "montague.example"}, "[0 1 0 1 0 1]"},
		{store.Filter{}, "[-1 -1 -1]"},
	} {
		gw.ns = nil
		if n, err := failAll(t.Context(), st, gw, store.Selection{Filter: c.f, By: "ann"}, ""); err != nil || fmt.Sprint(gw.ns) != c.want {
			t.Errorf("%+v: %d, %v, calls %v", c.f, n, err, gw.ns)
		}
	}
	for _, id := range ids {
		r, err := st.Show(t.Context(), id)
		if err != nil || slices.ContainsFunc(r.Deliveries, func(e store.Entry) bool { return e.State != store.Bounced }) {
			t.Errorf("%+v, %v", r.Deliveries, err)
		}
	}
}

// TestFailWhatEnded: what has ended since it was looked for is let be, and so is
// the rest of its message, which was not meant.
func TestFailWhatEnded(t *testing.T) {
	file := newSite(t).write(t)
	cfg, err := config.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	first, second := spool(t, cfg), spool(t, cfg) // each two deliveries to montague.example, one to verona.example
	st, err := openStore(t.Context(), cfg, quiet())
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	for _, c := range []struct {
		domain string
		ended  []int  // of the first message, between the list and the end
		want   string // calls of Fail for it
	}{
		{"montague.example", []int{1}, "[0]"},
		{"montague.example", []int{0, 1}, "[]"},
		{"verona.example", nil, "[-1]"},
	} {
		gw := &calls{fail: bounceInStore(st)}
		early := listedEarly{st, func() {
			for _, n := range c.ended {
				if _, err := st.Drop(t.Context(), store.One(first, n, "somebody")); err != nil {
					t.Error(err)
				}
			}
			if _, err := st.Drop(t.Context(), store.One(second, -1, "somebody")); err != nil {
				t.Error(err)
			}
		}}
		n, err := failAll(t.Context(), early, gw, store.Selection{Filter: store.Filter{Domain: c.domain}, By: "ann"}, "")
		if err != nil || fmt.Sprint(gw.ns) != c.want || n != len(gw.ns) {
			t.Errorf("%s without %v: %d, %v, calls %v", c.domain, c.ended, n, err, gw.ns)
		}
		if _, err := st.Restore(t.Context(), store.One(second, -1, "somebody")); err != nil {
			t.Error(err)
		}
	}
}

// listedEarly has something happen after a list was made.
type listedEarly struct {
	store.Store
	then func()
}

func (s listedEarly) List(ctx context.Context, f store.Filter) ([]store.Entry, error) {
	all, err := s.Store.List(ctx, f)
	s.then()
	return all, err
}

type calls struct {
	ns   []int
	fail func(context.Context, mail.ID, int, string, string) (int, error)
}

func (c *calls) Fail(ctx context.Context, id mail.ID, n int, by, text string) (int, error) {
	c.ns = append(c.ns, n)
	return c.fail(ctx, id, n, by, text)
}

func TestConfirm(t *testing.T) {
	for in, want := range map[string]string{
		"y\n": "", " YES \n": "", "n\n": "nothing was changed", "\n": "nothing was changed",
		"": "no answer: --yes says that --all is meant", "yes": "no answer: --yes says that --all is meant",
		strings.Repeat("y", 100) + "\n": "no answer: --yes says that --all is meant",
	} {
		var out strings.Builder
		got := ""
		if err := confirm(strings.NewReader(in), &out, "drop 3 deliveries?"); err != nil {
			got = err.Error()
		}
		if got != want || out.String() != "drop 3 deliveries? [y/N] " {
			t.Errorf("%.10q: got %q %q", in, got, out.String())
		}
	}
}
