// Package faults takes things away from gateways under mail: the database, its
// connections, room and speed of the disk, the clock, the processor. What was
// acknowledged must arrive; over XMPP once, by SMTP and LMTP once more at most
// for each attempt that was in flight at a blow; and the mail must flow again by
// itself when the fault is over. Kills of the gateways are in lab/crash.
package faults

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"mailxmppd/lab/harness"
)

// table is printed when all is over.
var table harness.FaultTable

// gateway is the executable, with its stop points.
var gateway string

func TestMain(m *testing.M) { os.Exit(runTests(m)) }

func runTests(m *testing.M) (code int) {
	dir, err := os.MkdirTemp("", "mxlab-")
	if err == nil {
		defer os.RemoveAll(dir)
		gateway, err = harness.Build(dir, "faults")
	}
	// What is waited for is servers, leases and sleeps rather than a processor.
	flag.Parse()
	if err == nil {
		err = flag.Set("test.parallel", "12")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code = m.Run()
	if err := table.Print(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	return code
}

// must ends the test on an error.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// shortDir is a temporary folder that ends with the test.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := harness.ShortDir()
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// asRoot says that a test mounts file systems.
func asRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() == 0 {
		return
	}
	if os.Getenv("MAILXMPPD_LAB") == "optional" {
		t.Skip("only root may mount")
	}
	t.Fatal("only root may mount")
}

// sqliteIn is a side whose store is a file of a folder.
func sqliteIn(dir, domain string) harness.Side {
	return harness.Side{Domain: domain, Store: "sqlite://" + filepath.Join(dir, domain+".db")}
}

// postgresAt is a side whose store is a schema of its own, named by what.
func postgresAt(url, domain, what string) harness.Side {
	schema := what + "_" + domain[:1]
	return harness.Side{Domain: domain, Store: url, Schema: schema, Node: schema}
}
