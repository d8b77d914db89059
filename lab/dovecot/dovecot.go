// Package dovecot starts a private Dovecot that takes mail by LMTP, as the
// mailbox server behind a gateway. It needs root, as Dovecot does, and touches
// nothing outside its folder.
package dovecot

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// ErrNotInstalled means that there is no Dovecot with LMTP and Sieve on this
// machine.
var ErrNotInstalled = errors.New("dovecot-lmtpd or dovecot-sieve is not installed; scripts/deps installs them")

// Each comes with a package of its own.
const (
	lmtpProgram = "/usr/lib/dovecot/lmtp"
	sievePlugin = "/usr/lib/dovecot/modules/lib90_sieve_plugin.so"
)

// stopTime bounds the wait for an orderly end.
const stopTime = 10 * time.Second

// User is a mailbox.
type User struct {
	Name  string // the local part; every domain is taken
	Quota int    // KiB; 0: none. Mail beyond it is refused after the content.
	Sieve string // the user's filter; "": all goes to the inbox
}

// Server is a running Dovecot.
type Server struct {
	Addr   string // LMTP over TCP
	Socket string // LMTP over a socket
	dir    string
	cmd    *exec.Cmd
	ended  chan struct{}
}

// Start writes a configuration and runs it; Stop ends it.
func Start(addr string, users []User) (*Server, error) {
	for _, file := range []string{lmtpProgram, sievePlugin} {
		if _, err := os.Stat(file); err != nil {
			return nil, ErrNotInstalled
		}
	}
	// Not a test's own folder: the path of its sockets must be short, and
	// readable for the users that Dovecot becomes.
	dir, err := os.MkdirTemp("/tmp", "dc")
	if err != nil {
		return nil, err
	}
	srv := &Server{Addr: addr, Socket: filepath.Join(dir, "run", "lmtp"), dir: dir}
	if err := srv.start(users); err != nil {
		return nil, errors.Join(err, srv.Stop())
	}
	return srv, nil
}

func (srv *Server) start(users []User) error {
	if err := os.Chmod(srv.dir, 0o755); err != nil {
		return err
	}
	mailDir, sieveDir := filepath.Join(srv.dir, "mail"), filepath.Join(srv.dir, "sieve")
	for _, d := range []string{mailDir, sieveDir} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return err
		}
	}
	if out, err := exec.Command("chown", "nobody", mailDir, sieveDir).CombinedOutput(); err != nil {
		return fmt.Errorf("chown: %w: %s", err, out)
	}
	var table strings.Builder
	for _, u := range users {
		fmt.Fprintf(&table, "%s::nobody:nogroup::%s/%s::", u.Name, mailDir, u.Name)
		if u.Quota > 0 {
			fmt.Fprintf(&table, "userdb_quota_rule=*:storage=%dK", u.Quota)
		}
		table.WriteString("\n")
		if u.Sieve != "" {
			if err := os.WriteFile(filepath.Join(sieveDir, u.Name+".sieve"), []byte(u.Sieve), 0o644); err != nil {
				return err
			}
		}
	}
	host, port, err := net.SplitHostPort(srv.Addr)
	if err != nil {
		return err
	}
	conf := filepath.Join(srv.dir, "dovecot.conf")
	for file, text := range map[string]string{
		filepath.Join(srv.dir, "users"): table.String(),
		conf:                            strings.NewReplacer("DIR", srv.dir, "HOST", host, "PORT", port).Replace(settings),
	} {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			return err
		}
	}
	srv.cmd = exec.Command("dovecot", "-F", "-c", conf)
	if err := srv.cmd.Start(); err != nil {
		srv.cmd = nil
		return err
	}
	srv.ended = make(chan struct{})
	go func() {
		defer close(srv.ended)
		srv.cmd.Wait()
	}()
	for range 200 {
		if conn, err := net.Dial("tcp", srv.Addr); err == nil {
			return conn.Close()
		}
		time.Sleep(50 * time.Millisecond)
	}
	return fmt.Errorf("dovecot does not listen:\n%s", srv.Log())
}

// Stop ends the server and removes its folder.
func (srv *Server) Stop() error {
	if srv.cmd != nil {
		srv.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-srv.ended:
		case <-time.After(stopTime):
			srv.cmd.Process.Kill()
			<-srv.ended
		}
	}
	return os.RemoveAll(srv.dir)
}

// Log is what it has logged so far.
func (srv *Server) Log() string {
	b, err := os.ReadFile(filepath.Join(srv.dir, "log"))
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// Mailbox returns the messages in a folder of a user, "" for the inbox, in no
// particular order.
func (srv *Server) Mailbox(user, folder string) ([]string, error) {
	if folder != "" {
		folder = "." + folder // as Maildir++ has it
	}
	files, err := filepath.Glob(filepath.Join(srv.dir, "mail", user, "Maildir", folder, "new", "*"))
	if err != nil {
		return nil, err
	}
	var out []string
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return nil, err
		}
		out = append(out, string(b))
	}
	return out, nil
}

// settings: mail is kept with CRLF, so that what is in a mailbox can be
// compared with what was sent.
const settings = `base_dir = DIR/run
state_dir = DIR/state
log_path = DIR/log
protocols = lmtp
ssl = no
mail_location = maildir:~/Maildir
mail_save_crlf = yes
first_valid_uid = 1
first_valid_gid = 1
auth_username_format = %n
lmtp_save_to_detail_mailbox = no
recipient_delimiter = +
service lmtp {
  inet_listener lmtp {
    address = HOST
    port = PORT
  }
  unix_listener lmtp {
    mode = 0666
  }
}
passdb {
  driver = passwd-file
  args = DIR/users
}
userdb {
  driver = passwd-file
  args = DIR/users
}
protocol lmtp {
  mail_plugins = quota sieve
}
plugin {
  quota = count:User quota
  quota_vsizes = yes
  sieve = file:DIR/sieve/%n.sieve
}
`
