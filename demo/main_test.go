package demo

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// buildDir is where the tests build the program.
var buildDir string

// TestMain doubles as the gateway of the child-process tests: this binary,
// started as "serve --config FILE", behaves as the file says.
func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == "serve" {
		os.Exit(pretend(os.Args[3]))
	}
	var err error
	if buildDir, err = os.MkdirTemp("", "demo-test-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		os.RemoveAll(buildDir)
		os.Exit(code)
	}))
}
