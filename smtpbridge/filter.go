package smtpbridge

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"mailxmppd/mail"
)

// FilterConfig says what a Filter is.
type FilterConfig struct {
	Judge  Judge
	Client *Client // opens the sessions with Next
	Next   Hop     // Postfix's re-injection port; fixed
	Log    *slog.Logger
}

// Filter is the Handler of a before-queue filter (Postfix's
// SMTPD_PROXY_README). Each session has a session of its own with the next hop,
// to which every command goes that the Judge has nothing against; its replies
// are ours, and the one to the content comes from it alone. Nothing is queued
// and nothing is taken: whatever goes wrong leaves the message with the client.
type Filter struct {
	cfg    FilterConfig
	counts struct{ passed, refused, refusedRecipients, nextFailed atomic.Uint64 }
}

// FilterCounts is what a Filter counted since its start, for metrics.
type FilterCounts struct {
	Passed            uint64 // messages that the next hop took
	Refused           uint64 // by the Judge
	RefusedRecipients uint64 // by the Judge
	NextFailed        uint64 // the next hop refused, could not be reached or was lost
}

// NewFilter checks a configuration and makes a Filter of it.
func NewFilter(cfg FilterConfig) (*Filter, error) {
	switch {
	case cfg.Judge == nil || cfg.Client == nil:
		return nil, errors.New("filter: no judge or no client")
	case len(cfg.Next.Addrs) == 0 || cfg.Next.Protocol != ProtocolSMTP:
		return nil, errors.New("filter: next wants a fixed hop by SMTP")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Filter{cfg: cfg}, nil
}

// Counts returns the counts so far.
func (f *Filter) Counts() FilterCounts {
	c := &f.counts
	return FilterCounts{Passed: c.passed.Load(), Refused: c.refused.Load(), RefusedRecipients: c.refusedRecipients.Load(), NextFailed: c.nextFailed.Load()}
}

// Session implements SessionHandler.
func (f *Filter) Session() Handler { return &filterSession{f: f} }

// errNoSession answers for a Filter whose Session was not asked for.
var errNoSession = errors.New("filter is used without a session")

// Sender implements Handler; a session has its own.
func (f *Filter) Sender(context.Context, mail.Client, mail.Envelope) *mail.Failure {
	return mail.AsFailure(errNoSession)
}

// Recipient implements Handler; a session has its own.
func (f *Filter) Recipient(context.Context, mail.Client, mail.Envelope, mail.Recipient) *mail.Failure {
	return mail.AsFailure(errNoSession)
}

// Accept implements Handler; a session has its own.
func (f *Filter) Accept(context.Context, mail.Client, *mail.Message, bool) []mail.Verdict {
	return []mail.Verdict{{Failure: mail.AsFailure(errNoSession)}}
}

// told is the client as Postfix tells of it: not the session's own, which is
// Postfix.
func told(c mail.Client) mail.Client {
	fw := c.Forwarded
	if fw == nil {
		return c
	}
	out := c
	out.Via, out.Addr, out.Name, out.Helo = c.Addr, fw.Addr, fw.Name, fw.Helo
	out.ESMTP, out.TLS, out.User, out.Forwarded = fw.Proto == "ESMTP", "", "", nil
	return out
}

// xforwardCommands are what tells a next hop that offers XFORWARD about a
// client, as few lines as their bound allows.
func xforwardCommands(offered []string, c mail.Client) []string {
	fw := c.Forwarded
	if fw == nil || len(offered) == 0 {
		return nil
	}
	var lines []string
	for _, a := range xforwardAttributes(fw) {
		value, ok := xtextOf(a.value)
		if !slices.Contains(offered, a.name) {
			continue
		}
		if !ok {
			value = "[UNAVAILABLE]"
		}
		word := " " + a.name + "=" + value
		if n := len(lines); n > 0 && len(lines[n-1])+len(word) <= maxXForwardLine {
			lines[n-1] += word
			continue
		}
		lines = append(lines, strings.TrimSpace("XFORWARD"+word))
	}
	return lines
}

// maxXForwardLine: XFORWARD_README has lines of 512 octets at most, with CRLF.
const maxXForwardLine = 510

// xforwardAttributes are the inverse of applyXForward.
func xforwardAttributes(fw *mail.Forwarded) []attribute {
	addr, port := "", ""
	if ip := fw.Addr.Addr(); ip.IsValid() {
		addr = ip.String()
		if ip.Is6() {
			addr = "IPV6:" + addr
		}
		if p := fw.Addr.Port(); p != 0 {
			port = strconv.Itoa(int(p))
		}
	}
	return []attribute{
		{"NAME", fw.Name}, {"ADDR", addr}, {"PORT", port}, {"PROTO", fw.Proto},
		{"HELO", fw.Helo}, {"IDENT", fw.Ident}, {"SOURCE", fw.Source},
	}
}
