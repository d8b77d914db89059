package smtpbridge

import (
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"mailxmppd/mail"
)

// DovecotAuth is the Authenticator that asks Dovecot, over its socket for
// authentication clients (doc/wiki/Design.AuthProtocol, version 1): a UNIX
// listener of service auth, which is not the one named auth-master. Passwords
// are checked by its PLAIN; its SCRAM-SHA-256 is passed through. Every exchange
// has a connection of its own. The zero value with a Socket is ready.
type DovecotAuth struct {
	Socket  string
	Timeout time.Duration // for Dovecot to answer; 0 for 20 s, since it delays failures

	mu      sync.Mutex
	list    []string // of mechanisms, as last seen
	fetched time.Time
}

const (
	dovecotTimeout = 20 * time.Second
	dovecotRecheck = time.Minute // how long the list of mechanisms is believed
	dovecotHello   = 2 * time.Second
)

// Mechanisms is what Dovecot offers of what we can pass on: no channel
// binding, which it cannot see. While Dovecot cannot be asked it is what it
// said last, or PLAIN and LOGIN: clients that find no mechanism give up for
// good, clients that get 454 do not.
func (d *DovecotAuth) Mechanisms(ctx context.Context, _ ChannelBindings) []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if time.Since(d.fetched) < dovecotRecheck {
		return d.list
	}
	ctx, cancel := context.WithTimeout(ctx, dovecotHello)
	defer cancel()
	conn, err := dialDovecot(ctx, d.Socket)
	if err == nil {
		d.list = conn.usable()
		conn.Close()
	} else if d.list == nil {
		d.list = []string{mechPlain, mechLogin}
	}
	d.fetched = time.Now()
	return d.list
}

// Password has Dovecot check a password, by its PLAIN.
func (d *DovecotAuth) Password(ctx context.Context, c mail.Client, user, password string) (string, error) {
	x, err := d.Exchange(ctx, mechPlain, AuthRequest{Client: c})
	if err != nil {
		return "", err
	}
	defer x.Close()
	step, err := x.Next(ctx, []byte("\x00"+user+"\x00"+password))
	if err == nil && !step.Done {
		err = fmt.Errorf("dovecot: PLAIN wants more than a password")
	}
	return step.User, err
}

// Exchange passes a mechanism through.
func (d *DovecotAuth) Exchange(_ context.Context, mechanism string, request AuthRequest) (Exchange, error) {
	return &dovecotExchange{auth: d, mechanism: mechanism, request: request}, nil
}

// dovecotExchange passes challenges and responses through.
type dovecotExchange struct {
	auth      *DovecotAuth
	mechanism string
	request   AuthRequest
	conn      *dovecotConn
}

func (x *dovecotExchange) Close() {
	if x.conn != nil {
		x.conn.Close()
	}
}

func (x *dovecotExchange) Next(ctx context.Context, response []byte) (AuthStep, error) {
	timeout := x.auth.Timeout
	if timeout <= 0 {
		timeout = dovecotTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	encoded := base64.StdEncoding.EncodeToString(response)
	line := "CONT\t1\t" + encoded
	if x.conn == nil {
		if err := x.admit(string(response)); err != nil {
			return AuthStep{}, err
		}
		conn, err := dialDovecot(ctx, x.auth.Socket)
		if err != nil {
			return AuthStep{}, err
		}
		x.conn = conn
		line = x.request.dovecotLine(x.mechanism, encoded)
	}
	answer, err := x.conn.ask(ctx, line)
	if err != nil {
		return AuthStep{}, err
	}
	return answer.step()
}

// admit finds the user name in the first message of SCRAM. For PLAIN that has
// been done.
func (x *dovecotExchange) admit(message string) error {
	if x.request.Admit == nil {
		return nil
	}
	first, ok := parseScramFirst(message)
	if !ok || first.gs2.flag == 'p' {
		return errResponse
	}
	return x.request.Admit(first.user)
}

// dovecotLine is the request that begins an exchange. The response must come
// last. "secured" says that TLS protects the exchange, without which AUTH is
// not taken at all.
func (r AuthRequest) dovecotLine(mechanism, response string) string {
	words := []string{"AUTH", "1", mechanism, "service=smtp", "secured"}
	if addr := r.Client.Local; addr.IsValid() {
		words = append(words, "lip="+addr.Addr().String(), fmt.Sprintf("lport=%d", addr.Port()))
	}
	if addr := r.Client.Addr; addr.IsValid() {
		words = append(words, "rip="+addr.Addr().String(), fmt.Sprintf("rport=%d", addr.Port()))
	}
	return strings.Join(append(words, "resp="+response), "\t")
}

// dovecotAnswer is a line of Dovecot's about an exchange.
type dovecotAnswer struct {
	verb   string   // OK, CONT or FAIL
	params []string // "name=value" or "name"; for CONT the challenge
}

func (a dovecotAnswer) step() (AuthStep, error) {
	switch a.verb {
	case "OK":
		// The password may be right, or not have been looked at, as for a user
		// whose logins Dovecot's own services hand to another host.
		if a.has("nologin") || a.has("proxy") || a.has("proxy_maybe") {
			return AuthStep{}, wrongCredentials()
		}
		return AuthStep{Done: true, User: a.param("user")}, nil
	case "CONT":
		if len(a.params) == 0 {
			return AuthStep{Challenge: []byte{}}, nil
		}
		challenge, err := base64.StdEncoding.DecodeString(a.params[0])
		if err != nil {
			return AuthStep{}, fmt.Errorf("dovecot: challenge is not base64")
		}
		return AuthStep{Challenge: challenge}, nil
	}
	if slices.Contains(a.params, "temp") || a.param("code") == "temp_fail" {
		return AuthStep{}, fmt.Errorf("dovecot: temporary failure")
	}
	return AuthStep{}, wrongCredentials()
}

// has reports whether a parameter is there, with or without a value.
func (a dovecotAnswer) has(name string) bool {
	return slices.ContainsFunc(a.params, func(p string) bool {
		key, _, _ := strings.Cut(p, "=")
		return key == name
	})
}

func (a dovecotAnswer) param(name string) string {
	for _, p := range a.params {
		if value, ok := strings.CutPrefix(p, name+"="); ok {
			return value
		}
	}
	return ""
}
