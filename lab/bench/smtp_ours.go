package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime/pprof"
	"sync"
	"sync/atomic"
	"time"

	"mailxmppd/mail"
	"mailxmppd/smtpbridge"
)

// discarding is our server in front of a handler that takes everything and
// keeps nothing: no store, no route.
type discarding struct {
	addr  string
	srv   *smtpbridge.Server
	done  chan error
	taken atomic.Int64
}

func startDiscarding(sessions int) (*discarding, error) {
	d := &discarding{done: make(chan error, 1)}
	limits := smtpbridge.DefaultLimits()
	limits.PerAddress = max(limits.PerAddress, 2*sessions)
	srv, err := smtpbridge.NewServer(smtpbridge.ServerConfig{
		Kind: smtpbridge.KindRelay, Hostname: "bench.example", Limits: limits, Handler: d, Extensions: smtpbridge.DefaultExtensions(),
	})
	if err != nil {
		return nil, err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	d.addr, d.srv = ln.Addr().String(), srv
	go func() { d.done <- srv.Serve(ln) }()
	return d, nil
}

func (d *discarding) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	d.srv.Shutdown(ctx)
	<-d.done
}

// counting checks that all that a load sends arrives.
func (d *discarding) counting(load func(context.Context, smtpCase) (time.Duration, error)) func(context.Context, smtpCase) (time.Duration, error) {
	return func(ctx context.Context, c smtpCase) (time.Duration, error) {
		before := d.taken.Load()
		cpu, err := load(ctx, c)
		if n := d.taken.Load() - before; err == nil && n != int64(c.Messages) {
			err = fmt.Errorf("%d messages arrived, %d were sent", n, c.Messages)
		}
		return cpu, err
	}
}

func (d *discarding) Sender(context.Context, mail.Client, mail.Envelope) *mail.Failure { return nil }

func (d *discarding) Recipient(context.Context, mail.Client, mail.Envelope, mail.Recipient) *mail.Failure {
	return nil
}

func (d *discarding) Accept(context.Context, mail.Client, *mail.Message, bool) []mail.Verdict {
	d.taken.Add(1)
	return []mail.Verdict{{}}
}

// smtpSender is our client.
type smtpSender struct {
	*smtpbridge.Client
	sessions int
}

func newSMTPSender(sessions int) *smtpSender {
	return &smtpSender{smtpbridge.NewClient(smtpbridge.ClientConfig{Hostname: "bench.example", MaxPerHop: sessions}), sessions}
}

// into sends the messages of a case, as many at a time as there are sessions.
// The CPU time is this process's.
func (s *smtpSender) into(addr string) func(context.Context, smtpCase) (time.Duration, error) {
	hop := smtpbridge.Hop{Protocol: smtpbridge.ProtocolSMTP, Addrs: []string{addr}, TLS: smtpbridge.TLSNone}
	return func(ctx context.Context, c smtpCase) (time.Duration, error) {
		content := mail.NewBuffer("")
		defer content.Close()
		if _, err := content.Write(message("bench", c.Size)); err != nil {
			return 0, err
		}
		a := mail.Attempt{Content: content, Facts: content.Facts(), Domain: "montague.example", Envelope: mail.Envelope{
			Sender:     mail.Address{Local: "romeo", Domain: "capulet.example"},
			Recipients: []mail.Recipient{{Address: mail.Address{Local: "juliet", Domain: "montague.example"}}},
		}}
		var next atomic.Int64
		var wg sync.WaitGroup
		errs := make([]error, s.sessions)
		cpu := ownCPU()
		for i := range s.sessions {
			wg.Go(func() {
				for errs[i] == nil && next.Add(1) <= int64(c.Messages) {
					if o := s.Deliver(ctx, hop, a)[0]; o.Failure != nil {
						errs[i] = o.Failure
					}
				}
			})
		}
		wg.Wait()
		return ownCPU() - cpu, errors.Join(errs...)
	}
}

// profileTo writes a CPU profile of this process into a folder, until what it
// returns is called; "" for none.
func profileTo(dir string) (stop func(), err error) {
	if dir == "" {
		return func() {}, nil
	}
	f, err := os.Create(filepath.Join(dir, "smtp.pprof"))
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() {
		pprof.StopCPUProfile()
		f.Close()
	}, nil
}
