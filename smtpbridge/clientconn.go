package smtpbridge

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"mailxmppd/mail"
	"mailxmppd/mail/faults"
)

const (
	writeBuffer = 64 << 10
	// settleTime bounds what is done for a connection after the outcome is
	// known, while the caller waits.
	settleTime = 5 * time.Second
	// lateReplyTime is how long a reply is waited for where writing failed.
	lateReplyTime = 2 * time.Second
)

// hopConn is a session with a next hop, past its EHLO. One attempt uses it at
// a time; only abort may be called beside that.
type hopConn struct {
	raw      net.Conn // the connection below TLS
	nc       net.Conn // what the dialogue runs over
	br       *bufio.Reader
	bw       *bufio.Writer
	times    ClientTimeouts
	host     string // the next hop, as shown
	lmtp     bool
	caps     capabilities
	tls      string            // e.g. "TLS1.3 TLS_AES_128_GCM_SHA256"
	proof    string            // "pkix", "dane" or "mta-sts" where the certificate was verified for a trusted name
	trouble  *certificateError // what was wrong with TLS, even where the session goes on
	writeErr error             // sticky: why nothing can be written any more

	broken bool // the dialogue is out of step or over
	open   bool // a mail transaction is open at the next hop

	reused    bool
	idleSince time.Time   // the pool's
	idleTimer *time.Timer // the pool's
}

// dial opens a session. Where TLS is opportunistic and its handshake fails,
// plain text follows on a second connection: whoever can break the handshake
// could as well have hidden the offer (RFC 7435 section 3).
func (c *Client) dial(ctx context.Context, h Hop, p place) (*hopConn, *mail.Failure) {
	plan := c.planFor(h, p)
	hc, f := c.dialAs(ctx, h, p, plan)
	if f != nil && !plan.needed && errors.Is(f.Cause, errHandshake) && ctx.Err() == nil {
		c.log.Warn("tls with next hop failed, going on in plain text", "remote", p.host, "err", f.Cause)
		return c.dialAs(ctx, h, p, tlsPlan{off: true})
	}
	return hc, f
}

func (c *Client) dialAs(ctx context.Context, h Hop, p place, plan tlsPlan) (*hopConn, *mail.Failure) {
	d := net.Dialer{Timeout: c.cfg.Timeouts.Connect}
	nc, err := d.DialContext(ctx, p.network, p.addr)
	if err != nil {
		if ctx.Err() == nil {
			c.failed.failed(p.addr)
		}
		return nil, noAnswer(p.host, err)
	}
	c.failed.reached(p.addr)
	faults.Point("smtp.dialled")
	hc := &hopConn{raw: nc, times: c.cfg.Timeouts, host: p.host, lmtp: h.Protocol == ProtocolLMTP}
	hc.over(nc)
	stop := context.AfterFunc(ctx, hc.abort)
	f := c.greet(hc, h, plan)
	over := !stop()
	if !over && !plan.off {
		c.reportSession(p, hc, f)
	}
	if over && f == nil {
		f = noAnswer(p.host, ctx.Err())
	}
	if f != nil {
		hc.abort()
		return nil, f
	}
	return hc, nil
}

// greet does all that comes before the first transaction.
func (c *Client) greet(hc *hopConn, h Hop, plan tlsPlan) *mail.Failure {
	if h.Implicit && !plan.off {
		if f := c.handshake(hc, plan); f != nil {
			return f
		}
	}
	r, err := hc.reply(hc.times.Greeting)
	if err != nil {
		return hc.lost(err)
	}
	if r.code != 220 {
		return hc.refused(r)
	}
	if f := hc.hello(c.cfg.Hostname); f != nil {
		return f
	}
	if !plan.off && !h.Implicit {
		if f := c.startTLS(hc, plan); f != nil {
			return f
		}
	}
	if h.User != "" {
		return hc.authenticate(h.User, h.Password)
	}
	return nil
}

// hello introduces us and reads what the next hop offers. A server that does
// not know EHLO is asked with HELO (RFC 5321 section 3.2); LMTP has LHLO alone.
func (hc *hopConn) hello(name string) *mail.Failure {
	verb := "EHLO "
	if hc.lmtp {
		verb = "LHLO "
	}
	r, err := hc.ask(verb + name)
	if err != nil {
		return hc.lost(err)
	}
	if r.code >= 500 && !hc.lmtp {
		if r, err = hc.ask("HELO " + name); err != nil {
			return hc.lost(err)
		}
		r.lines = nil
	}
	if !r.positive() {
		return hc.refused(r)
	}
	hc.caps = parseCapabilities(r.lines)
	return nil
}

// over makes nc what the session runs over.
func (hc *hopConn) over(nc net.Conn) {
	hc.nc = nc
	hc.br = bufio.NewReaderSize(nc, replyBuffer)
	if hc.bw == nil {
		hc.bw = bufio.NewWriterSize(blockWriter{hc}, writeBuffer)
	}
}

// blockWriter writes in blocks, each with its own deadline, and remembers that
// writing failed: then the last octet of what was to be written has not gone.
type blockWriter struct{ hc *hopConn }

func (w blockWriter) Write(p []byte) (written int, err error) {
	for len(p) > 0 {
		w.hc.nc.SetWriteDeadline(time.Now().Add(w.hc.times.DataBlock))
		n, err := w.hc.nc.Write(p[:min(len(p), writeBuffer)])
		written += n
		if err != nil {
			w.hc.writeErr = err
			return written, err
		}
		p = p[n:]
	}
	return written, nil
}

// reply reads the next reply. After an error, or 421, the session is over.
func (hc *hopConn) reply(within time.Duration) (hopReply, error) {
	hc.nc.SetReadDeadline(time.Now().Add(within))
	r, err := readHopReply(hc.br)
	if err != nil || r.code == 421 {
		hc.broken = true
	}
	return r, err
}

// inStep refuses a session whose next hop has answered what was not asked: all
// replies that follow would be taken for those of other commands, the last for
// the one that moves responsibility.
func (hc *hopConn) inStep() error {
	if hc.br.Buffered() == 0 {
		return nil
	}
	hc.broken = true
	return fmt.Errorf("%w: it came before its command", errMalformedReply)
}

// ask sends one command and reads its reply.
func (hc *hopConn) ask(command string) (hopReply, error) {
	if err := hc.inStep(); err != nil {
		return hopReply{}, err
	}
	hc.bw.WriteString(command)
	hc.bw.WriteString("\r\n")
	if err := hc.bw.Flush(); err != nil {
		hc.broken = true
		return hopReply{}, err
	}
	return hc.reply(hc.times.Command)
}

// settle makes the session fit for the next transaction; false means that it
// is fit for nothing. A transaction left open is ended at once, so that an
// idle connection holds nothing at the next hop.
func (hc *hopConn) settle() bool {
	if hc.broken || hc.br.Buffered() > 0 { // a reply to nothing: out of step, or 421
		return false
	}
	if !hc.open {
		return true
	}
	hc.bw.WriteString("RSET\r\n")
	if hc.bw.Flush() != nil {
		return false
	}
	r, err := hc.reply(min(settleTime, hc.times.Command))
	hc.open = false
	return err == nil && r.positive()
}

// quit ends an idle session without waiting for the answer.
func (hc *hopConn) quit() {
	hc.nc.SetDeadline(time.Now().Add(time.Second))
	io.WriteString(hc.nc, "QUIT\r\n")
	hc.nc.Close()
}

// abort ends the session where it stands, without a word of TLS, which could
// take its time.
func (hc *hopConn) abort() { hc.raw.Close() }

// refused is the failure for a reply that is not the one hoped for.
func (hc *hopConn) refused(r hopReply) *mail.Failure { return r.failure(hc.host) }

// lost is the failure for a session that ended before the final dot: nothing
// was handed over.
func (hc *hopConn) lost(err error) *mail.Failure {
	if errors.Is(err, errMalformedReply) {
		f := mail.Fail(mail.Malformed, "next hop does not speak SMTP properly", err)
		f.Remote = hc.host
		return f
	}
	f := mail.Fail(mail.Unreachable, "connection to the next hop was lost", err).WithStatus("4.4.2")
	f.Remote = hc.host
	return f
}

// noAnswer is the failure for a place that could not be connected to.
func noAnswer(host string, err error) *mail.Failure {
	f := mail.Fail(mail.Unreachable, "", err)
	f.Remote = host
	return f
}

func tlsSummary(s tls.ConnectionState) string {
	return fmt.Sprintf("%s %s", strings.ReplaceAll(tls.VersionName(s.Version), " ", ""), tls.CipherSuiteName(s.CipherSuite))
}
