package harness

import (
	"strings"
	"time"
)

// reportMark stands between the ids of a report and of the message that it is
// about.
const reportMark = " on "

// ReportedID is MessageID for sinks that get DSNs too: of these it also finds
// the id of the message that is returned with them.
func ReportedID(content []byte) string {
	own := MessageID(content)
	head := "\r\n" + string(content[:min(len(content), 16<<10)])
	if !strings.Contains(head, "report-type=") {
		return own
	}
	parts := strings.Split(head, "\r\nMessage-ID: ")
	about, _, _ := strings.Cut(parts[len(parts)-1], "\r\n")
	return own + reportMark + about
}

// Made reports whether a transfer is that of a message of ours.
func (tr *Traffic) Made(transfer string) bool {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	for _, m := range tr.made {
		if m.transfer == transfer {
			return true
		}
	}
	return false
}

// Unreported lists what was acknowledged and for which no DSN has arrived.
func (tr *Traffic) Unreported(sinks ...*Sink) []string {
	reports := reportsOn(sinks)
	return tr.those(func(id string, m *letter) bool { return len(m.open()) == 0 && len(reports[id]) == 0 })
}

// AwaitReports is Await for DSNs.
func (tr *Traffic) AwaitReports(patience time.Duration, sinks ...*Sink) (missing []string) {
	return await(patience, sinks, func() []string { return tr.Unreported(sinks...) })
}

// ReportTwins counts what arrived beyond the first DSN for each message: other
// DSNs, and the same ones again.
func (tr *Traffic) ReportTwins(sinks ...*Sink) (others, again int) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	for about, reports := range reportsOn(sinks) {
		if tr.made[about] == nil {
			continue
		}
		others += len(reports) - 1
		for _, times := range reports {
			again += times - 1
		}
	}
	return others, again
}

// reportsOn counts the arrivals of each DSN, by the message that it is about.
func reportsOn(sinks []*Sink) map[string]map[string]int {
	out := map[string]map[string]int{}
	for a, times := range arrivals(sinks) {
		own, about, isReport := strings.Cut(a.kept, reportMark)
		if !isReport {
			continue
		}
		if out[about] == nil {
			out[about] = map[string]int{}
		}
		out[about][own] += times
	}
	return out
}
