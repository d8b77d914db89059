package main

import (
	"errors"
	"fmt"
	"io"
	"net/rpc"
	"os"
	"os/exec"
	"time"
)

// legProcess is the parent's hold on one side of the leg: a process of this
// same executable.
type legProcess struct {
	cmd    *exec.Cmd
	client *rpc.Client
}

func startLegProcess() (*legProcess, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(exe, legSide)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &legProcess{cmd, rpc.NewClient(pipes{out, in})}, nil
}

type pipes struct {
	io.ReadCloser
	in io.WriteCloser
}

func (p pipes) Write(b []byte) (int, error) { return p.in.Write(b) }
func (p pipes) Close() error                { return errors.Join(p.in.Close(), p.ReadCloser.Close()) }

func (p *legProcess) call(method string, args, reply any) error {
	if err := p.client.Call("Side."+method, args, reply); err != nil {
		return fmt.Errorf("leg %s: %w", method, err)
	}
	return nil
}

// stop lets the process end, and ends it if it does not.
func (p *legProcess) stop() {
	p.client.Close()
	end := time.AfterFunc(30*time.Second, func() { p.cmd.Process.Kill() })
	defer end.Stop()
	if err := p.cmd.Wait(); err != nil {
		fmt.Fprintln(os.Stderr, "leg process:", err)
	}
}

// leg is both processes, connected.
type leg struct {
	kind               string
	sending, receiving *legProcess
	tls                string
}

// startLeg starts both sides, with their certificates loaded and no connection
// yet.
func startLeg(p LegSetup) (*leg, error) {
	l := &leg{kind: p.Kind}
	for _, side := range []**legProcess{&l.receiving, &l.sending} {
		var err error
		if *side, err = startLegProcess(); err != nil {
			l.stop()
			return nil, err
		}
	}
	err := l.receiving.call("Listen", p, &p.Addr)
	if err == nil {
		err = l.sending.call("Prepare", p, &struct{}{})
	}
	if err != nil {
		l.stop()
		return nil, err
	}
	return l, nil
}

func (l *leg) connect() error { return l.sending.call("Connect", struct{}{}, &l.tls) }

func (l *leg) stop() {
	for _, side := range []*legProcess{l.sending, l.receiving} {
		if side != nil {
			side.stop()
		}
	}
}

// usage reads both sides' usage, after a collection if one is asked for.
func (l *leg) usage(collect bool) (sending, receiving Usage, err error) {
	err = errors.Join(l.sending.call("Usage", collect, &sending), l.receiving.call("Usage", collect, &receiving))
	return
}

// both calls a method of both sides.
func (l *leg) both(method string, args any) error {
	return errors.Join(l.sending.call(method, args, &struct{}{}), l.receiving.call(method, args, &struct{}{}))
}
