package demo

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"time"
)

// forgedSender is whom mallory claims to write for. Nothing may ever arrive
// from it.
const forgedSender = juliet + "+forged@" + capulet

// forgery connects to montague as mallory.example, proves that name with a good
// certificate, and offers mail from a capulet sender over that stream. Binding
// (xep-draft section 6) must refuse it: the reverse-path's domain is not the
// one that the stream has proven.
func (n *network) forgery(ctx context.Context) error {
	cert, err := n.ca.leaf(mallory)
	if err != nil {
		return err
	}
	to := romeo + "@" + montague
	answer, err := forge(ctx, n.gateways[1].xmpps, &tls.Config{
		RootCAs:      n.ca.roots,
		ServerName:   montague,
		Certificates: []tls.Certificate{cert.pair},
		NextProtos:   []string{"xmpp-server"},
	}, forgedSender, to)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	e := event{Step: "refused", From: forgedSender, To: to, Reply: answer.condition, Text: "the stream proved " + mallory + " and speaks for no other domain"}
	switch {
	case err != nil:
		e.Text, e.Reply = "the attempt itself failed: "+err.Error(), ""
	case answer.kind == "error" && answer.condition == "forbidden":
		e.OK = true
		n.refusals++
	default:
		e.Text = fmt.Sprintf("an iq of type %s, not an error with forbidden", answer.kind)
	}
	if !e.OK {
		n.problem("forged sender: %s", e.Text)
	}
	n.timeline.say(e)
	return nil
}

// forgeAnswer is what came back for the forged offer.
type forgeAnswer struct {
	kind      string // type of the iq
	condition string // of its stanza error
}

// Bounds of the conversation.
const (
	forgeWithin = 20 * time.Second
	forgeOctets = 64 << 10
)

// What mallory waits for. Its side of the conversation is fixed text: a program
// that does not care for the answers' details, as attackers are.
var (
	featuresEnd = regexp.MustCompile(`<stream:features[^>]*/>|</stream:features>`)
	saslSuccess = regexp.MustCompile(`<success[^>]*>`)
	iqAnswer    = regexp.MustCompile(`(?s)<iq [^>]*(?:\bid=['"]forged['"]|\btype=['"]get['"])[^>]*(?:/>|>.*?</iq>)`) // or a question of the peer's
	iqID        = regexp.MustCompile(`^<iq [^>]*\bid=['"]([^'"]+)['"]`)
	streamEnd   = regexp.MustCompile(`(?s)<stream:error.*?</stream:error>|</stream:stream>|<failure .*?</failure>`)
	iqType      = regexp.MustCompile(`^<iq [^>]*\btype=['"]([a-z]+)['"]`)
	iqCondition = regexp.MustCompile(`<([a-z-]+)[^>]*urn:ietf:params:xml:ns:xmpp-stanzas['"]`)
)

func forge(ctx context.Context, addr string, config *tls.Config, sender, rcpt string) (forgeAnswer, error) {
	ctx, cancel := context.WithTimeout(ctx, forgeWithin)
	defer cancel()
	conn, err := (&tls.Dialer{NetDialer: &net.Dialer{}, Config: config}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return forgeAnswer{}, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	t := &talk{conn: conn}
	t.exchange(openStream, featuresEnd)
	t.exchange("<bidi xmlns='urn:xmpp:bidi'/><auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'>=</auth>", saslSuccess)
	t.exchange(openStream, featuresEnd)
	iq := t.exchange(forgedOffer(sender, rcpt), iqAnswer)
	for t.err == nil && submatch(iqType, iq) == "get" {
		iq = t.exchange(noService(submatch(iqID, iq)), iqAnswer)
	}
	t.exchange("</stream:stream>", nil)
	answer := forgeAnswer{kind: submatch(iqType, iq), condition: submatch(iqCondition, iq)}
	return answer, t.err
}

const openStream = "<?xml version='1.0'?><stream:stream xmlns='jabber:server' xmlns:stream='http://etherx.jabber.org/streams'" +
	" from='" + mallory + "' to='" + montague + "' version='1.0'>"

// forgedOffer is an offer as in xep-draft section 5.2 with a small message.
func forgedOffer(sender, rcpt string) string {
	content := []byte("From: " + sender + "\r\nTo: " + rcpt + "\r\nSubject: I am Juliet, believe me\r\n\r\nSend the ring.\r\n")
	sum := sha256.Sum256(content)
	var tid [32]byte
	rand.Read(tid[:])
	return fmt.Sprintf("<iq type='set' from='%s' to='%s' id='forged'>"+
		"<offer xmlns='urn:xmpp:mail-transport:0' tid='%s' size='%d' sha-256='%s' sender='%s' hops='0'>"+
		"<rcpt to='%s'/><content>%s</content></offer></iq>",
		mallory, montague, hex.EncodeToString(tid[:]), len(content), base64.StdEncoding.EncodeToString(sum[:]), sender,
		rcpt, base64.StdEncoding.EncodeToString(content))
}

// noService answers the peer's question what mallory.example is: nothing that
// carries mail for other domains (xep-draft section 6.3). Without an answer the
// peer could only say that it does not know.
func noService(id string) string {
	return "<iq type='result' from='" + mallory + "' to='" + montague + "' id='" + id + "'>" +
		"<query xmlns='http://jabber.org/protocol/disco#info'/></iq>"
}

func submatch(re *regexp.Regexp, s string) string {
	if m := re.FindStringSubmatch(s); m != nil {
		return m[1]
	}
	return ""
}

// talk is a conversation whose first error ends it.
type talk struct {
	conn net.Conn
	read []byte // not yet matched
	err  error
}

// exchange writes text and returns what matches want in what comes back.
func (t *talk) exchange(text string, want *regexp.Regexp) string {
	if t.err != nil {
		return ""
	}
	if _, err := io.WriteString(t.conn, text); err != nil {
		if want != nil {
			t.err = err
		}
		return ""
	}
	for want != nil && t.err == nil {
		if at := want.FindIndex(t.read); at != nil {
			found := string(t.read[at[0]:at[1]])
			t.read = t.read[at[1]:]
			return found
		}
		if end := streamEnd.Find(t.read); end != nil {
			t.err = fmt.Errorf("the stream was refused: %.300s", end)
			return ""
		}
		t.more()
	}
	return ""
}

func (t *talk) more() {
	if len(t.read) > forgeOctets {
		t.err = errors.New("too long an answer")
		return
	}
	buf := make([]byte, 4096)
	n, err := t.conn.Read(buf)
	t.read = append(t.read, buf[:n]...)
	if err != nil && n == 0 {
		t.err = fmt.Errorf("the stream ended before the answer: %w", err)
	}
}
