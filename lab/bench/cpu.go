package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// clockTick is what /proc counts CPU time in (USER_HZ, 100 on Linux).
const clockTick = 10 * time.Millisecond

// treeCPU is the CPU time of processes and all their descendants, those that
// have ended and been waited for included.
func treeCPU(roots ...int) (time.Duration, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0, err
	}
	parent := map[int]int{}
	used := map[int]time.Duration{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if ppid, cpu, err := processStat(pid); err == nil {
			parent[pid], used[pid] = ppid, cpu
		}
	}
	var total time.Duration
	for pid := range used {
		for p := pid; p > 0; p = parent[p] {
			if isOneOf(p, roots) {
				total += used[pid]
				break
			}
		}
	}
	return total, nil
}

func isOneOf(p int, list []int) bool {
	for _, q := range list {
		if p == q {
			return true
		}
	}
	return false
}

// processStat reads parent and CPU time (its own and that of waited-for
// children) of a process from /proc/PID/stat (proc(5)).
func processStat(pid int) (ppid int, cpu time.Duration, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, err
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	f := strings.Fields(rest)
	if len(f) < 15 {
		return 0, 0, fmt.Errorf("/proc/%d/stat: %d fields", pid, len(f))
	}
	ppid, _ = strconv.Atoi(f[1])
	for _, field := range f[11:15] { // utime stime cutime cstime
		ticks, err := strconv.Atoi(field)
		if err != nil {
			return 0, 0, err
		}
		cpu += time.Duration(ticks) * clockTick
	}
	return ppid, cpu, nil
}

// ownCPU is the CPU time of this process: load generator and sink.
func ownCPU() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
