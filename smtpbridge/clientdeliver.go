package smtpbridge

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"mailxmppd/mail"
	"mailxmppd/mail/faults"
)

// groupSize is how many commands are sent before a reply is read, where the
// next hop offers PIPELINING. RFC 2920 section 3.1 wants the client to mind
// that both sides' windows can be full: this many replies fit any.
const groupSize = 100

// transaction is a mail transaction up to the reply to DATA.
type transaction struct {
	env      mail.Envelope
	failures []*mail.Failure // per recipient; nil: accepted so far
	accepted int
	sender   *mail.Failure // MAIL was refused
	goAhead  bool          // DATA was answered by 354
	lost     *mail.Failure // the session ended before all replies were there
}

// hopeless reports whether there is no use in sending the command of index i:
// without the sender nothing, without a recipient no DATA.
func (t *transaction) hopeless(i int) bool {
	return t.sender != nil || i == len(t.env.Recipients)+1 && t.accepted == 0
}

// lose ends a transaction whose session is over.
func (t *transaction) lose(f *mail.Failure) {
	t.lost = f
	t.failOpen(f)
}

// failOpen gives f to every recipient that has not failed yet.
func (t *transaction) failOpen(f *mail.Failure) {
	for i := range t.failures {
		if t.failures[i] == nil {
			t.failures[i] = f
		}
	}
}

// deliver runs one attempt. Without outcomes the session was not fit for the
// message, and nothing was said of it.
func (hc *hopConn) deliver(a mail.Attempt) (outcomes []mail.Outcome, p passage) {
	need := needsOf(a)
	if f := hc.cannotTake(a, need); f != nil {
		if f.Kind == mail.TLSRequired { // RFC 8689 section 4.2.1: then on to the next host
			f.Remote = hc.host
			return nil, passage{unfit: f}
		}
		return hc.sameOutcome(len(a.Envelope.Recipients), f), p
	}
	chunked := hc.chunked(a, need)
	t, untouched := hc.envelope(a.Envelope, hc.mailCommand(a.Envelope, &need), !chunked)
	p.stale = untouched
	if t.lost != nil || t.accepted == 0 && !t.goAhead || !t.goAhead && !chunked {
		return hc.outcomes(t), p
	}
	if t.accepted == 0 {
		// A server that wants content for nobody (RFC 2920 section 3.1): it gets
		// none.
		hc.broken = true
		return hc.outcomes(t), p
	}
	if err := hc.inStep(); err != nil {
		t.failOpen(hc.earlyRefusal(err))
		return hc.outcomes(t), p
	}
	faults.Point("smtp.recipients-taken")
	send := hc.sendContent
	if chunked {
		send = hc.sendChunks
	}
	if f := send(a); f != nil {
		t.failOpen(f)
		return hc.outcomes(t), p
	}
	out := hc.verdicts(t)
	hc.noteSuccess(a.Envelope, out)
	faults.Point("smtp.after-reply")
	return out, p
}

// noteSuccess says of delivered recipients whose the report of success is.
func (hc *hopConn) noteSuccess(env mail.Envelope, out []mail.Outcome) {
	for i := range out {
		if out[i].Failure != nil {
			continue
		}
		out[i].Relayed = !hc.caps.dsn && !hc.lmtp
		out[i].Final = !hc.caps.dsn && hc.lmtp
		out[i].Undated = env.DeliverBy != nil && !hc.lmtp && !hc.caps.deliverBy
	}
}

// envelope sends MAIL, RCPT for each recipient and, if data, DATA: in groups
// where the next hop offers PIPELINING, else one by one.
func (hc *hopConn) envelope(env mail.Envelope, mailCommand string, data bool) (t *transaction, untouched bool) {
	t = &transaction{env: env, failures: make([]*mail.Failure, len(env.Recipients))}
	commands := len(env.Recipients) + 1
	if data {
		commands++
	}
	group := 1
	if hc.caps.pipelining {
		group = groupSize
	}
	sent := 0
	for i := range commands {
		if i == sent {
			if t.hopeless(i) {
				break
			}
			sent = min(i+group, commands)
			if err := hc.writeCommands(t, mailCommand, i, sent); err != nil {
				t.lose(hc.lost(err))
				return t, i == 0
			}
		}
		wait := hc.times.Command
		if i > len(env.Recipients) {
			wait = hc.times.DataStart
		}
		r, err := hc.reply(wait)
		switch {
		case err != nil:
			t.lose(hc.lost(err))
		case r.code == 421:
			t.lose(hc.refused(r))
		default:
			hc.take(t, i, r)
		}
		if t.lost != nil {
			return t, i == 0
		}
	}
	return t, false
}

// writeCommands sends the commands of index from to before end.
func (hc *hopConn) writeCommands(t *transaction, mailCommand string, from, end int) error {
	if err := hc.inStep(); err != nil {
		return err
	}
	for i := from; i < end; i++ {
		switch {
		case i == 0:
			hc.bw.WriteString(mailCommand)
		case i <= len(t.env.Recipients):
			hc.bw.WriteString(hc.rcptCommand(t.env.Recipients[i-1]))
		default:
			hc.bw.WriteString("DATA\r\n")
		}
	}
	if err := hc.bw.Flush(); err != nil {
		hc.broken = true
		return err
	}
	return nil
}

// take reads the reply to the command of index i.
func (hc *hopConn) take(t *transaction, i int, r hopReply) {
	isData := i == len(t.env.Recipients)+1
	switch {
	case r.code < 400 && (isData && r.code != 354 || !isData && !r.positive()):
		hc.broken = true
		t.lose(hc.lost(outOfPlace(r)))
	case i == 0 && r.positive():
		hc.open = true
	case i == 0:
		t.sender = hc.refused(r)
		t.failOpen(t.sender)
	case isData && r.code == 354:
		t.goAhead = true
	case isData:
		t.failOpen(hc.refused(r))
	case t.sender != nil:
	case r.positive():
		t.accepted++
	default:
		t.failures[i-1] = hc.refusedRecipient(r, t.accepted)
	}
}

// outOfPlace is the error for a reply that no command could have led to.
func outOfPlace(r hopReply) error {
	return fmt.Errorf("%w: code %d out of place", errMalformedReply, r.code)
}

// copyBuffers holds buffers for content that is not in memory.
var copyBuffers = sync.Pool{New: func() any { b := make([]byte, 64<<10); return &b }}

// sendContent writes trace and content, dot-stuffed, and the final dot.
func (hc *hopConn) sendContent(a mail.Attempt) *mail.Failure {
	hc.broken = true // until all of it is out
	in, err := a.Content.Open()
	if err != nil {
		return mail.Fail(mail.Internal, "", fmt.Errorf("open content: %w", err))
	}
	defer in.Close()
	d := &dotWriter{w: hc.bw}
	if _, err = d.Write(a.Trace); err == nil {
		err = copyContent(d, in, a.Content.Size())
	}
	if err == nil {
		err = d.finishLine()
	}
	if err == nil {
		faults.Point("smtp.before-dot")
		hc.bw.Write(finalDot)
		// Where writing fails, its last octets have not gone out, so the dot is
		// not complete: no doubt yet.
		err = hc.bw.Flush()
	}
	if err != nil {
		return hc.contentFailure(err)
	}
	faults.Point("smtp.after-dot")
	hc.broken = false
	return nil
}

// contentFailure is for content that did not get out whole. Its end has not
// been written, hence nothing was handed over.
func (hc *hopConn) contentFailure(err error) *mail.Failure {
	switch {
	case hc.writeErr != nil:
		return hc.earlyRefusal(hc.writeErr)
	case errors.Is(err, errNotCRLF):
		return mail.Fail(mail.NoConversion, "content with bare CR or LF cannot be sent by SMTP unchanged", err)
	}
	return mail.Fail(mail.Internal, "", fmt.Errorf("read content: %w", err))
}

// copyContent insists on all of the content: a short read must never look like
// its end.
func copyContent(d *dotWriter, in io.Reader, size int64) error {
	buf := copyBuffers.Get().(*[]byte)
	defer copyBuffers.Put(buf)
	n, err := io.CopyBuffer(d, in, *buf)
	if err == nil && n != size {
		return fmt.Errorf("content has %d octets instead of %d", n, size)
	}
	return err
}

// earlyRefusal looks for the reply of a server that refused before the end of
// the content, and tells of err if there is none.
func (hc *hopConn) earlyRefusal(err error) *mail.Failure {
	r, readErr := hc.reply(min(lateReplyTime, hc.times.DataEnd))
	hc.broken = true // whatever it said, content was under way
	if readErr == nil && r.code >= 400 {
		return hc.refused(r)
	}
	return hc.lost(err)
}

// verdicts reads what becomes of the accepted recipients: one reply for all in
// SMTP, one for each in LMTP, in the order of their RCPTs and repeated for a
// repeated address (RFC 2033 section 4.2). From the final dot on, no reply
// means doubt: the next hop may have taken the message.
func (hc *hopConn) verdicts(t *transaction) []mail.Outcome {
	outcomes := make([]mail.Outcome, len(t.failures))
	var r hopReply
	var doubt *mail.Failure
	asked := false
	for i, f := range t.failures {
		if f != nil {
			outcomes[i] = hc.outcome(f, hopReply{})
			continue
		}
		if doubt == nil && (hc.lmtp || !asked) {
			var err error
			if r, err = hc.reply(hc.times.DataEnd); err == nil && r.code < 400 && !r.positive() {
				err = outOfPlace(r)
			}
			if err != nil {
				hc.broken = true
				doubt = mail.Fail(mail.Doubtful, "", err)
				doubt.Remote = hc.host
			}
			asked = true
		}
		switch {
		case doubt != nil:
			outcomes[i] = hc.outcome(doubt, hopReply{})
		case r.positive():
			outcomes[i] = hc.outcome(nil, r)
		default:
			outcomes[i] = hc.outcome(hc.refused(r), r)
		}
	}
	hc.open = false // RFC 5321 section 4.1.1.4: the final dot ends the transaction
	return outcomes
}

// outcomes tells each recipient's failure of a transaction that did not get as
// far as content.
func (hc *hopConn) outcomes(t *transaction) []mail.Outcome {
	out := make([]mail.Outcome, len(t.failures))
	for i, f := range t.failures {
		out[i] = hc.outcome(f, hopReply{})
	}
	return out
}

func (hc *hopConn) sameOutcome(n int, f *mail.Failure) []mail.Outcome {
	out := make([]mail.Outcome, n)
	for i := range out {
		out[i] = hc.outcome(f, hopReply{})
	}
	return out
}

func (hc *hopConn) outcome(f *mail.Failure, r hopReply) mail.Outcome {
	o := mail.Outcome{Failure: f, Remote: hc.host, Text: r.text(), Proof: hc.proof, TLS: hc.tls}
	if f != nil {
		o.Text = f.Text
		return o
	}
	o.RemoteID = r.queueID()
	return o
}
