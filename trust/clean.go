package trust

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strings"

	"mailxmppd/mail"
	"mailxmppd/trust/authres"
)

// What others write in our name would be believed by a recipient's mail client:
// Authentication-Results with our authserv-id (RFC 8601 section 5), and every
// verdict. It goes at final delivery; all other octets stay as they are.

// maxGathered bounds how much of a field is kept to see whose it is: enough for
// the authserv-id and any comment around it. What is longer without having told
// is nobody's, and goes.
const maxGathered = 16 << 10

// Clean returns trace and content without the fields that pose as ours. The
// content is read up to the end of its header here, and filtered whenever it is
// opened later; where there is nothing to take out, it is returned itself.
func (j *Judge) Clean(trace []byte, content mail.Content) ([]byte, mail.Content, error) {
	hostname := j.cfg.Evaluator.conf.Hostname
	c := newCleaner(bytes.NewReader(trace), hostname)
	clean, err := io.ReadAll(c)
	if err != nil {
		return nil, nil, err
	}
	if c.removed == 0 {
		clean = trace
	}
	rc, err := content.Open()
	if err != nil {
		return nil, nil, err
	}
	defer rc.Close()
	c = newCleaner(rc, hostname)
	if err := c.header(); err != nil {
		return nil, nil, err
	}
	if c.removed > 0 {
		content = cleaned{content, hostname, content.Size() - c.removed}
	}
	return clean, content, nil
}

// Poses reports whether a field of a message poses as ours, for a mail server
// that takes fields out itself. value is what follows the colon, folded or not.
func (j *Judge) Poses(name, value string) bool {
	c := cleaner{hostname: j.cfg.Evaluator.conf.Hostname}
	return c.suspect([]byte(name)) && c.posesAsOurs([]byte(name+":"+value))
}

// cleaned is content without the fields that pose as ours.
type cleaned struct {
	mail.Content
	hostname string
	size     int64
}

// Open returns a reader over what is left.
func (c cleaned) Open() (io.ReadCloser, error) {
	rc, err := c.Content.Open()
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{newCleaner(rc, c.hostname), rc}, nil
}

// Size returns the number of octets that Open's reader gives.
func (c cleaned) Size() int64 { return c.size }

// cleaner copies a message but for the fields that pose as ours. Memory for a
// field is bounded; of most nothing is kept.
type cleaner struct {
	in       *bufio.Reader
	hostname string
	out      []byte // to be read before anything else
	dropping bool   // of the field in hand
	inBody   bool
	whole    bool // the last piece ended its line
	removed  int64
	err      error
}

func newCleaner(r io.Reader, hostname string) *cleaner {
	return &cleaner{in: bufio.NewReaderSize(r, 8<<10), hostname: hostname, whole: true}
}

// Read implements io.Reader.
func (c *cleaner) Read(p []byte) (int, error) {
	for len(c.out) == 0 && !c.inBody && c.err == nil {
		c.next()
	}
	switch {
	case len(c.out) > 0:
		n := copy(p, c.out)
		c.out = c.out[n:]
		return n, nil
	case c.err != nil:
		return 0, c.err
	}
	return c.in.Read(p)
}

// header reads up to the end of the header, for the count of what goes.
func (c *cleaner) header() error {
	for !c.inBody && c.err == nil {
		c.next()
	}
	if c.err == io.EOF {
		return nil
	}
	return c.err
}

// next takes the next line, a piece of a long one, or a field whose name is one
// that others must not use.
func (c *cleaner) next() {
	piece, start := c.piece()
	switch {
	case !start || len(piece) > 0 && (piece[0] == ' ' || piece[0] == '\t'):
		c.decide(piece, c.dropping)
	case isLineEnd(piece):
		c.dropping, c.inBody = false, true
		c.out = piece
	case c.suspect(piece):
		field := c.gather(piece)
		c.dropping = c.posesAsOurs(field)
		c.decide(field, c.dropping)
	default:
		c.dropping = false
		c.out = piece
	}
}

func (c *cleaner) decide(piece []byte, drop bool) {
	if drop {
		c.removed += int64(len(piece))
		return
	}
	c.out = piece
}

// piece reads to the end of a line, or as much as the buffer holds of it. start
// says that a line begins with it. The octets are valid until the next call.
func (c *cleaner) piece() (piece []byte, start bool) {
	start = c.whole
	piece, err := c.in.ReadSlice('\n')
	c.whole = !errors.Is(err, bufio.ErrBufferFull)
	if err != nil && c.whole {
		c.err = err
	}
	return piece, start
}

func isLineEnd(line []byte) bool { return string(line) == "\r\n" || string(line) == "\n" }

// suspect reports whether a line may begin a field of a name that we look for.
// Some readers take white space before the colon, or unfold first and look for
// the colon then (RFC 5322 section 4.5 has the former).
func (c *cleaner) suspect(line []byte) bool {
	name, _, _ := bytes.Cut(line, []byte(":"))
	n := strings.ToLower(strings.Trim(string(name[:min(len(name), 200)]), " \t\r\n"))
	return n == verdictName || n == resultsName
}

var verdictName = strings.ToLower(mail.VerdictField)

const resultsName = "authentication-results"

// gather collects a whole field, or as much of it as is needed to judge it.
func (c *cleaner) gather(first []byte) []byte {
	field := bytes.Clone(first)
	for c.err == nil && len(field) < maxGathered {
		if c.whole {
			if b, err := c.in.Peek(1); err != nil || b[0] != ' ' && b[0] != '\t' {
				break
			}
		}
		piece, _ := c.piece()
		field = append(field, piece...)
	}
	return field
}

// posesAsOurs judges a field of one of the two names. Whose a field of results
// is that nobody can read, a mail client might guess.
func (c *cleaner) posesAsOurs(field []byte) bool {
	name, value, ok := strings.Cut(string(field), ":")
	if !ok {
		return false // no field; what follows is no continuation of one
	}
	if strings.Trim(strings.ToLower(name), " \t\r\n") == verdictName {
		return true
	}
	id, ok := authres.ServID(value)
	if !ok {
		return true
	}
	// What may stand behind the name, such as a version after a slash, does not
	// make it another host's.
	if i := strings.IndexFunc(id, func(r rune) bool { return r < 0x80 && !isHostByte(byte(r)) }); i >= 0 {
		id = id[:i]
	}
	return canonicalHost(id) == canonicalHost(c.hostname)
}

func isHostByte(b byte) bool {
	return b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9' || b == '-' || b == '.' || b == '_'
}

// canonicalHost is the form in which names are compared.
func canonicalHost(s string) string {
	s = strings.TrimRight(s, ".")
	if d, err := mail.ParseDomain(s); err == nil {
		return d
	}
	return strings.ToLower(s)
}
