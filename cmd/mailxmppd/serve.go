package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"mailxmppd/admin"
	"mailxmppd/config"
	"mailxmppd/gateway"
	"mailxmppd/smtpbridge"
	"mailxmppd/trust"
	"mailxmppd/trust/contacts"
	"mailxmppd/trust/grants"
	"mailxmppd/trust/signing"
)

// How long each step of an ordered stop may take.
const (
	intakeGrace  = 20 * time.Second // for messages that clients are handing over
	attemptGrace = 20 * time.Second // for attempts that are running
	streamGrace  = 5 * time.Second  // for closing streams in order
)

// serve runs the gateway until ctx ends or a part fails, then stops it in
// order: intake first, then what runs, the store last.
func serve(ctx context.Context, cfg *config.Config, log *slog.Logger) (err error) {
	defer startProfile()()
	defer collectLessOften()()
	st, err := openStore(ctx, cfg, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	p, err := assemble(ctx, cfg, st, log)
	if err != nil {
		return err
	}
	defer p.client.Close()
	if err := p.listen(cfg); err != nil {
		p.xmpp.directory.Close()
		p.xmpp.prover.Close()
		return err
	}
	log.Info("started", "domains", len(cfg.Domains), "version", readBuild().Version)
	err = p.run(ctx)
	log.Info("stopped")
	return err
}

// parts are what serve runs.
type parts struct {
	certificates *certificates
	client       *smtpbridge.Client
	xmpp         *xmppSide
	reporter     *smtpbridge.TLSReporter // nil: nobody is told
	trust        *trust.Judge            // nil: mail is not judged
	learner      *contacts.Learner       // nil: no keys are learnt
	gateway      *gateway.Gateway
	grants       *grants.Grants   // nil where none are kept
	signing      *signing.Signer  // nil: nothing is signed
	smtp         []service        // one for each listener of the configuration
	streams      []streamListener // for peers
	admin        *service
}

// streamListener is a socket on which peers open streams.
type streamListener struct {
	net.Listener
	serve func(ctx context.Context, ln net.Listener) error
}

// service is a server with the listener that it serves.
type service struct {
	listener net.Listener
	server   interface {
		Serve(net.Listener) error
		Shutdown(context.Context) error
	}
}

// listen opens every socket before anything is served, so that a busy port
// ends the program with one clear line.
func (p *parts) listen(cfg *config.Config) (err error) {
	defer func() {
		if err != nil {
			p.closeListeners()
		}
	}()
	for i, l := range cfg.Listeners {
		if p.smtp[i].listener, err = listenAt(l); err != nil {
			return fmt.Errorf("%s listener: %w", l.Kind, err)
		}
	}
	for _, l := range []struct {
		addrs []string
		serve func(context.Context, net.Listener) error
	}{
		{cfg.XMPP.Listen, p.xmpp.streams.Serve},
		{cfg.XMPP.ListenStartTLS, p.xmpp.streams.ServeStartTLS},
	} {
		for _, addr := range l.addrs {
			ln, err := net.Listen("tcp", addr)
			if err != nil {
				return fmt.Errorf("xmpp listener: %w", err)
			}
			p.streams = append(p.streams, streamListener{ln, l.serve})
		}
	}
	if p.admin != nil {
		if p.admin.listener, err = admin.Listen(cfg.Admin.Socket); err != nil {
			return fmt.Errorf("admin socket: %w", err)
		}
	}
	return nil
}

func (p *parts) closeListeners() {
	for _, ln := range p.streams {
		ln.Close()
	}
	for _, s := range p.services() {
		if s.listener != nil {
			s.listener.Close()
		}
	}
}

// services are the SMTP servers and the operator's socket.
func (p *parts) services() []service {
	out := slices.Clone(p.smtp)
	if p.admin != nil {
		out = append(out, *p.admin)
	}
	return out
}

// run serves until ctx ends or a server fails, then stops: no new mail, then
// the attempts, then the streams. Messages of peers that arrive meanwhile are
// stored; they are delivered after the next start.
func (p *parts) run(ctx context.Context) error {
	streamCtx, endStreams := context.WithCancel(context.WithoutCancel(ctx))
	defer endStreams()
	servers, ctx := errgroup.WithContext(ctx)
	for _, s := range p.services() {
		servers.Go(func() error { return s.server.Serve(s.listener) })
	}
	for _, ln := range p.streams {
		servers.Go(func() error { return ln.serve(streamCtx, ln.Listener) })
	}
	for _, c := range p.xmpp.components {
		servers.Go(func() error { return c.Run(streamCtx) })
	}
	servers.Go(func() error { p.certificates.watch(ctx); return nil })
	if p.signing != nil {
		servers.Go(func() error { p.signing.Run(ctx); return nil })
	}
	if p.learner != nil {
		servers.Go(func() error { p.learner.Run(ctx); return nil })
	}
	delivering, stopDelivering := context.WithCancel(context.WithoutCancel(ctx))
	defer stopDelivering()
	delivered := make(chan struct{})
	go func() {
		defer close(delivered)
		var keeping sync.WaitGroup
		if p.grants != nil {
			keeping.Go(func() { p.grants.Run(delivering) })
		}
		p.gateway.Run(delivering, attemptGrace)
		keeping.Wait()
	}()
	reporting, stopReporting := context.WithCancel(context.WithoutCancel(ctx))
	defer stopReporting()
	reported := make(chan struct{})
	go func() {
		defer close(reported)
		if p.reporter != nil {
			p.reporter.Run(reporting)
		}
	}()
	<-ctx.Done()

	p.stopIntake()
	stopDelivering()
	<-delivered
	stopReporting()
	<-reported
	p.xmpp.directory.Close()
	stop, cancel := context.WithTimeout(context.Background(), streamGrace)
	defer cancel()
	p.xmpp.streams.Shutdown(stop)
	p.xmpp.prover.Close()
	endStreams()
	return servers.Wait()
}

// stopIntake lets clients finish what they are handing over.
func (p *parts) stopIntake() {
	stop, cancel := context.WithTimeout(context.Background(), intakeGrace)
	defer cancel()
	var all errgroup.Group
	for _, s := range p.services() {
		all.Go(func() error { return s.server.Shutdown(stop) }) // its error: sessions were cut off, which their clients know
	}
	all.Wait()
}
