package demo

import (
	"crypto/tls"
	"errors"
	"io"
	"log"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/emersion/go-smtp"

	"mailxmppd/mail"
)

// arrival is one message in one recipient's final mailbox, as the next hop
// handed it over.
type arrival struct {
	domain string
	from   string // reverse-path without brackets, "" for the null one
	rcpt   string
	file   string
}

// mailbox is where a domain's mail ends: an LMTP server beside a gateway, or
// the SMTP server of a domain that has none. It is made with go-smtp, not with
// the gateway's own code, so that an independent peer judges what the gateway
// sends. It writes what it gets and never de-duplicates.
type mailbox struct {
	domain  string
	addr    string
	users   []string
	dir     *maildir
	arrived func(arrival) // called before the client hears that the message was taken
	server  *smtp.Server
	ln      net.Listener
	done    sync.WaitGroup
}

// mailboxSpec describes a mailbox server.
type mailboxSpec struct {
	domain  string
	users   []string
	path    string      // of the Maildir
	lmtp    bool        // else SMTP
	tls     *tls.Config // offered with STARTTLS; nil for none
	log     io.Writer
	arrived func(arrival)
}

// Bounds of a mailbox server. A line may be as long as a message: where long
// lines are to be refused, the gateways refuse them.
const (
	mailboxMessage = 64 << 20
	mailboxTimeout = 2 * time.Minute
)

func startMailbox(spec mailboxSpec) (*mailbox, error) {
	dir, err := newMaildir(spec.path)
	if err != nil {
		return nil, err
	}
	ln, _, err := listen(false)
	if err != nil {
		return nil, err
	}
	m := &mailbox{
		domain:  spec.domain,
		addr:    ln.Addr().String(),
		users:   spec.users,
		dir:     dir,
		arrived: spec.arrived,
		ln:      ln,
	}
	s := smtp.NewServer(smtp.BackendFunc(func(c *smtp.Conn) (smtp.Session, error) {
		return &mailboxSession{mailbox: m, conn: c}, nil
	}))
	s.LMTP = spec.lmtp
	s.Domain = "mx." + spec.domain
	s.TLSConfig = spec.tls
	s.MaxMessageBytes, s.MaxLineLength = mailboxMessage, mailboxMessage
	s.ReadTimeout, s.WriteTimeout = mailboxTimeout, mailboxTimeout
	s.EnableSMTPUTF8, s.EnableDSN = true, true
	s.ErrorLog = log.New(spec.log, spec.domain+" mailbox: ", log.LstdFlags)
	m.server = s
	m.done.Go(func() { s.Serve(ln) })
	return m, nil
}

// knows reports whether a mailbox of this name exists, its detail (RFC 5233:
// "user+detail") left out.
func (m *mailbox) knows(a mail.Address) bool {
	user, _, _ := strings.Cut(strings.ToLower(a.Local), "+")
	return a.Domain == m.domain && slices.Contains(m.users, user)
}

func (m *mailbox) close() error {
	err := errors.Join(m.server.Close(), ignoreClosed(m.ln.Close()))
	m.done.Wait()
	return err
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// mailboxSession is one connection.
type mailboxSession struct {
	mailbox *mailbox
	conn    *smtp.Conn
	from    string
	rcpts   []string
}

// Mail starts a transaction. go-smtp takes a second MAIL without a RSET, so the
// recipients of the first are forgotten here.
func (s *mailboxSession) Mail(from string, _ *smtp.MailOptions) error {
	s.from, s.rcpts = from, nil
	return nil
}

func (s *mailboxSession) Rcpt(to string, _ *smtp.RcptOptions) error {
	a, err := mail.ParseAddress(to)
	if err != nil {
		return &smtp.SMTPError{Code: 553, EnhancedCode: smtp.EnhancedCode{5, 1, 3}, Message: "Not a mailbox"}
	}
	if !s.mailbox.knows(a) {
		return &smtp.SMTPError{Code: 550, EnhancedCode: smtp.EnhancedCode{5, 1, 1}, Message: "No such mailbox at " + s.mailbox.domain}
	}
	s.rcpts = append(s.rcpts, to)
	return nil
}

// Data takes the message. After an error of the reader go-smtp would read the
// rest of the body as commands: the connection ends instead.
func (s *mailboxSession) Data(r io.Reader) error {
	box, err := s.mailbox.dir.receive(r)
	if err != nil {
		s.conn.Conn().Close()
		return &smtp.SMTPError{Code: 451, EnhancedCode: smtp.EnhancedCode{4, 3, 0}, Message: "Message was not received whole"}
	}
	defer box.discard()
	for _, rcpt := range s.rcpts {
		file, err := box.deliver()
		if err != nil {
			return &smtp.SMTPError{Code: 451, EnhancedCode: smtp.EnhancedCode{4, 3, 0}, Message: "Mailbox cannot be written"}
		}
		s.mailbox.arrived(arrival{domain: s.mailbox.domain, from: s.from, rcpt: rcpt, file: file})
	}
	return nil
}

func (s *mailboxSession) Reset() { s.from, s.rcpts = "", nil }

func (s *mailboxSession) Logout() error { return nil }
