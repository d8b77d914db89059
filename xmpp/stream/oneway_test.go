package stream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"mailxmppd/xmpp/wire"
)

const fromMontague = " from='montague.example' to='capulet.example'"

// withChatServer is capulet, and an ordinary server that it knows how to dial.
func withChatServer(t *testing.T, script func(*rawPeer), change ...func(*Config)) (*node, *chatServer) {
	ca := newAuthority(t)
	chat := startChatServer(t, ca.issue("montague.example"), ordinaryFeatures, "<stream:features/>", script)
	change = append([]func(*Config){func(c *Config) {
		c.Targets = func(_ context.Context, local, remote string) ([]Target, error) {
			if local != "capulet.example" || remote != "montague.example" {
				return nil, errors.New("other domains")
			}
			return chat.target(), nil
		}
	}}, change...)
	return startNode(t, ca, map[string]*tls.Certificate{"capulet.example": ca.issue("capulet.example")}, change...), chat
}

// TestOrdinaryServersAreAnswered: what an ordinary server asks over its own
// stream is answered over one of ours, and no mail is taken from it.
func TestOrdinaryServersAreAnswered(t *testing.T) {
	answers := make(chan *wire.Element, 10)
	handled := make(chan *IQ, 1)
	capulet, chat := withChatServer(t, forward(answers), func(c *Config) {
		c.Version = "1"
		c.Handle = func(_ context.Context, _ *Link, iq *IQ) Reply {
			handled <- iq
			return Reply{}
		}
	})
	r := dialOrdinary(t, capulet, chat.cert)
	for _, tt := range []struct{ name, in, typ, condition string }{
		{"ping", "<iq type='get' id='1'" + fromMontague + "><ping xmlns='urn:xmpp:ping'/></iq>", "result", ""},
		{"disco#info", "<iq type='get' id='1'" + fromMontague + "><query xmlns='" + nsDiscoInfo + "'/></iq>", "result", ""},
		{"version", "<iq type='get' id='1'" + fromMontague + "><query xmlns='" + nsVersion + "'/></iq>", "result", ""},
		{"ping of a user", "<iq type='get' id='1' from='romeo@montague.example/a' to='capulet.example'><ping xmlns='urn:xmpp:ping'/></iq>", "error", "service-unavailable"},
		{"mail", "<iq type='set' id='1'" + fromMontague + "><offer xmlns='urn:xmpp:mail-transport:0'/></iq>", "error", "service-unavailable"},
		{"chat", "<message id='1' from='romeo@montague.example' to='juliet@capulet.example'><body>o</body></message>", "error", "service-unavailable"},
		{"to a domain that is not on the stream", "<iq type='get' id='1' from='montague.example' to='verona.example'><ping xmlns='urn:xmpp:ping'/></iq>", "error", "item-not-found"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			defer bounded(t)()
			r.send(tt.in)
			el := take(t, answers)
			if el.Attr("type") != tt.typ || el.Attr("id") != "1" || !strings.HasPrefix(el.Attr("to"), "romeo@") && el.Attr("to") != "montague.example" {
				t.Fatalf("%s %+v", el.Name.Local, el.Attrs)
			}
			if tt.condition != "" && stanzaError(el).Condition != tt.condition {
				t.Error(stanzaError(el).Condition)
			}
		})
	}
	s := capulet.Snapshot()
	if len(handled) > 0 || s.Live != 0 || s.OneWay != 2 || s.Dialled != 1 || s.AnswersLost != 0 || s.RequestsReceived != 0 {
		t.Errorf("%+v", s)
	}
	if capulet.Live("capulet.example", "montague.example") != nil || len(capulet.logged()) > 0 {
		t.Error("a one-way stream counts as a link")
	}
	r.send("</stream:stream>")
	if c := r.streamError(); c != "" {
		t.Error("closed with", c)
	}
	if r.parser.Buffered() > 0 {
		t.Error("something was written on a stream that takes nothing")
	}
}

// TestAnswersOverALink: where there is a link with bidi, it takes the answers.
func TestAnswersOverALink(t *testing.T) {
	ca := newAuthority(t)
	capulet := startNode(t, ca, map[string]*tls.Certificate{"capulet.example": ca.issue("capulet.example")})
	cert := ca.issue("montague.example")
	link := dialRaw(t, capulet, "capulet.example", cert).ready("montague.example", "capulet.example")
	liveAt(t, capulet, "capulet.example", "montague.example")
	dialOrdinary(t, capulet, cert).send("<iq type='get' id='7'" + fromMontague + "><ping xmlns='urn:xmpp:ping'/></iq>")
	if el := link.next(); el.Attr("type") != "result" || el.Attr("id") != "7" {
		t.Fatal(el.Attrs)
	}
}

// TestAnswersThatCannotLeave: they are lost, counted, and bounded in number;
// the stream goes on.
func TestAnswersThatCannotLeave(t *testing.T) {
	asked := make(chan struct{}, 1000)
	capulet, chat := withChatServer(t, nil, func(c *Config) {
		c.CloseTimeout = 100 * time.Millisecond
		c.Targets = func(ctx context.Context, _, _ string) ([]Target, error) {
			asked <- struct{}{}
			<-ctx.Done()
			return nil, ctx.Err()
		}
	})
	r := dialOrdinary(t, capulet, chat.cert)
	r.send(strings.Repeat("<iq type='get' id='1'"+fromMontague+"><ping xmlns='urn:xmpp:ping'/></iq>", 1000))
	eventually(t, "those beyond the bound lost", func() bool { return capulet.Snapshot().AnswersLost == 1000-maxElsewhere })
	if len(asked) > maxElsewhere {
		t.Error("asked for targets", len(asked), "times")
	}
	r.send("</stream:stream>")
	r.streamError() // which is when the rest is given up
	eventually(t, "the rest lost", func() bool { return capulet.Snapshot().AnswersLost == 1000 })

	// Who is nowhere to be found is not looked for at each stanza.
	looked := make(chan struct{}, 1000)
	lost, chat := withChatServer(t, nil, func(c *Config) {
		c.BackOff = time.Hour
		c.Targets = func(context.Context, string, string) ([]Target, error) {
			looked <- struct{}{}
			return nil, nil
		}
	})
	r = dialOrdinary(t, lost, chat.cert)
	for i := range 50 {
		r.send("<iq type='get' id='1'" + fromMontague + "><ping xmlns='urn:xmpp:ping'/></iq>")
		eventually(t, "lost", func() bool { return lost.Snapshot().AnswersLost == int64(i+1) })
	}
	if len(looked) != 1 {
		t.Error("looked for", len(looked), "times")
	}

	alone, chat := withChatServer(t, nil, func(c *Config) { c.Targets = nil })
	dialOrdinary(t, alone, chat.cert).send("<iq type='get' id='1'" + fromMontague + "><ping xmlns='urn:xmpp:ping'/></iq>")
	eventually(t, "lost without a way to dial", func() bool { return alone.Snapshot().AnswersLost == 1 })
}

// TestProbe asks an ordinary server, which answers over a stream of its own.
// Whoever else sends that answer is not believed.
var infoQuery = []byte("<query xmlns='" + nsDiscoInfo + "'/>")

func TestProbe(t *testing.T) {
	questions := make(chan *wire.Element, 1)
	capulet, chat := withChatServer(t, forward(questions))
	result := make(chan string, 1)
	go func() {
		el, err := capulet.Probe(context.Background(), "capulet.example", "montague.example", chat.target(), infoQuery)
		if err != nil {
			result <- err.Error()
			return
		}
		result <- el.Child(nsDiscoInfo, "feature").Attr("var")
	}()
	q := take(t, questions)
	if q.Attr("type") != "get" || q.Attr("to") != "montague.example" || !q.Children[0].Is(nsDiscoInfo, "query") {
		t.Fatal(q.Attrs)
	}
	answer := func(from, feature string) string {
		return fmt.Sprintf("<iq type='result' id='%s' from='%s' to='capulet.example'><query xmlns='%s'><feature var='%s'/></query></iq>",
			q.Attr("id"), from, nsDiscoInfo, feature)
	}
	// mallory.example is proven too, but is not who was asked.
	r := dialOrdinary(t, capulet, chat.cert)
	r.send(answer("mallory.example", "spoofed"))
	r.send(answer("romeo@montague.example", "of a user"))
	r.send(strings.Replace(answer("montague.example", "another id"), "id='", "id='x", 1))
	r.send(answer("montague.example", "right"))
	r.send(answer("montague.example", "again"))
	if got := <-result; got != "right" {
		t.Fatal(got)
	}
	eventually(t, "strays counted", func() bool { return capulet.Snapshot().StrayAnswers == 4 })

	// What is asked again goes over the stream that is there, in spite of the
	// back-off for links.
	go func() {
		_, err := capulet.Probe(context.Background(), "capulet.example", "montague.example", chat.target(), infoQuery)
		result <- fmt.Sprint(err)
	}()
	q = take(t, questions)
	r.send("<iq type='error' id='" + q.Attr("id") + "'" + fromMontague + "><error type='cancel'><service-unavailable xmlns='" + nsStanzas + "'/></error></iq>")
	if got := <-result; got != "stanza error service-unavailable" {
		t.Fatal(got)
	}
	if s := capulet.Snapshot(); s.Dialled != 1 {
		t.Errorf("%+v", s)
	}
}

// TestProbeOfGateways goes over the link as any request.
func TestProbeOfGateways(t *testing.T) {
	capulet, montague, _ := twoNodes(t, func(c *Config) {
		c.DiscoInfo = func(local, _ string) []byte { return []byte("<feature var='" + local + "'/>") }
	})
	el, err := capulet.Probe(t.Context(), "capulet.example", "montague.example", montague.target(), infoQuery)
	if err != nil || el.Child(nsDiscoInfo, "feature").Attr("var") != "montague.example" {
		t.Fatal(el, err)
	}
}

// TestNoMailWithoutBidi: an ordinary server never makes a link, and one that
// does not answer either is still known for what it is.
func TestNoMailWithoutBidi(t *testing.T) {
	capulet, chat := withChatServer(t, forward(make(chan *wire.Element, 10)), func(c *Config) { c.RequestTimeout = 50 * time.Millisecond })
	for name, try := range map[string]func() error{
		"Link": func() error {
			_, err := capulet.Link(t.Context(), "capulet.example", "montague.example", chat.target())
			return err
		},
		"Probe": func() error {
			_, err := capulet.Probe(t.Context(), "capulet.example", "montague.example", chat.target(), infoQuery)
			return err
		},
	} {
		for range 2 {
			eventually(t, "back-off over", func() bool {
				return !capulet.waits(pair{"capulet.example", "montague.example"})
			})
			err := try()
			e, ok := errors.AsType[*NegotiationError](err)
			if !ok || e.Stage != StageBidi || !e.Permanent || !e.Peer {
				t.Errorf("%s: %+v", name, err)
			}
		}
	}
	if capulet.Live("capulet.example", "montague.example") != nil {
		t.Error("a link came to be")
	}
}

// TestStanzasTheWrongWay: a stream of ours without bidi takes none.
func TestStanzasTheWrongWay(t *testing.T) {
	ended := make(chan string, 1)
	capulet, chat := withChatServer(t, func(r *rawPeer) {
		r.conn.Write([]byte("<iq type='get' id='1'" + fromMontague + "><ping xmlns='urn:xmpp:ping'/></iq>"))
		ended <- r.streamError()
	})
	capulet.Link(t.Context(), "capulet.example", "montague.example", chat.target())
	select {
	case c := <-ended:
		if c != "not-authorized" {
			t.Error("ended with", c)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("not ended")
	}
	eventually(t, "gone", func() bool { s := capulet.Snapshot(); return s.OneWay == 0 && s.ForeignStanzas == 1 })
}
