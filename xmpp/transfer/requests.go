package transfer

import (
	"mailxmppd/mail"
	"mailxmppd/xmpp/wire"
)

// The requests besides offer, written and read.

func encodeCheck(sender mail.Address, utf8 bool, rcpts []rcpt) ([]byte, error) {
	e := wire.NewEncoder(nil)
	e.Start("check", Namespace)
	e.Attr("sender", sender.String())
	optionalTrue(e, "smtputf8", utf8)
	encodeTo(e, rcpts)
	e.End()
	return e.Bytes()
}

func decodeCheck(p *wire.Element) (mail.Envelope, []rcpt, *mail.Failure) {
	r := &reader{}
	r.only(p, "sender smtputf8", "rcpt")
	env := mail.Envelope{Sender: r.sender(p), SMTPUTF8: r.flag(p, "smtputf8")}
	rcpts := r.rcpts(p, "to")
	return env, rcpts, r.err
}

func encodeStatus(tid string, rcpts []rcpt) ([]byte, error) {
	e := wire.NewEncoder(nil)
	e.Start("status", Namespace)
	e.Attr("tid", tid)
	encodeTo(e, rcpts)
	e.End()
	return e.Bytes()
}

func decodeStatus(p *wire.Element) (tid string, rcpts []rcpt, f *mail.Failure) {
	r := &reader{}
	r.only(p, "tid", "rcpt")
	tid, rcpts = r.tid(p), r.rcpts(p, "to")
	return tid, rcpts, r.err
}

// encodeTo writes recipients by their mailbox alone.
func encodeTo(e *wire.Encoder, rcpts []rcpt) {
	for _, r := range rcpts {
		e.Start("rcpt", "")
		e.Attr("to", r.to)
		e.End()
	}
}

// encodeChunk appends to buf.
func encodeChunk(buf []byte, tid string, offset int64, piece []byte) ([]byte, error) {
	e := wire.NewEncoder(buf)
	e.Start("chunk", Namespace)
	e.Attr("tid", tid)
	e.AttrInt("offset", offset)
	e.Base64(piece)
	e.End()
	return e.Bytes()
}

// Binary are the elements that carry content: a parser decodes them on the way
// (wire.Parser.DecodeInPlace).
func Binary() []wire.Name {
	return []wire.Name{{Space: Namespace, Local: "chunk"}, {Space: Namespace, Local: "content"}}
}

// decodeChunk returns the piece in the memory of p.Text.
func decodeChunk(p *wire.Element) (tid string, offset int64, piece []byte, f *mail.Failure) {
	r := &reader{}
	r.only(p, "tid offset")
	tid, offset = r.tid(p), r.count(p, "offset")
	piece, err := p.Base64()
	if err != nil || len(piece) == 0 {
		r.fail("chunk: not base64, or empty")
	}
	return tid, offset, piece, r.err
}

// encodeTID and decodeTID are for commit and abort, which have nothing else.
func encodeTID(name, tid string) ([]byte, error) {
	e := wire.NewEncoder(nil)
	e.Start(name, Namespace)
	e.Attr("tid", tid)
	e.End()
	return e.Bytes()
}

func decodeTID(p *wire.Element) (string, *mail.Failure) {
	r := &reader{}
	r.only(p, "tid")
	tid := r.tid(p)
	return tid, r.err
}
