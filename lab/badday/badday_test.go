package badday

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"mailxmppd/lab/harness"
	"mailxmppd/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	page    = "../../docs/operations.md"
	heading = "A bad day"
	// Where the page has a gateway's files.
	pageConfig, pageDir = "/etc/mailxmppd.toml", "/var/lib/mailxmppd"
	// Its databases: the gateway's, the one into which that is restored, and the
	// server's own.
	pagePostgres, pageRestored, pageServer = pageCluster + "mail", pageCluster + "mail2", pageCluster + "postgres"
	pageCluster                            = "postgres://mailxmppd@db.capulet.example/"
)

// TestBadDay plays the page. With MAILXMPPD_UPDATE=1 it writes into the page
// what the commands answered instead.
func TestBadDay(t *testing.T) {
	text, err := os.ReadFile(page)
	must(t, err)
	steps := stepsOf(string(text), heading)
	if len(steps) < 20 {
		t.Fatalf("the page has %d steps", len(steps))
	}
	l := newLab(t)
	lines := strings.Split(string(text), "\n")
	var fresh []step
	for _, s := range steps {
		if s.event != nil {
			l.happen(s)
			continue
		}
		got := l.command(s)
		s.output = got
		fresh = append(fresh, s)
	}
	if os.Getenv("MAILXMPPD_UPDATE") != "1" || t.Failed() {
		return
	}
	for _, s := range slices.Backward(fresh) {
		lines[s.line] = idForm.ReplaceAllStringFunc(lines[s.line], func(id string) string { return l.ids[id] })
		lines = slices.Replace(lines, s.line+1, s.line+1+s.lines, trimmed(s.output)...)
	}
	must(t, os.WriteFile(page, []byte(strings.Join(lines, "\n")), 0o644))
}

// trimmed are the lines of an output without blanks at their ends.
func trimmed(output string) []string {
	if output == "" {
		return nil
	}
	lines := strings.Split(strings.TrimSuffix(output, "\n"), "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	return lines
}

// lab is capulet.example, whose operator reads the page, its peer
// montague.example, and a relay to which mail can be redirected.
type lab struct {
	t        *testing.T
	dir, exe string
	gateways map[string]*harness.Gateway
	boxes    map[string]*harness.Sink
	ids      map[string]string // of the page -> those of this day
	postgres string
	sent     int
	disk     string        // of capulet.example
	hung     chan struct{} // closed when the relay answers again
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newLab(t *testing.T) *lab {
	dir, err := harness.ShortDir()
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	l := &lab{t: t, dir: dir, ids: map[string]string{}, gateways: map[string]*harness.Gateway{}, boxes: map[string]*harness.Sink{}}
	l.exe, err = harness.Build(dir)
	must(t, err)
	ca, err := harness.NewCA(dir)
	must(t, err)
	addrs, err := harness.FreeAddrs(4)
	must(t, err)
	for _, name := range []string{"capulet", "montague", "relay"} {
		box, err := harness.NewSink("127.0.0.1:0", func(content []byte) string { return string(content) })
		must(t, err)
		t.Cleanup(box.Close)
		l.boxes[name] = box
	}
	l.disk = filepath.Join(dir, "capulet")
	smallDisk(t, l.disk)
	for i, name := range []string{"capulet", "montague"} {
		other := []string{"montague", "capulet"}[i]
		g, err := harness.NewGateway(harness.Spec{
			Exe: l.exe, Dir: filepath.Join(dir, name), CA: ca, Domain: name + ".example", SMTP: addrs[2*i], XMPP: addrs[2*i+1],
			Store: "sqlite://" + filepath.Join(dir, name, "mail.db"), Deliver: "lmtp://" + l.boxes[name].Addr,
			Peers: map[string]string{other + ".example": addrs[3-2*i]}, Route: "smtp://" + l.boxes["relay"].Addr,
			Extra: "cut_through = false\n[queue]\nretry_first = \"6s\"\nretry_max = \"12s\"\ndelay_notice = \"2s\"\n",
		})
		must(t, err)
		t.Cleanup(func() {
			g.Kill()
			if log := g.Log(); t.Failed() {
				t.Logf("the end of the log of %s:\n%s", name, log[max(0, len(log)-3000):])
			}
		})
		l.gateways[name] = g
	}
	must(t, l.gateways["capulet"].Start(t.Context()))
	return l
}

// run runs a command of the page as it would run on this day, and returns its
// output as it would stand on the page.
func (l *lab) run(program string, args ...string) (string, error) {
	config := l.gateways["capulet"].Config
	here := []string{pageConfig, config, pageDir, filepath.Dir(config), "smtp://relay.example:25", "smtp://" + l.boxes["relay"].Addr}
	if slices.ContainsFunc(args, func(a string) bool { return strings.Contains(a, pageCluster) }) || l.postgres != "" {
		here = append(here, pageRestored, l.restored(), pageServer, l.server(), pagePostgres, l.server())
	}
	var there []string
	for i := 0; i < len(here); i += 2 {
		if here[i] != pageServer { // the database is the server's own
			there = append(there, here[i+1], here[i])
		}
	}
	args = strings.Split(strings.NewReplacer(here...).Replace(strings.Join(args, "\x00")), "\x00")
	exe := l.exe
	if program != "mailxmppd" {
		var err error
		exe, err = storetest.Program(program)
		must(l.t, err)
	}
	cmd := exec.CommandContext(l.t.Context(), exe, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return strings.NewReplacer(there...).Replace(out.String()), err
}

// command runs a command of the page and compares its output with the page's.
func (l *lab) command(s step) (got string) {
	l.t.Helper()
	args := slices.Clone(s.args[1:])
	for i, a := range args {
		args[i] = idForm.ReplaceAllStringFunc(a, func(id string) string {
			if l.ids[id] == "" {
				l.t.Fatalf("line %d: %s is not in an output before", s.line+1, id)
			}
			return l.ids[id]
		})
	}
	update := os.Getenv("MAILXMPPD_UPDATE") == "1"
	var wrong []string
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		var err error
		got, err = l.run(s.args[0], args...)
		if fails := strings.HasPrefix(s.output, "mailxmppd: "); (err != nil) != fails {
			l.t.Fatalf("line %d: %v: %v\n%s", s.line+1, s.args, err, got)
		}
		// What only looks may look again: an attempt may just be running.
		if wrong = differences(s.output, got); update || len(wrong) == 0 || !looks(s.args[1:]) || time.Now().After(end) {
			break
		}
	}
	theirs, ours := idForm.FindAllString(s.output, -1), idForm.FindAllString(got, -1)
	for i := range min(len(theirs), len(ours)) {
		if l.ids[theirs[i]] == "" {
			l.ids[theirs[i]] = ours[i]
		}
	}
	if !update && len(wrong) > 0 {
		l.t.Errorf("line %d: %v:\n%s\nin\n%s", s.line+1, s.args, strings.Join(wrong, "\n"), shapeOf(got))
	}
	return got
}

// looks reports whether a command changes nothing.
func looks(args []string) bool {
	return len(args) > 1 && args[0] == "queue" && slices.Contains([]string{"list", "totals", "show", "log"}, args[1])
}
