package smtpbridge

import (
	"strings"

	"mailxmppd/mail"
)

// milterMessage puts the message together that a neighbour tells piece by
// piece, octet for octet as its client sent it: the fields, the line between,
// the body.
type milterMessage struct {
	env    mail.Envelope
	rcpts  []string // of env, as the neighbour writes them
	buffer *mail.Buffer
	guard  contentGuard
	max    int64
	names  map[string]int // how many fields of a lower-case name there were
	poses  []fieldAt      // fields to be taken out, from the top
}

// fieldAt is the n-th field of a name, counted from 1.
type fieldAt struct {
	name string
	n    int
}

func newMilterMessage(cfg MilterConfig, sender mail.Address) *milterMessage {
	// Of the body every octet is taken: how its lines end is between the
	// neighbour and its client, and the neighbour keeps the message.
	return &milterMessage{
		env: mail.Envelope{Sender: sender}, buffer: mail.NewBuffer(cfg.TempDir), max: cfg.Limits.MaxSize,
		guard: newContentGuard(cfg.Limits, true, false), names: map[string]int{},
	}
}

// field takes a header field. The neighbour writes the ends of its lines as LF,
// and its value with the space before it.
func (m *milterMessage) field(name, value string) *mail.Failure {
	value = strings.ReplaceAll(strings.ReplaceAll(value, "\r\n", "\n"), "\n", "\r\n")
	return m.write([]byte(name + ":" + value + "\r\n"))
}

// note counts a field, and remembers one that must not go on. The names are as
// many as the header may have lines.
func (m *milterMessage) note(j Judge, name, value string) {
	key := strings.ToLower(strings.TrimRight(name, " \t"))
	m.names[key]++
	if j.Poses(name, value) {
		m.poses = append(m.poses, fieldAt{key, m.names[key]})
	}
}

// endHeader takes the empty line. RFC 5321 section 4.5.5 has notifications,
// which have a null reverse-path, sent to one recipient each; who sends them to
// many forges them.
func (m *milterMessage) endHeader() *mail.Failure {
	if m.env.Sender.IsNull() && len(m.env.Recipients) > 1 {
		return mail.Fail(mail.NotPermitted, "a notification has one recipient", nil).WithStatus("5.5.3")
	}
	return m.write([]byte("\r\n"))
}

func (m *milterMessage) body(chunk []byte) *mail.Failure { return m.write(chunk) }

func (m *milterMessage) write(p []byte) *mail.Failure {
	if m.buffer.Size()+int64(len(p)) > m.max {
		return mail.Failf(mail.TooLarge, "message is larger than %d octets", m.max)
	}
	m.guard.all(p)
	if refused := m.guard.refused; refused != nil {
		return mail.FromReply("", refused.reply.code, refused.reply.status, refused.reply.text)
	}
	if _, err := m.buffer.Write(p); err != nil {
		reply := sinkReply(err)
		f := mail.FromReply("", reply.code, reply.status, reply.text)
		f.Cause = err
		return f
	}
	return nil
}
