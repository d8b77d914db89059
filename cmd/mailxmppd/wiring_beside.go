package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"mailxmppd/admin"
	"mailxmppd/config"
	"mailxmppd/gateway"
	"mailxmppd/mail"
	"mailxmppd/smtpbridge"
	"mailxmppd/trust"
)

// listenAt opens a listener's socket.
func listenAt(l config.Listener) (net.Listener, error) {
	path, local := l.UnixSocket()
	if !local {
		return net.Listen("tcp", l.Address)
	}
	ln, err := admin.Listen(path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, os.FileMode(l.Mode)); err != nil {
		ln.Close()
		return nil, err
	}
	return ln, nil
}

// standings asks about domains on behalf of the default one: who looks up a
// domain does not know the sender.
type standings struct {
	x     *xmppSide
	local string
}

// Standing implements smtpbridge.Standings.
func (s standings) Standing(ctx context.Context, domain string) (mail.Standing, *mail.Failure) {
	return s.x.directory.Standing(ctx, s.local, domain)
}

// judge answers the mail server beside us. It sees to it that recipients of ours
// exist and want the mail, and that mail does not loop; what the mail server may
// relay is its own business.
type judge struct {
	entrance *gateway.Entrance
	trust    *trust.Judge // nil: nobody judges who sent the mail
	own      map[string]bool
	hops     int
}

// besideJudge makes the judge of one listener: clients is who asks there, the
// mail server's own mail included.
func (p *parts) besideJudge(cfg *config.Config, clients []netip.Prefix) judge {
	j := judge{
		entrance: &gateway.Entrance{Gateway: p.gateway, Trusted: clients, Beside: true}, trust: p.trust,
		own: map[string]bool{"": true}, hops: cfg.Limits.Hops, // "postmaster" alone is ours
	}
	for _, d := range cfg.Domains {
		j.own[d.Name] = true
	}
	return j
}

// Recipient implements smtpbridge.Judge.
func (j judge) Recipient(ctx context.Context, c mail.Client, env mail.Envelope, r mail.Recipient) *mail.Failure {
	if !j.own[r.Address.Domain] {
		return nil
	}
	return j.entrance.Recipient(ctx, c, env, r)
}

// Content implements smtpbridge.Judge.
func (j judge) Content(ctx context.Context, a smtpbridge.Arrival) (smtpbridge.Finding, *mail.Failure) {
	if a.Facts.Received > j.hops {
		return smtpbridge.Finding{}, mail.Fail(mail.Loop, "", nil)
	}
	m := mail.Message{Envelope: a.Envelope, Content: a.Content, Facts: a.Facts}
	m.Envelope.Recipients = slices.Clone(a.Envelope.Recipients)
	block, refused, f := j.entrance.JudgeBeside(ctx, a.Client, &m)
	if f != nil {
		return smtpbridge.Finding{}, f
	}
	return smtpbridge.Finding{Fields: headerFields(block), Refused: refused}, nil
}

// headerFields takes a header apart that is ours, hence well-formed.
func headerFields(block []byte) []smtpbridge.HeaderField {
	var out []smtpbridge.HeaderField
	for line := range strings.Lines(string(block)) {
		line = strings.TrimSuffix(line, "\r\n")
		if n := len(out); n > 0 && (line[0] == ' ' || line[0] == '\t') {
			out[n-1].Value += "\r\n" + line
			continue
		}
		name, value, _ := strings.Cut(line, ": ")
		out = append(out, smtpbridge.HeaderField{Name: name, Value: value})
	}
	return out
}

// Poses implements smtpbridge.Judge.
func (j judge) Poses(name, value string) bool { return j.trust != nil && j.trust.Poses(name, value) }

// Clean implements smtpbridge.Judge.
func (j judge) Clean(content mail.Content) (mail.Content, error) {
	if j.trust == nil {
		return content, nil
	}
	_, content, err := j.trust.Clean(nil, content)
	return content, err
}

// filtering is a server with the filter that it serves, which counts too.
type filtering struct {
	*smtpbridge.Server
	filter *smtpbridge.Filter
}

// filterServer makes what Postfix hands mail to before it queues it.
func (p *parts) filterServer(cfg *config.Config, l config.Listener, log *slog.Logger) (service, error) {
	next, err := smtpbridge.ParseHop(l.Next)
	if err != nil {
		return service{}, err
	}
	filter, err := smtpbridge.NewFilter(smtpbridge.FilterConfig{Judge: p.besideJudge(cfg, prefixes(l.Trusted)), Client: p.client, Next: next, Log: log})
	if err != nil {
		return service{}, err
	}
	trusted := prefixes(l.Trusted)
	server, err := smtpbridge.NewServer(smtpbridge.ServerConfig{
		Kind: smtpbridge.KindRelay, Hostname: cfg.SMTP.Hostname, Limits: serverLimits(cfg), Timeouts: serverTimeouts(cfg),
		Clients: trusted, XForward: trusted, Handler: filter, Log: log,
	})
	return service{server: filtering{server, filter}}, err
}

// besideServer makes the server of a listener for the mail server beside us.
func (p *parts) besideServer(cfg *config.Config, l config.Listener, log *slog.Logger) (service, error) {
	switch l.Kind {
	case config.ListenLookup:
		own := make([]string, len(cfg.Domains))
		for i, d := range cfg.Domains {
			own[i] = d.Name
		}
		lookup, err := smtpbridge.NewLookup(smtpbridge.LookupConfig{
			Standings: standings{p.xmpp, cfg.DefaultDomain().Name}, Own: own, Answer: l.Answer, OwnAnswer: l.OwnAnswer,
			Trusted: prefixes(l.Trusted), Connections: cfg.Limits.Connections, Log: log,
		})
		return service{server: lookup}, err
	case config.ListenMilter:
		m, err := smtpbridge.NewMilter(smtpbridge.MilterConfig{
			Judge: p.besideJudge(cfg, prefixes(l.Trusted)), Limits: serverLimits(cfg), Trusted: prefixes(l.Trusted),
			Connections: cfg.Limits.Connections, Log: log,
		})
		return service{server: m}, err
	case config.ListenFilter:
		return p.filterServer(cfg, l, log)
	}
	return service{}, fmt.Errorf("listener %s: unknown kind %q", l.Address, l.Kind)
}
