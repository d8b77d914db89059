package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"mailxmppd/lab/harness"
)

// startPostfixPair runs two private Postfix instances, A -> B -> sink, with
// verified TLS between them, tuned: connection reuse through tlsproxy, high
// concurrency, no rate limits.
func startPostfixPair(dir string, ca *harness.CA, sink string) (*relay, error) {
	addrs, err := harness.FreeAddrs(2)
	if err != nil {
		return nil, err
	}
	rl := &relay{addr: addrs[0]}
	var confs []string
	rl.stop = func() {
		for _, conf := range confs {
			exec.Command("postfix", "-c", conf, "stop").Run()
		}
	}
	for _, i := range []struct{ name, addr, next, tls string }{
		{"b", addrs[1], sink, "none"},
		{"a", addrs[0], addrs[1], "secure"},
	} {
		conf, err := postfixInstance(filepath.Join(dir, i.name), ca, i.name, i.addr, i.next, i.tls)
		if err != nil {
			rl.stop()
			return nil, err
		}
		if out, err := exec.Command("postfix", "-c", conf, "start").CombinedOutput(); err != nil {
			rl.stop()
			return nil, fmt.Errorf("postfix start: %w\n%s", err, out)
		}
		confs = append(confs, conf)
		pid, err := masterPID(filepath.Join(dir, i.name))
		if err != nil {
			rl.stop()
			return nil, err
		}
		rl.pids = append(rl.pids, pid)
	}
	return rl, nil
}

// postfixInstance writes one instance's configuration and returns its folder.
func postfixInstance(dir string, ca *harness.CA, name, addr, next, tls string) (string, error) {
	conf := filepath.Join(dir, "conf")
	for _, d := range []string{conf, filepath.Join(dir, "queue"), filepath.Join(dir, "data")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return "", err
		}
	}
	cert, key, err := ca.Issue("mx." + name + ".example")
	if err != nil {
		return "", err
	}
	host, port, _ := strings.Cut(next, ":")
	main := fmt.Sprintf(`compatibility_level = 3.6
queue_directory = %[1]s/queue
data_directory = %[1]s/data
inet_interfaces = all
inet_protocols = ipv4
myhostname = mx.%[2]s.example
mydestination =
mynetworks = 127.0.0.0/8
relayhost = [%[3]s]:%[4]s
smtp_tls_security_level = %[5]s
smtp_tls_CAfile = %[6]s
smtp_tls_secure_cert_match = mx.b.example
smtp_tls_connection_reuse = yes
smtp_tls_session_cache_database = btree:${data_directory}/smtp_scache
smtpd_tls_cert_file = %[7]s
smtpd_tls_key_file = %[8]s
smtpd_tls_security_level = may
smtpd_client_connection_count_limit = 0
smtpd_client_connection_rate_limit = 0
smtpd_error_sleep_time = 0
default_process_limit = 200
default_destination_concurrency_limit = 50
initial_destination_concurrency = 50
in_flow_delay = 0
maillog_file = %[1]s/mail.log
maillog_file_prefixes = %[1]s
alias_maps =
local_recipient_maps =
smtpd_relay_restrictions = permit_mynetworks, reject
`, dir, name, host, port, tls, ca.File, cert, key)
	if err := os.WriteFile(filepath.Join(conf, "main.cf"), []byte(main), 0o644); err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(conf, "master.cf"), []byte(postfixServices(addr)), 0o644); err != nil {
		return "", err
	}
	if out, err := exec.Command("chown", "-R", "postfix", filepath.Join(dir, "data")).CombinedOutput(); err != nil {
		return "", fmt.Errorf("chown: %w: %s", err, out)
	}
	return conf, nil
}

// postfixServices is a master.cf with nothing chrooted.
func postfixServices(addr string) string {
	return addr + ` inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
proxywrite unix - - n - 1 proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
tlsproxy unix - - n - 0 tlsproxy
postlog unix-dgram n - n - 1 postlogd
`
}

// masterPID waits for the pid file of an instance's master process.
func masterPID(dir string) (int, error) {
	file := filepath.Join(dir, "queue", "pid", "master.pid")
	for range 100 {
		if b, err := os.ReadFile(file); err == nil {
			if pid, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil {
				return pid, nil
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
	log, _ := os.ReadFile(filepath.Join(dir, "mail.log"))
	return 0, fmt.Errorf("postfix did not start:\n%s", log)
}
