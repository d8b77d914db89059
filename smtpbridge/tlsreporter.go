package smtpbridge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"mailxmppd/dns"
	"mailxmppd/mail"
	"mailxmppd/store"
)

// TLSReporterConfig is what a TLSReporter needs.
type TLSReporterConfig struct {
	Store  store.TLSReports // states the guarantees
	Client ClientConfig     // whose DNS, Roots and Timeouts are used
	Who    Reporter
	// Submit takes responsibility for a report by mail, or says why not.
	Submit func(ctx context.Context, m *mail.Message) *mail.Failure
	Log    *slog.Logger
}

// TLSReporter gathers what the Client says of TLS with MX hosts, stores it, and
// sends each domain that wants one a report of the day before (RFC 8460). Of
// several nodes over one store whichever claims a report sends it; a node that
// dies in between leaves it to another, which may send it twice, under one id.
//
// On failure: what the store does not take stays in the book, within its bounds;
// a report that cannot be handed over is tried again for 24 h.
type TLSReporter struct {
	cfg  TLSReporterConfig
	book *ReportBook
	post *http.Client
}

// NewTLSReporter makes a reporter; Run starts it.
func NewTLSReporter(cfg TLSReporterConfig) *TLSReporter {
	return &TLSReporter{cfg: cfg, book: NewReportBook(), post: newReportPoster(cfg.Client, insideNetworks)}
}

// RecordTLS implements ReportSink.
func (t *TLSReporter) RecordTLS(r TLSResult) { t.book.RecordTLS(r) }

const (
	reportEvery  = time.Minute      // between two looks
	reportLease  = 10 * time.Minute // longer than one report can take
	reportFlush  = 10 * time.Second // for one write to the store
	reportRetry  = 15 * time.Minute // after the first failure; it doubles up to reportSpread
	reportGiveUp = 24 * time.Hour   // RFC 8460 section 5.5
)

// Run works until ctx ends, and then stores what is left.
func (t *TLSReporter) Run(ctx context.Context) {
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		every(ctx, t.sendDue)
	}()
	every(ctx, t.flush)
	<-sent
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), reportFlush)
	defer cancel()
	t.flush(last)
}

// every calls do at once and then each reportEvery until ctx ends.
func every(ctx context.Context, do func(context.Context)) {
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	for {
		do(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// flush moves what the book has gathered into the store.
func (t *TLSReporter) flush(ctx context.Context) {
	reports := t.book.Take(time.Time{})
	if len(reports) == 0 {
		return
	}
	days := make([]store.TLSDay, 0, len(reports))
	for _, r := range reports {
		if d, err := r.stored(); err == nil {
			days = append(days, d)
		}
	}
	limited, cancel := context.WithTimeout(ctx, reportFlush)
	defer cancel()
	if err := t.cfg.Store.AddTLS(limited, days); err != nil {
		if ctx.Err() == nil {
			t.cfg.Log.Warn("results of tls not stored", "err", err)
		}
		for _, r := range reports {
			t.book.Add(r)
		}
	}
}

// sendDue sends one report after the other until none is due.
func (t *TLSReporter) sendDue(ctx context.Context) {
	for ctx.Err() == nil {
		d, ok, err := t.cfg.Store.ClaimTLSReport(ctx, string(mail.NewID())+"@"+t.cfg.Who.Domain, reportLease)
		if err != nil && ctx.Err() == nil {
			t.cfg.Log.Warn("tls report not claimed", "err", err)
		}
		if err != nil || !ok {
			return
		}
		state, said := t.send(ctx, d)
		delay := min(reportRetry<<min(d.Tries-1, 10), reportSpread)
		if state == store.TLSWaiting && d.Waited+delay > reportGiveUp {
			state = store.TLSFailed
		}
		t.settle(ctx, d, state, said, delay)
	}
}

func (t *TLSReporter) settle(ctx context.Context, d store.TLSDay, state store.TLSState, said string, delay time.Duration) {
	if ctx.Err() != nil {
		state, delay = store.TLSWaiting, 0 // it was us who gave up
	}
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), reportFlush)
	defer cancel()
	if err := t.cfg.Store.SettleTLSReport(limited, d, state, mail.Sanitise(said), delay); err != nil {
		t.cfg.Log.Warn("tls report not settled", "domain", d.Domain, "day", d.Day, "err", err)
		return
	}
	t.cfg.Log.Info("tls report", "domain", d.Domain, "day", d.Day, "state", string(state), "report", d.ID, "attempt", d.Tries, "text", mail.Sanitise(said))
}

// send brings a report to all places that the domain names. One that has it is
// enough: to those that failed it would come again with each further try, and to
// the others twice.
func (t *TLSReporter) send(ctx context.Context, d store.TLSDay) (store.TLSState, string) {
	ans := t.cfg.Client.DNS.TXT(ctx, "_smtp._tls."+d.Domain)
	switch ans.Status {
	case dns.Found:
	case dns.NoData, dns.NoDomain:
		return store.TLSUnwanted, ""
	default:
		return store.TLSWaiting, "DNS does not tell where reports are wanted"
	}
	targets := ReportTargets(ans.Records)
	if len(targets) == 0 {
		return store.TLSUnwanted, ""
	}
	report, err := BuildReport(t.cfg.Who, d.ID, ReadTLSDay(d))
	if err != nil {
		return store.TLSFailed, err.Error()
	}
	var sent []string
	var errs []error
	for _, target := range targets {
		if err := t.sendTo(ctx, report, d.Domain, target); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", target, err))
			continue
		}
		sent = append(sent, target)
	}
	if len(sent) == 0 {
		return store.TLSWaiting, errors.Join(errs...).Error()
	}
	return store.TLSSent, strings.Join(sent, ", ")
}

func (t *TLSReporter) sendTo(ctx context.Context, r Report, domain, target string) error {
	if !strings.HasPrefix(target, "mailto:") {
		return postReport(ctx, t.post, r, target)
	}
	m, err := mailReport(t.cfg.Who, r, domain, target, time.Now())
	if err != nil {
		return err
	}
	if buffer, ok := m.Content.(*mail.Buffer); ok {
		defer buffer.Close()
	}
	if f := t.cfg.Submit(ctx, m); f != nil {
		return f
	}
	return nil
}
