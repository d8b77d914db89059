package harness

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
)

// FaultCase is what one kind of fault did to the mail under it.
type FaultCase struct {
	Name      string
	Kills     int // or other blows of the same kind
	Messages  int // acknowledged
	Lost      int
	TwinsXMPP int // in the receiving peer's store
	TwinsSMTP int // in a mailbox or MTA that mail went to by SMTP or LMTP
	InFlight  int // attempts by SMTP and LMTP at the blows
}

// FaultTable gathers cases, and prints them when a package's tests are over.
type FaultTable struct {
	mu    sync.Mutex
	cases []FaultCase
}

// Add counts towards the case of that name.
func (t *FaultTable) Add(c FaultCase) {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := slices.IndexFunc(t.cases, func(o FaultCase) bool { return o.Name == c.Name })
	if i < 0 {
		t.cases = append(t.cases, c)
		return
	}
	o := &t.cases[i]
	o.Kills, o.Messages, o.Lost = o.Kills+c.Kills, o.Messages+c.Messages, o.Lost+c.Lost
	o.TwinsXMPP, o.TwinsSMTP, o.InFlight = o.TwinsXMPP+c.TwinsXMPP, o.TwinsSMTP+c.TwinsSMTP, o.InFlight+c.InFlight
}

// Print writes the cases in the order of their names, and their sum. What goes
// to the standard output is seen with go test -v; MAILXMPPD_FAULT_TABLE names a
// file that gets the tables of all packages.
func (t *FaultTable) Print() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.cases) == 0 {
		return nil
	}
	slices.SortFunc(t.cases, func(a, b FaultCase) int { return strings.Compare(a.Name, b.Name) })
	t.write(os.Stdout)
	name := os.Getenv("MAILXMPPD_FAULT_TABLE")
	if name == "" {
		return nil
	}
	f, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	t.write(f)
	return f.Close()
}

func (t *FaultTable) write(out io.Writer) {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(w, "case\tblows\tmessages\tlost\ttwins xmpp\ttwins smtp/lmtp\tin flight\t\n")
	sum := FaultCase{Name: "all"}
	line := func(c FaultCase) {
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t\n", c.Name, c.Kills, c.Messages, c.Lost, c.TwinsXMPP, c.TwinsSMTP, c.InFlight)
	}
	for _, c := range t.cases {
		line(c)
		sum.Kills, sum.Messages, sum.Lost = sum.Kills+c.Kills, sum.Messages+c.Messages, sum.Lost+c.Lost
		sum.TwinsXMPP, sum.TwinsSMTP, sum.InFlight = sum.TwinsXMPP+c.TwinsXMPP, sum.TwinsSMTP+c.TwinsSMTP, sum.InFlight+c.InFlight
	}
	line(sum)
	w.Flush()
}
