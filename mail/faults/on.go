//go:build faults

// Package faults marks the points at which the tests kill, pause or slow the
// process, by its environment:
//
//	MAILXMPPD_STOP_AT=<point>:<n>      the n-th passage (1 is the first) prints
//	                                   "stopped at <point>" on standard error and
//	                                   waits for ever, so that the test can send
//	                                   SIGKILL; nobody passes another point then
//	MAILXMPPD_PAUSE_AT=<point>:<n>     the n-th passage prints "paused at <point>"
//	                                   and sends the process SIGSTOP: it goes on
//	                                   with SIGCONT
//	MAILXMPPD_SLOW_AT=<point>:<time>   every passage takes so long; the point may
//	                                   be a pattern, e.g. store.*.before-commit
//	MAILXMPPD_POINTS=<file>            the name of every point passed is appended
package faults

import (
	"fmt"
	"os"
	"path"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

var passed struct {
	sync.Mutex
	count map[string]int
}

// Point is a place at which a crash must lose nothing.
func Point(name string) {
	at, value := asked("MAILXMPPD_SLOW_AT")
	if slow, err := path.Match(at, name); slow && err == nil {
		d, _ := time.ParseDuration(value) // what is no time is none
		time.Sleep(d)
	}
	passed.Lock()
	defer passed.Unlock() // while stopped nobody else passes a point either
	if passed.count == nil {
		passed.count = map[string]int{}
	}
	passed.count[name]++
	if file := os.Getenv("MAILXMPPD_POINTS"); file != "" && passed.count[name] == 1 {
		note(file, name)
	}
	if isAt("MAILXMPPD_STOP_AT", name) {
		fmt.Fprintf(os.Stderr, "stopped at %s\n", name)
		select {}
	}
	if isAt("MAILXMPPD_PAUSE_AT", name) {
		fmt.Fprintf(os.Stderr, "paused at %s\n", name)
		stop()
	}
}

// stop sends SIGSTOP to the thread it runs on: one sent to the process is
// delivered when some other thread of it wakes, and this one may go on for long
// enough to do what it was to stop before (kill(2), tgkill(2)).
func stop() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	syscall.Tgkill(os.Getpid(), syscall.Gettid(), syscall.SIGSTOP)
}

// asked reads "<point>:<value>" from a variable.
func asked(variable string) (point, value string) {
	point, value, _ = strings.Cut(os.Getenv(variable), ":")
	return point, value
}

// isAt reports whether this is the passage that a variable names.
func isAt(variable, name string) bool {
	point, nth := asked(variable)
	if point != name {
		return false
	}
	n, err := strconv.Atoi(nth)
	return err == nil && passed.count[name] == n
}

func note(file, name string) {
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		panic(err)
	}
	fmt.Fprintln(f, name)
	f.Close()
}
