package contacts

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/quotedprintable"
	"strings"

	"github.com/ProtonMail/go-crypto/openpgp/clearsign"

	"mailxmppd/mail"
	"mailxmppd/store"
	"mailxmppd/trust/header"
)

// Bounds of the walk through a message.
const (
	maxDepth     = 4        // multiparts inside of which a signed part is looked for
	maxSignature = 64 << 10 // octets of a signature, decoded or not
	maxClearText = 1 << 20  // of a text with a signature inside
	maxOpaque    = 4 << 20  // of an S/MIME object with its content inside
)

// signatureForm is how a message is signed.
type signatureForm int

const (
	unsigned  signatureForm = iota
	pgpMIME                 // RFC 3156 section 5
	cleartext               // RFC 9580 section 7
	detached                // S/MIME in multipart/signed, RFC 8551 section 3.5.3
	opaque                  // S/MIME with the content inside, RFC 8551 section 3.5.2
)

func (f signatureForm) kind() string {
	switch f {
	case pgpMIME, cleartext:
		return store.OpenPGP
	case detached, opaque:
		return store.SMIME
	}
	return ""
}

// signedPart is where in a message what is signed is.
type signedPart struct {
	form       signatureForm
	whole      bool   // it is all that is shown
	start, end int64  // the signed octets, in the content; or
	text       []byte // the signed octets themselves
	signature  []byte // armoured or binary OpenPGP packets, or CMS
	problem    string // why there is nothing to check although it looks signed
}

// scanner reads a message in lines and knows where it is.
type scanner struct {
	r    *bufio.Reader
	read *int64 // by r from the content
	// stops are the delimiters of the multiparts around, outermost first.
	stops []string
}

type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

func (s *scanner) offset() int64 { return *s.read - int64(s.r.Buffered()) }

// findSigned looks for the signed part. It descends only into what comes first,
// where those who add a footer or a warning put the message.
func findSigned(content mail.Content) (signedPart, error) {
	rc, err := content.Open()
	if err != nil {
		return signedPart{}, fmt.Errorf("content: %w", err)
	}
	defer rc.Close()
	c := &counter{r: rc}
	s := &scanner{r: bufio.NewReaderSize(c, 32<<10), read: &c.n}
	part, err := s.find(0)
	if errors.Is(err, header.ErrTooLarge) {
		return signedPart{problem: "signature not checked: the header is too large"}, nil
	}
	if err != nil {
		return signedPart{}, fmt.Errorf("content: %w", err)
	}
	part.whole = part.whole && len(s.stops) == 0
	return part, nil
}

// malformed is a part that nobody could verify.
func malformed() signedPart {
	return signedPart{problem: "the signature cannot be read"}
}

func (s *scanner) find(depth int) (signedPart, error) {
	h, err := header.Read(s.r)
	if err != nil {
		return signedPart{}, err
	}
	kind, params := "text/plain", map[string]string(nil)
	switch fields := h.All("content-type"); len(fields) {
	case 0:
	case 1:
		if kind, params, err = mime.ParseMediaType(fields[0].Unfolded()); err != nil {
			return signedPart{}, nil // no mail client finds a signature there
		}
	default:
		return signedPart{}, nil // which of them counts is anybody's guess
	}
	switch {
	case kind == "multipart/signed":
		return s.multipartSigned(params)
	case strings.HasPrefix(kind, "multipart/"):
		boundary := params["boundary"]
		if depth == maxDepth || boundary == "" {
			return signedPart{}, nil
		}
		s.stops = append(s.stops, boundary)
		if found, _, err := s.skip(nil, 0); err != nil || found != boundary {
			return signedPart{}, err
		}
		return s.find(depth + 1)
	case kind == "application/pkcs7-mime", kind == "application/x-pkcs7-mime":
		if t := strings.ToLower(params["smime-type"]); t != "" && t != "signed-data" {
			return signedPart{}, nil
		}
		return s.opaqueSigned(h)
	case kind == "text/plain":
		return s.clearSigned(h)
	}
	return signedPart{}, nil
}

// multipartSigned reads RFC 1847 section 2.1: exactly two parts, what is signed
// and the signature.
func (s *scanner) multipartSigned(params map[string]string) (signedPart, error) {
	var part signedPart
	switch strings.ToLower(params["protocol"]) {
	case "application/pgp-signature":
		part.form = pgpMIME
	case "application/pkcs7-signature", "application/x-pkcs7-signature":
		part.form = detached
	default:
		return signedPart{}, nil
	}
	boundary := params["boundary"]
	if boundary == "" {
		return malformed(), nil
	}
	outer := s.stops
	s.stops = append(s.stops[:len(s.stops):len(s.stops)], boundary)
	defer func() { s.stops = outer }()

	if found, closed, err := s.skip(nil, 0); err != nil || found != boundary || closed {
		return malformed(), err
	}
	part.start = s.offset()
	found, closed, err := s.skipTo(&part.end, nil, 0)
	if err != nil || found != boundary || closed || part.end < part.start {
		return malformed(), err
	}
	var buf bytes.Buffer
	found, closed, err = s.skip(&buf, 2*maxSignature)
	if err != nil || found != boundary || !closed || buf.Len() > 2*maxSignature {
		return malformed(), err
	}
	r := bufio.NewReader(&buf)
	h, err := header.Read(r)
	if err != nil {
		return malformed(), nil
	}
	body, err := decoded(h, r, maxSignature)
	if err != nil {
		return malformed(), nil
	}
	part.signature, part.whole = body, true
	return part, nil
}

func (s *scanner) opaqueSigned(h header.Header) (signedPart, error) {
	var buf bytes.Buffer
	if _, _, err := s.skip(&buf, 2*maxOpaque); err != nil {
		return signedPart{}, err
	}
	if buf.Len() > 2*maxOpaque {
		return signedPart{problem: "signature not checked: too large for one with its content inside"}, nil
	}
	der, err := decoded(h, &buf, maxOpaque)
	if err != nil {
		return malformed(), nil
	}
	return signedPart{form: opaque, signature: der, whole: true}, nil
}

var clearMark = []byte("-----BEGIN PGP SIGNED MESSAGE-----")

func (s *scanner) clearSigned(h header.Header) (signedPart, error) {
	var buf bytes.Buffer
	if _, _, err := s.skip(&buf, 2*maxClearText); err != nil {
		return signedPart{}, err
	}
	text, err := decoded(h, bytes.NewReader(buf.Bytes()), maxClearText)
	at := bytes.Index(text, clearMark)
	switch {
	case at < 0:
		return signedPart{}, nil
	case err != nil || buf.Len() > 2*maxClearText:
		return signedPart{problem: "signature not checked: the signed text is too large"}, nil
	}
	block, rest := clearsign.Decode(text)
	if block == nil {
		return malformed(), nil
	}
	signature, err := io.ReadAll(io.LimitReader(block.ArmoredSignature.Body, maxSignature+1))
	if err != nil || len(signature) > maxSignature {
		return malformed(), nil
	}
	whole := len(bytes.TrimSpace(text[:at])) == 0 && len(bytes.TrimSpace(rest)) == 0
	return signedPart{form: cleartext, text: append([]byte{}, block.Bytes...), signature: signature, whole: whole}, nil
}

// skip reads up to the next delimiter line of any multipart around, or to the
// end, and says which it was and whether it closes the multipart. What is
// before goes to w, without the line break that belongs to the delimiter (RFC
// 2046 section 5.1.1), but no more than a little over max octets of it.
func (s *scanner) skip(w *bytes.Buffer, max int) (boundary string, closed bool, err error) {
	var end int64
	return s.skipTo(&end, w, max)
}

// skipTo is skip that also says where what was before the delimiter ends.
func (s *scanner) skipTo(end *int64, w *bytes.Buffer, max int) (boundary string, closed bool, err error) {
	fresh, pending := true, 0 // pending: octets of the last line's end
	for {
		at := s.offset()
		line, err := s.r.ReadSlice('\n')
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, bufio.ErrBufferFull) {
			return "", false, err
		}
		if fresh {
			if b, c, ok := s.delimiter(line); ok {
				*end = at - int64(pending)
				if w != nil && w.Len() >= pending {
					w.Truncate(w.Len() - pending)
				}
				return b, c, nil
			}
		}
		if w != nil && w.Len() <= max {
			w.Write(line)
		}
		if errors.Is(err, io.EOF) {
			*end = s.offset()
			return "", false, nil
		}
		pending = 0
		switch {
		case bytes.HasSuffix(line, []byte("\r\n")):
			pending = 2
		case bytes.HasSuffix(line, []byte("\n")):
			pending = 1
		}
		fresh = err == nil
	}
}

// delimiter tells whether a line is a delimiter of one of the multiparts
// around.
func (s *scanner) delimiter(line []byte) (boundary string, closed, ok bool) {
	text, ok := bytes.CutPrefix(line, []byte("--"))
	if !ok {
		return "", false, false
	}
	text = bytes.TrimRight(text, " \t\r\n")
	for _, b := range s.stops {
		switch rest, ok := bytes.CutPrefix(text, []byte(b)); {
		case ok && len(rest) == 0:
			return b, false, true
		case ok && string(rest) == "--":
			return b, true, true
		}
	}
	return "", false, false
}

// decoded undoes the transfer encoding (RFC 2045 section 6). With more than max
// octets there is an error, and what there is up to it.
func decoded(h header.Header, r io.Reader, max int) ([]byte, error) {
	encoding := ""
	if f := h.All("content-transfer-encoding"); len(f) > 0 {
		encoding = strings.ToLower(f[0].Unfolded())
	}
	switch encoding {
	case "base64":
		r = base64.NewDecoder(base64.StdEncoding, r)
	case "quoted-printable":
		r = quotedprintable.NewReader(r)
	}
	out, err := io.ReadAll(io.LimitReader(r, int64(max)+1))
	if err == nil && len(out) > max {
		err = errors.New("too large")
	}
	return out, err
}
