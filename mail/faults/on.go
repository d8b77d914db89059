//go:build faults

// Package faults marks the points at which the tests kill the process: with
// MAILXMPPD_STOP_AT=<point>:<n> the n-th passage of that point (1 is the
// first) prints "stopped at <point>" on standard error and waits for ever, so
// that the test can send SIGKILL. MAILXMPPD_POINTS=<file> appends the name of
// every point passed.
package faults

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
)

var passed struct {
	sync.Mutex
	count map[string]int
}

// Point is a place at which a crash must lose nothing.
func Point(name string) {
	passed.Lock()
	defer passed.Unlock() // while stopped nobody else passes a point either
	if passed.count == nil {
		passed.count = map[string]int{}
	}
	passed.count[name]++
	if file := os.Getenv("MAILXMPPD_POINTS"); file != "" && passed.count[name] == 1 {
		note(file, name)
	}
	want, nth, _ := strings.Cut(os.Getenv("MAILXMPPD_STOP_AT"), ":")
	if n, _ := strconv.Atoi(nth); want == name && passed.count[name] == n {
		fmt.Fprintf(os.Stderr, "stopped at %s\n", name)
		select {}
	}
}

func note(file, name string) {
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		panic(err)
	}
	fmt.Fprintln(f, name)
	f.Close()
}
