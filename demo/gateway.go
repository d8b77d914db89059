package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// gateway is one mailxmppd as a child process.
type gateway struct {
	domain string
	exe    string
	smtp   string // host:port of the relay listener
	xmpps  string // host:port, direct TLS
	xmpp   string // host:port, STARTTLS

	submission  string // host:port of the submission listener with STARTTLS
	submissions string // of the one with TLS from the first octet
	user        string // who may submit; "" before login
	password    string

	config string // file
	log    string // file
	admin  string // path of the socket
	store  string // URL
	schema string // of a PostgreSQL store

	child *child // of the last start; nil before the first
}

// child is a running gateway process.
type child struct {
	process  *os.Process
	stopping atomic.Bool
	done     chan struct{} // closed when it has ended
	err      error         // how; read after done
}

const (
	upWithin   = 30 * time.Second // from start to answering listeners
	termWithin = 60 * time.Second // from SIGTERM to the end: the gateway's own steps are bounded below that
	pollEvery  = 20 * time.Millisecond
)

// start starts the process and returns once its listeners answer. When it ends
// later without having been asked to, crashed gets to know.
func (g *gateway) start(ctx context.Context, crashed chan<- error) error {
	log, err := os.OpenFile(g.log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(g.exe, "serve", "--config", g.config)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = childAttributes()
	c := &child{done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		// The parent-death signal is bound to the thread that starts the child:
		// this one stays until the child has ended.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		c.process = cmd.Process
		started <- err
		if err != nil {
			return
		}
		c.err = cmd.Wait()
		close(c.done)
		if !c.stopping.Load() {
			crashed <- fmt.Errorf("gateway of %s ended by itself: %w", g.domain, g.explain(c.err))
		}
	}()
	if err := <-started; err != nil {
		return err
	}
	g.child = c
	return g.awaitUp(ctx)
}

// awaitUp polls the listeners until both answer.
func (g *gateway) awaitUp(run context.Context) error {
	ctx, cancel := context.WithTimeout(run, upWithin)
	defer cancel()
	for {
		err := errors.Join(greets(ctx, g.smtp), answers(ctx, g.xmpps))
		if err == nil {
			return nil
		}
		select {
		case <-g.child.done:
			g.child.stopping.Store(true)
			return fmt.Errorf("did not start: %w", g.explain(g.child.err))
		case <-run.Done():
			return run.Err()
		case <-ctx.Done():
			return fmt.Errorf("listeners do not answer within %s: %w", upWithin, err)
		case <-time.After(pollEvery):
		}
	}
}

// answers reports whether somebody accepts connections at addr.
func answers(ctx context.Context, addr string) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	return conn.Close()
}

// greets reports whether an SMTP server at addr greets.
func greets(ctx context.Context, addr string) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(upWithin / 4))
	greeting := make([]byte, 4)
	if _, err := io.ReadFull(conn, greeting); err != nil {
		return fmt.Errorf("greeting: %w", err)
	}
	if string(greeting) != "220 " && string(greeting) != "220-" {
		return fmt.Errorf("greeting %q", greeting)
	}
	_, err = io.WriteString(conn, "QUIT\r\n")
	return err
}

// pid returns the process id, 0 before the first start.
func (g *gateway) pid() int {
	if g.child == nil {
		return 0
	}
	return g.child.process.Pid
}

// stop ends the process with SIGTERM and, where that does not do within its
// time, with SIGKILL, which is an error, as is any exit code but 0. A gateway
// that is not running is fine: whoever ended it has had its say.
func (g *gateway) stop() error {
	c := g.child
	if c == nil || c.ended() || c.stopping.Swap(true) {
		return nil
	}
	c.process.Signal(syscall.SIGTERM)
	select {
	case <-c.done:
	case <-time.After(termWithin):
		c.process.Kill()
		<-c.done
		return fmt.Errorf("gateway of %s did not end within %s of SIGTERM and was killed", g.domain, termWithin)
	}
	if c.err != nil {
		return fmt.Errorf("gateway of %s, asked to stop: %w", g.domain, g.explain(c.err))
	}
	return nil
}

func (c *child) ended() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// explain adds the last line of the gateway's log to how it ended.
func (g *gateway) explain(ended error) error {
	if ended == nil {
		ended = errors.New("exit status 0")
	}
	if last := lastLine(g.log); last != "" {
		return fmt.Errorf("%w: %s", ended, last)
	}
	return ended
}

// lastLine returns the last line of a file that is not empty, from its last
// 4 KiB.
func lastLine(file string) string {
	f, err := os.Open(file)
	if err != nil {
		return ""
	}
	defer f.Close()
	const tail = 4096
	if info, err := f.Stat(); err == nil && info.Size() > tail {
		f.Seek(-tail, io.SeekEnd)
	}
	text, err := io.ReadAll(io.LimitReader(f, tail))
	if err != nil {
		return ""
	}
	text = bytes.TrimSpace(text)
	return strings.TrimSpace(string(text[bytes.LastIndexByte(text, '\n')+1:]))
}
