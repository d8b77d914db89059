package harness

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"
)

// Bounds of a start on a busy machine, and of an orderly end: nothing that such
// a server holds is worth a longer one.
const (
	daemonStart = 90 * time.Second
	daemonStop  = 2 * time.Second
)

// Daemon is a server of somebody else's that runs as a child process.
type Daemon struct {
	cmd   *exec.Cmd
	log   string
	ended chan struct{}
}

// StartDaemon runs cmd, whose output goes to logFile, and waits until it
// listens on all of addrs.
func StartDaemon(cmd *exec.Cmd, logFile string, addrs ...string) (*Daemon, error) {
	out, err := os.OpenFile(logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	d := &Daemon{cmd: cmd, log: logFile, ended: make(chan struct{})}
	go func() {
		cmd.Wait()
		close(d.ended)
	}()
	for _, addr := range addrs {
		if err := d.await(addr); err != nil {
			d.Stop()
			return nil, err
		}
	}
	return d, nil
}

func (d *Daemon) await(addr string) error {
	for end := time.Now().Add(daemonStart); time.Now().Before(end); {
		if c, err := net.DialTimeout("tcp", addr, time.Second); err == nil {
			return c.Close()
		}
		select {
		case <-d.ended:
			return fmt.Errorf("%s ended:\n%s", d.cmd.Path, d.Log())
		case <-time.After(20 * time.Millisecond):
		}
	}
	return fmt.Errorf("%s does not listen on %s:\n%s", d.cmd.Path, addr, d.Log())
}

// PID is its process id.
func (d *Daemon) PID() int { return d.cmd.Process.Pid }

// Stop ends it by SIGTERM, and by SIGKILL if that takes too long.
func (d *Daemon) Stop() {
	d.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-d.ended:
	case <-time.After(daemonStop):
		d.cmd.Process.Kill()
		<-d.ended
	}
}

// Log is the end of what it has written.
func (d *Daemon) Log() string {
	b, err := os.ReadFile(d.log)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-8000):])
}

// FreeIP finds an address of 127.0.0.0/8, other than 127.0.0.1, where all of
// the ports are free: a server that others expect on its usual port gets it
// there.
func FreeIP(ports ...int) (string, error) {
	for range 100 {
		ip := fmt.Sprintf("127.%d.%d.%d", 1+rand.N(250), rand.N(250), 1+rand.N(250))
		if free(ip, ports) {
			return ip, nil
		}
	}
	return "", errors.New("no free loopback address")
}

func free(ip string, ports []int) bool {
	for _, p := range ports {
		ln, err := net.Listen("tcp", net.JoinHostPort(ip, strconv.Itoa(p)))
		if err != nil {
			return false
		}
		ln.Close()
	}
	return true
}
