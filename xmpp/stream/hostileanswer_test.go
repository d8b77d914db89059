package stream

import (
	"context"
	"crypto/tls"
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestSpoofedAnswers: an answer counts only from whom it was asked.
func TestSpoofedAnswers(t *testing.T) {
	capulet, connect := mallory(t)
	r := connect()
	l := liveAt(t, capulet, "capulet.example", "mallory.example")
	answer := make(chan string, 1)
	go func() {
		el, err := l.Request(context.Background(), "get", echoPayload("x"))
		if err != nil {
			answer <- err.Error()
			return
		}
		answer <- string(el.Text)
	}()
	id := r.next().Attr("id")
	if len(id) < 16 {
		t.Errorf("id %q can be guessed", id)
	}
	reply := func(id, from, to, text string) {
		r.send(fmt.Sprintf("<iq type='result' id='%s' from='%s' to='%s'><echo xmlns='urn:test'>%s</echo></iq>", id, from, to, text))
	}
	reply(id, "montague.example", "capulet.example", "from another domain")
	reply(id, "a@mallory.example", "capulet.example", "from a user")
	reply(id, "mallory.example", "verona.example", "to another domain")
	reply(id+"x", "mallory.example", "capulet.example", "another id")
	reply(strings.ToUpper(id), "mallory.example", "capulet.example", "the id in capitals")
	reply("", "mallory.example", "capulet.example", "no id")
	r.send("<message type='error' id='" + id + "'" + addressed + "/>") // no answer, whatever its id
	r.send("<presence id='" + id + "'" + addressed + "/>")
	r.send("<iq type='get' id='" + id + "'" + addressed + "><ping xmlns='urn:xmpp:ping'/></iq>") // a request with that id
	if el := r.next(); el.Attr("type") != "result" {
		t.Error("request with our id refused")
	}
	select {
	case got := <-answer:
		t.Fatal("taken as the answer:", got)
	default:
	}
	reply(id, "mallory.example", "capulet.example", "right")
	reply(id, "mallory.example", "capulet.example", "again")
	if got := <-answer; got != "right" {
		t.Error("answer:", got)
	}
	r.mustPing()
	if s := capulet.Snapshot(); s.StrayAnswers != 7 {
		t.Errorf("%+v", s)
	}
}

// TestCollidingIDs: a request is known by who asked whom, not by its id alone.
func TestCollidingIDs(t *testing.T) {
	ca := newAuthority(t)
	capulet := startNode(t, ca, map[string]*tls.Certificate{"capulet.example": ca.issue("capulet.example")})
	asked := func(name string) (*rawPeer, string, <-chan string) {
		r := dialRaw(t, capulet, "capulet.example", ca.issue(name)).ready(name, "capulet.example")
		l := liveAt(t, capulet, "capulet.example", name)
		answer := make(chan string, 1)
		go func() {
			el, err := l.Request(context.Background(), "get", echoPayload("x"))
			if err != nil {
				answer <- err.Error()
				return
			}
			answer <- string(el.Text)
		}()
		return r, r.next().Attr("id"), answer
	}
	reply := func(r *rawPeer, from, id, text string) {
		r.send("<iq type='result' id='" + id + "' from='" + from + "' to='capulet.example'><echo xmlns='urn:test'>" + text + "</echo></iq>")
	}
	mallory, malloryID, malloryAnswer := asked("mallory.example")
	tybalt, tybaltID, tybaltAnswer := asked("tybalt.example")
	// Each answers the other's question on its own stream, in its own name.
	reply(mallory, "mallory.example", tybaltID, "of mallory")
	reply(tybalt, "tybalt.example", malloryID, "of tybalt")
	// And in the other's name.
	reply(mallory, "tybalt.example", tybaltID, "of mallory, forged")
	eventually(t, "three strays", func() bool { return capulet.Snapshot().StrayAnswers == 3 })
	reply(tybalt, "tybalt.example", tybaltID, "right")
	reply(mallory, "mallory.example", malloryID, "right")
	if a, b := <-malloryAnswer, <-tybaltAnswer; a != "right" || b != "right" {
		t.Error(a, b)
	}

	// Requests of the peer with one id are answered one by one.
	mallory.send(strings.Repeat("<iq type='get' id='1'"+addressed+"><echo xmlns='urn:test'/></iq>", 3))
	for range 3 {
		if el := mallory.next(); el.Attr("type") != "result" || el.Attr("id") != "1" {
			t.Error(el.Attrs)
		}
	}
}

// TestAnswersOverAnotherStream: of the same pair, whoever opened it and with
// bidi or without. It is a sign of life of the stream that asked.
func TestAnswersOverAnotherStream(t *testing.T) {
	ca := newAuthority(t)
	capulet := startNode(t, ca, map[string]*tls.Certificate{"capulet.example": ca.issue("capulet.example")})
	cert := ca.issue("montague.example")
	asked := dialRaw(t, capulet, "capulet.example", cert).ready("montague.example", "capulet.example")
	l := liveAt(t, capulet, "capulet.example", "montague.example")
	for name, open := range map[string]func() *rawPeer{
		"bidi": func() *rawPeer {
			return dialRaw(t, capulet, "capulet.example", cert).ready("montague.example", "capulet.example")
		},
		"one way": func() *rawPeer { return dialOrdinary(t, capulet, cert) },
	} {
		t.Run(name, func(t *testing.T) {
			before := capulet.Snapshot()
			other := open()
			result := make(chan error, 1)
			go func() {
				el, err := l.Request(context.Background(), "get", echoPayload("x"))
				if err == nil && !el.Is("urn:test", "echo") {
					err = fmt.Errorf("answer %v", el.Name)
				}
				result <- err
			}()
			el := asked.next()
			for !el.Children[0].Is("urn:test", "echo") { // a ping, when the other came
				other.send("<iq type='result' id='" + el.Attr("id") + "'" + fromMontague + "/>")
				el = asked.next()
			}
			answer := "<iq type='result' id='" + el.Attr("id") + "'" + fromMontague + "><echo xmlns='urn:test'/></iq>"
			other.send(answer + answer)
			if err := <-result; err != nil {
				t.Fatal(err)
			}
			eventually(t, "the second is a stray", func() bool { return capulet.Snapshot().StrayAnswers == before.StrayAnswers+1 })
			if l.doubtful() {
				t.Error("no sign of life")
			}
			other.conn.NetConn().Close()
		})
	}
}

// TestAsksWithoutReading: answers that are not read fill the room for them,
// and then the link ends instead of holding more.
func TestAsksWithoutReading(t *testing.T) {
	capulet, connect := mallory(t, func(c *Config) {
		c.MaxOutBytes = 64 << 10
		c.CloseTimeout = 100 * time.Millisecond
	})
	r := connect()
	ping := strings.Repeat("<iq type='get' id='1'"+addressed+"><ping xmlns='urn:xmpp:ping'/></iq>", 1000)
	for range 1000 {
		if _, err := r.conn.Write([]byte(ping)); err != nil {
			break
		}
	}
	eventually(t, "link ended", func() bool { return capulet.Live("capulet.example", "mallory.example") == nil })
	if s := capulet.Snapshot(); s.StreamErrors != 1 {
		t.Errorf("%+v", s)
	}
}
