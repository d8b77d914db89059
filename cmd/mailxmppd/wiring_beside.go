package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"

	"mailxmppd/admin"
	"mailxmppd/config"
	"mailxmppd/mail"
	"mailxmppd/smtpbridge"
)

// besideMode is the mode of a local socket for the mail server beside us: who
// may enter its directory may ask.
const besideMode = 0o666

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
	if err := os.Chmod(path, besideMode); err != nil {
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
	}
	return service{}, fmt.Errorf("listener %s: unknown kind %q", l.Address, l.Kind)
}
