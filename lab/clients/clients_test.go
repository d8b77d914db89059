package clients

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
)

// way is how a client reaches the gateway.
type way struct {
	name string
	addr string
	tls  string // "", "starttls" or "implicit"
	auth string // mechanism; "" for none
}

func (w way) host() string { h, _, _ := net.SplitHostPort(w.addr); return h }
func (w way) port() string { _, p, _ := net.SplitHostPort(w.addr); return p }

// ways are the relay listeners, where relay is set, and the submission ones
// with each of the mechanisms.
func (s *site) ways(relay, relayTLS bool, mechanisms ...string) []way {
	var out []way
	if relay {
		out = append(out, way{"relay", s.relay, "", ""})
	}
	if relayTLS {
		out = append(out, way{"relay, STARTTLS", s.relayTLS, "starttls", ""})
	}
	for _, m := range mechanisms {
		out = append(out, way{"submission, STARTTLS, " + m, s.submission, "starttls", m}, way{"submission, TLS, " + m, s.submissionTLS, "implicit", m})
	}
	return out
}

// TestClients: what each program hands over is what arrives, octet by octet,
// behind the fields that the gateway puts before it.
//
// No program of Debian's uses SCRAM-SHA-256-PLUS: msmtp and mutt are built with
// GNU SASL, which has it, and hand it no channel binding. The tests beside our
// server hold it against an independent implementation in Go.
func TestClients(t *testing.T) {
	s := newSite(t)
	for _, c := range []struct {
		name     string
		programs []string
		ways     []way
		send     func(t *testing.T, s *site, w way, mark string) (handedOver string)
	}{
		{"swaks", []string{"swaks"}, s.ways(true, true, "PLAIN", "LOGIN"), bySwaks},
		{"msmtp", []string{"msmtp"}, s.ways(true, true, "PLAIN", "LOGIN", "SCRAM-SHA-256"), byMsmtp},
		{"mutt", []string{"mutt"}, s.ways(true, true, "PLAIN", "LOGIN", "SCRAM-SHA-256"), byMutt},
		{"mutt through msmtp", []string{"mutt", "msmtp"}, s.ways(false, false, "SCRAM-SHA-256"), byMuttThroughMsmtp},
		{"Python smtplib", []string{"python3"}, s.ways(true, true, "PLAIN", "LOGIN"), bySmtplib},
		{"smtp-source", []string{"smtp-source"}, s.ways(true, false), bySource}, // no TLS, no AUTH
		{"go-smtp", nil, s.ways(true, true, "PLAIN", "LOGIN"), byGoSMTP},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, p := range c.programs {
				program(t, p)
			}
			for i, w := range c.ways {
				t.Run(w.name, func(t *testing.T) {
					mark := fmt.Sprintf("%s %d", c.name, i)
					want := c.send(t, s, w, mark)
					got := s.arrived(t, mark)
					trace, ok := strings.CutSuffix(got, want)
					if !ok {
						t.Fatalf("arrived changed, %s", difference(got, want))
					}
					if !strings.HasPrefix(trace, "X-Mail-Trust: ") || !strings.Contains(trace, "\r\nReceived: from ") || !strings.HasSuffix(trace, "\r\n") || strings.Contains(trace, "\r\n\r\n") {
						t.Errorf("trace %q", trace)
					}
					proto := map[bool]string{false: "ESMTP", true: "ESMTPS"}[w.tls != ""]
					if c.name == "smtp-source" || c.name == "mutt" && w.tls == "" {
						proto = "SMTP" // these say HELO
					}
					if w.auth != "" {
						proto += "A"
					}
					if !strings.Contains(trace, " with "+proto) && !strings.Contains(trace, " with UTF8"+strings.TrimPrefix(proto, "E")) {
						t.Errorf("not %s in %q", proto, trace)
					}
				})
			}
		})
	}
}

// difference shows where two texts part, counted from their ends.
func difference(got, want string) string {
	n := 0
	for n < len(got) && n < len(want) && got[len(got)-1-n] == want[len(want)-1-n] {
		n++
	}
	part := func(s string) string { return s[max(0, len(s)-n-200) : len(s)-n] }
	return fmt.Sprintf("%d octets of %d; before the last %d that are the same:\n%q\nhanded over:\n%q", len(got), len(want), n, part(got), part(want))
}

// message has what clients and servers stumble over, with LF for line ends; the
// fields that submission would add are there.
func message(mark string) string {
	return "Date: Mon, 23 Nov 2026 10:00:00 +0000\n" +
		"From: Juliet <juliet@" + ours + ">\nTo: romeo@" + ours + "\nSubject: " + mark + "\n" +
		"Message-ID: <" + strings.NewReplacer(" ", ".", ",", "").Replace(mark) + "@client.example>\n" +
		"MIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\n" +
		".\n..\n.a line with a dot\n...\n\nQUIT\nFrom the start of a line\n" +
		"caf\u00e9 \u2014 \U0001f4ee\n" + strings.Repeat("x", 990) + "\ntrailing space \n\ttab\n" +
		strings.Repeat("a line of ordinary length, as most are, with a number of octets\n.\n", 1500) + "\nlast\n"
}

func crlf(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") }

// file writes a file in the site's folder and returns its path.
func (s *site) file(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(s.dir, strings.NewReplacer(" ", "-", ",", "").Replace(name))
	must(t, os.WriteFile(path, []byte(content), 0o600))
	return path
}

// bySwaks: it replaces words between percent signs, of which there are none,
// and ends the last line.
func bySwaks(t *testing.T, s *site, w way, mark string) string {
	m := message(mark)
	args := []string{"--server", w.host(), "--port", w.port(), "--ehlo", "client.example", "--from", "juliet@" + ours, "--to", "romeo@" + ours,
		"--data", "@" + s.file(t, mark, strings.TrimSuffix(m, "\n")), "--hide-all"}
	switch w.tls {
	case "starttls":
		args = append(args, "--tls", "--tls-verify", "--tls-ca-path", s.ca.File)
	case "implicit":
		args = append(args, "--tls-on-connect", "--tls-verify", "--tls-ca-path", s.ca.File)
	}
	if w.auth != "" {
		args = append(args, "--auth", w.auth, "--auth-user", "juliet@"+ours, "--auth-password", password)
	}
	s.run(t, "", program(t, "swaks"), args...)
	return crlf(m)
}

// msmtprc is its configuration for a way.
func (s *site) msmtprc(t *testing.T, w way, mark string) string {
	t.Helper()
	rc := fmt.Sprintf("defaults\nset_from_header off\nset_date_header off\nset_msgid_header off\naccount default\nhost %s\nport %s\ndomain client.example\nfrom juliet@%s\n", w.host(), w.port(), ours)
	if w.tls != "" {
		rc += "tls on\ntls_trust_file " + s.ca.File + "\ntls_starttls " + map[string]string{"starttls": "on", "implicit": "off"}[w.tls] + "\n"
	}
	if w.auth != "" {
		rc += "auth " + strings.ToLower(w.auth) + "\nuser juliet@" + ours + "\npassword \"" + password + "\"\n"
	}
	return s.file(t, mark+".msmtprc", rc)
}

func byMsmtp(t *testing.T, s *site, w way, mark string) string {
	m := message(mark)
	s.run(t, m, program(t, "msmtp"), "-C", s.msmtprc(t, w, mark), "--", "romeo@"+ours)
	return crlf(m)
}

// muttrc keeps a copy of what is sent.
func (s *site) muttrc(t *testing.T, mark string, more ...string) (rc, sent string) {
	t.Helper()
	sent = filepath.Join(s.dir, strings.ReplaceAll(mark, " ", "-")+".sent")
	lines := append([]string{
		"set folder=" + s.dir, "set mbox_type=mbox", "set record=" + sent, "set copy=yes", "set from=juliet@" + ours, "set use_from=yes", "set use_envelope_from=yes",
		"set realname=Juliet", "set hostname=client.example", "set ssl_ca_certificates_file=" + s.ca.File, "set certificate_file=" + s.dir + "/none",
		"set charset=utf-8", "set send_charset=utf-8", "set allow_8bit=yes",
	}, more...)
	return s.file(t, mark+".muttrc", strings.Join(lines, "\n")+"\n"), sent
}

// byMutt has mutt write a message and send it itself. Its copy is in a mbox
// file: behind a "From " line, with ">" before others of that kind, a Status
// and other fields for itself, and a Date of its own, the first field.
func byMutt(t *testing.T, s *site, w way, mark string) string {
	scheme := "smtp"
	if w.tls == "implicit" {
		scheme = "smtps"
	}
	user := ""
	if w.auth != "" {
		user = "juliet%40" + ours + ":" + strings.ReplaceAll(password, " ", "%20") + "@"
	}
	more := []string{fmt.Sprintf("set smtp_url=%s://%s%s/", scheme, user, w.addr), "set ssl_starttls=no", "set ssl_force_tls=no"}
	if w.tls == "starttls" {
		more[1] = "set ssl_starttls=yes"
	}
	if w.tls != "" {
		more[2] = "set ssl_force_tls=yes"
	}
	if w.auth != "" {
		more = append(more, "set smtp_authenticators="+strings.ToLower(w.auth))
	}
	rc, sent := s.muttrc(t, mark, more...)
	_, body, _ := strings.Cut(message(mark), "\n\n")
	s.run(t, body, program(t, "mutt"), "-n", "-F", rc, "-s", mark, "--", "romeo@"+ours)
	kept, err := os.ReadFile(sent)
	must(t, err)
	_, afterDate, _ := strings.Cut(fromMbox(string(kept)), "\r\n")
	return afterDate
}

// fromMbox takes the one message out of a mbox file of mutt's.
func fromMbox(s string) string {
	_, s, _ = strings.Cut(s, "\n") // the From line
	header, body, _ := strings.Cut(s, "\n\n")
	var fields []string
	for line := range strings.Lines(header + "\n") {
		if !strings.HasPrefix(line, "Status: ") && !strings.HasPrefix(line, "Content-Length: ") && !strings.HasPrefix(line, "Lines: ") {
			fields = append(fields, line)
		}
	}
	body = strings.ReplaceAll("\n"+strings.TrimSuffix(body, "\n"), "\n>From ", "\nFrom ")
	return crlf(strings.Join(fields, "") + body)
}

// byMuttThroughMsmtp: as many run it. What mutt gives to msmtp is kept on its
// way.
func byMuttThroughMsmtp(t *testing.T, s *site, w way, mark string) string {
	kept := filepath.Join(s.dir, strings.NewReplacer(" ", "-", ",", "").Replace(mark)+".kept")
	script := s.file(t, mark+".sh", fmt.Sprintf("#!/bin/sh\ntee %s | %s -C %s \"$@\"\n", kept, program(t, "msmtp"), s.msmtprc(t, w, mark)))
	must(t, os.Chmod(script, 0o700))
	rc, _ := s.muttrc(t, mark, "set sendmail="+script, "set sendmail_wait=0")
	_, body, _ := strings.Cut(message(mark), "\n\n")
	s.run(t, body, program(t, "mutt"), "-n", "-F", rc, "-s", mark, "--", "romeo@"+ours)
	b, err := os.ReadFile(kept)
	must(t, err)
	return crlf(string(b))
}

// smtplibScript sends the content of a file, octet by octet.
const smtplibScript = `
import smtplib, ssl, sys
host, port, tls, auth, ca, user, password, sender, rcpt, name = sys.argv[1:]
context = ssl.create_default_context(cafile=ca)
if tls == "implicit":
    c = smtplib.SMTP_SSL(host, int(port), local_hostname="client.example", context=context)
else:
    c = smtplib.SMTP(host, int(port), local_hostname="client.example")
if tls == "starttls":
    c.starttls(context=context)
c.ehlo()
if auth:
    c.user, c.password = user, password
    c.auth(auth, getattr(c, "auth_" + auth.lower()), initial_response_ok=auth == "PLAIN")
refused = c.sendmail(sender, [rcpt], open(name, "rb").read(), mail_options=["BODY=8BITMIME"])
assert not refused, refused
c.quit()
`

func bySmtplib(t *testing.T, s *site, w way, mark string) string {
	m := crlf(message(mark))
	s.run(t, "", program(t, "python3"), "-c", smtplibScript, w.host(), w.port(), w.tls, w.auth, s.ca.File, "juliet@"+ours, password, "juliet@"+ours, "romeo@"+ours, s.file(t, mark, m))
	return m
}

// bySource: Postfix's load generator, which ends lines in CRLF, stuffs dots,
// and puts an empty line at the end.
func bySource(t *testing.T, s *site, w way, mark string) string {
	m := message(mark)
	s.run(t, "", program(t, "smtp-source"), "-F", s.file(t, mark, strings.TrimSuffix(m, "\n")), "-f", "juliet@"+ours, "-t", "romeo@"+ours, "-M", "client.example", "inet:"+w.addr)
	return crlf(m) + "\r\n"
}

func byGoSMTP(t *testing.T, s *site, w way, mark string) string {
	m := crlf(message(mark))
	pem, err := os.ReadFile(s.ca.File)
	must(t, err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	secure := &tls.Config{RootCAs: roots, ServerName: "127.0.0.1"}
	connect := smtp.Dial
	switch w.tls {
	case "starttls":
		connect = func(addr string) (*smtp.Client, error) { return smtp.DialStartTLS(addr, secure) }
	case "implicit":
		connect = func(addr string) (*smtp.Client, error) { return smtp.DialTLS(addr, secure) }
	}
	c, err := connect(w.addr)
	must(t, err)
	defer c.Close()
	switch w.auth {
	case sasl.Plain:
		must(t, c.Auth(sasl.NewPlainClient("", "juliet@"+ours, password)))
	case sasl.Login:
		must(t, c.Auth(sasl.NewLoginClient("juliet@"+ours, password)))
	}
	must(t, c.SendMail("juliet@"+ours, []string{"romeo@" + ours}, strings.NewReader(m)))
	must(t, c.Quit())
	return m
}
