package transfer

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
	"mailxmppd/xmpp/stream"
	"mailxmppd/xmpp/wire"
)

// stage plays the draft's requests against a real Server. Its Receiver judges
// as the example to come says; everything else is the Server's doing.
type stage struct {
	t        *testing.T
	requests map[string]example
	answers  map[string][]example // by the request's id
	store    *memoryStore
	server   *Server
	expected map[string]verdict // of the answer being played
}

func (s *stage) fresh(adjust ...func(*ServerConfig)) {
	s.store = newMemoryStore()
	s.restart(adjust...)
}

// restart makes a new Server on what the store has.
func (s *stage) restart(adjust ...func(*ServerConfig)) {
	cfg := ServerConfig{Receiver: s, Transfers: s.store, Permissions: s, Capabilities: withGrants(), ChunkWait: 10 * time.Millisecond}
	for _, f := range adjust {
		f(&cfg)
	}
	s.server = NewServer(cfg)
}

// before plays requests whose answers have been seen.
func (s *stage) before(ids ...string) {
	for _, id := range ids {
		s.play(s.requests[id], s.answers[id][0])
	}
}

func (s *stage) play(request, answer example) stream.Reply {
	s.t.Helper()
	s.expected = map[string]verdict{}
	if p := payload(s.t, answer, answer.iq(s.t)); p != nil {
		for _, r := range p.Children {
			v := verdict{queueID: r.Attr("queue-id")}
			if f := r.Child(Namespace, "failure"); f != nil {
				v.failure = decodeFailure("", f)
			}
			s.expected[r.Attr("to")] = v
		}
	}
	iq := request.iq(s.t)
	from, err1 := mail.ParseDomain(iq.Attr("from"))
	to, err2 := mail.ParseDomain(iq.Attr("to"))
	if err := errors.Join(err1, err2); err != nil {
		s.t.Fatal(err)
	}
	b := mail.Binding{Local: to, Remote: from, Proof: "pkix"}
	return s.server.handle(context.Background(), b, iq.Attr("type"), iq.Children[0])
}

func (s *stage) Check(_ context.Context, _ mail.Binding, env mail.Envelope) []*mail.Failure {
	out := make([]*mail.Failure, len(env.Recipients))
	for i, r := range env.Recipients {
		out[i] = s.expected[r.Address.String()].failure
	}
	return out
}

func (s *stage) Accept(ctx context.Context, k store.TransferKey, h store.ContentHash, _ mail.Binding, m *mail.Message) ([]mail.ID, []*mail.Failure) {
	failures := s.Check(ctx, mail.Binding{}, m.Envelope)
	for i, r := range m.Envelope.Recipients {
		if failures[i] != nil {
			return make([]mail.ID, len(failures)), failures // the draft has no mixed commit
		}
		m.ID = mail.ID(s.expected[r.Address.String()].queueID)
	}
	ids, _, err := s.store.Accept(ctx, k, h, store.NewMessage{Message: *m})
	if err != nil {
		s.t.Error(err)
	}
	return ids, failures
}

// compare holds the Server's reply against the draft's answer, but for texts.
func (s *stage) compare(x example, r stream.Reply) {
	s.t.Helper()
	iq := x.iq(s.t)
	want, got := payload(s.t, x, iq), (*wire.Element)(nil)
	switch failed := iq.Attr("type") == "error"; {
	case failed != (r.Error != nil):
		s.t.Errorf("%s: got %+v, %s", x, r.Error, r.Payload)
		return
	case failed:
		if condition, _ := stanzaError(iq.Children[0]); r.Error.Condition != condition || r.Error.Type != iq.Children[0].Attr("type") {
			s.t.Errorf("%s: got %s (%s): %s", x, r.Error.Condition, r.Error.Type, r.Error.Text)
		}
		got = parse(s.t, string(r.Error.App))
	case len(r.Payload) > 0:
		got = parse(s.t, string(r.Payload))
	}
	texts := regexp.MustCompile(`<text>[^<]*</text>`)
	if want, got := texts.ReplaceAllString(canonical(s.t, want), ""), texts.ReplaceAllString(canonical(s.t, got), ""); want != got {
		s.t.Errorf("%s: want\n%s\ngot\n%s", x, want, got)
	}
}

// staging says what has happened before an answer, where it does not just
// follow on the examples before it.
var staging = map[string]func(*stage){
	"The receiver has forgotten the offer":             func(s *stage) { s.restart() },
	"Refused for its length":                           func(s *stage) { s.before("c1") },
	"Refused at commit":                                func(s *stage) { s.fresh(); s.before("c1", "c2", "c4", "c6") },
	"Commit came too early":                            func(s *stage) { s.fresh(); s.before("c1", "c2") },
	"The receiver was started again before the commit": func(s *stage) { s.restart() },
	"The chunks do not add up to what was offered":     func(s *stage) { s.fresh(); s.before("c1"); s.garbage() },
	"Ready where it was cut":                           func(s *stage) { s.fresh(); s.before("c1", "c2"); s.restart() },
	"Accepted before, answered from memory":            func(s *stage) { s.fresh(); s.before("c1", "c2", "c4", "c6", "d1") },
	"None was, and a part of the content is there":     func(s *stage) { s.fresh(); s.before("c1", "c2") },
	"Unknown":                            func(s *stage) { s.fresh() },
	"Forgotten":                          func(s *stage) { s.before("c1") },
	"Ready for all of it":                extensions(ExtDSN, ExtSMTPUTF8, ExtBinary, ExtRequireTLS, ExtDeliverBy, ExtPriority),
	"A receiver without smtputf8":        extensions(ExtBinary, ExtRequireTLS, ExtDeliverBy),
	"A receiver without binary":          extensions(ExtSMTPUTF8, ExtRequireTLS, ExtDeliverBy),
	"A receiver without deliverby":       extensions(ExtSMTPUTF8, ExtBinary, ExtRequireTLS),
	"TLS cannot be had further on":       extensions(ExtSMTPUTF8, ExtBinary, ExtDeliverBy),
	"Asked too often":                    func(s *stage) { s.fresh(func(c *ServerConfig) { c.ChecksPerMinute = 2 }); s.before("f1") },
	"Too many notifications":             func(s *stage) { s.fresh(func(c *ServerConfig) { c.NullPerMinute = 1 }); s.before("g1") },
	"More recipients than max-rcpt":      func(s *stage) { s.fresh(func(c *ServerConfig) { c.Capabilities.MaxRecipients = 2 }) },
	"Out of room for now":                func(s *stage) { s.fresh(func(c *ServerConfig) { c.MaxOpen = 1 }); s.before("g1") },
	"A local problem of the receiver":    func(s *stage) { s.fresh(); s.store.fail = errors.New("disk is gone") },
	"Refused for what is not understood": func(s *stage) { s.fresh() },

	"The same offer without a grant, or to an unknown mailbox": func(s *stage) { s.fresh() },

	"Ready for the mail of a service":      services(nil),
	"The domain does not list the service": services(mail.Fail(mail.NotPermitted, "", nil)),
	"The domain cannot be asked":           services(mail.Fail(mail.Unreachable, "", nil)),
	"Its answer":                           services(nil),
}

// Take implements Permissions.
func (s *stage) Take(_ context.Context, _ mail.Binding, p mail.Permission) *mail.Failure {
	if p.Mailbox.String() != "romeo@montague.example" || p.Author.String() != "juliet@capulet.example" {
		s.t.Errorf("taken for other addresses: %+v", p)
	}
	return nil
}

func extensions(all ...string) func(*stage) {
	return func(s *stage) { s.fresh(func(c *ServerConfig) { c.Capabilities.Extensions = all }) }
}

// services has a server to whose service the domains of the draft belong, and
// with which others say this of themselves.
func services(says *mail.Failure) func(*stage) {
	return func(s *stage) {
		s.fresh(func(c *ServerConfig) {
			c.Services = saying{says}
			c.Serves = func(local string) []string { return []string{strings.TrimPrefix(local, "mail.")} }
		})
	}
}

type saying struct{ failure *mail.Failure }

func (s saying) Speaks(context.Context, string, string, string) *mail.Failure { return s.failure }

// unplayed are answers that are not this Server's to give: those of whoever
// does not know the protocol.
var unplayed = []string{"A server whose mail transport has been switched off"}

// garbage sends octets that are not those of message c1, as many of them.
func (s *stage) garbage() {
	o, f := decodeOffer(s.requests["c1"].iq(s.t).Children[0], time.Now())
	if f != nil {
		s.t.Fatal(f)
	}
	p, err := encodeChunk(nil, o.tid, 0, bytes.Repeat([]byte("x"), int(o.size)))
	if err != nil {
		s.t.Fatal(err)
	}
	s.server.handle(context.Background(), mail.Binding{Local: "montague.example", Remote: "capulet.example"}, "set", parse(s.t, string(p)))
}

// TestDraftFlows plays every request of the draft and holds the Server's
// answer against each of those that the draft shows for it.
func TestDraftFlows(t *testing.T) {
	s := &stage{t: t, requests: map[string]example{}, answers: map[string][]example{}}
	s.fresh()
	unused, played := maps.Clone(staging), 0
	for _, x := range examples(t) {
		iq := x.iq(t)
		id := iq.Attr("id")
		prepare, staged := staging[x.caption]
		delete(unused, x.caption)
		if typ := iq.Attr("type"); typ == "get" || typ == "set" {
			if _, again := s.requests[id]; again {
				t.Errorf("%s: id %s is taken", x, id)
			}
			s.requests[id] = x
			continue
		}
		request, ok := s.requests[id]
		if asked := request.iq(t); !ok || asked.Attr("from") != iq.Attr("to") || asked.Attr("to") != iq.Attr("from") {
			t.Fatalf("%s answers no request", x)
		}
		s.answers[id] = append(s.answers[id], x)
		switch {
		case slices.Contains(unplayed, x.caption), request.iq(t).Children[0].Name.Space != Namespace:
		default:
			if staged {
				prepare(s)
			}
			s.compare(x, s.play(request, x))
			played++
		}
	}
	for caption := range unused {
		t.Errorf("no example is called %q", caption)
	}
	for id, x := range s.requests {
		if len(s.answers[id]) == 0 {
			t.Errorf("%s has no answer", x)
		}
	}
	if played < 40 {
		t.Errorf("only %d answers played", played)
	}
}
