package transfer

import (
	"bytes"
	"context"
	"testing"
	"time"

	"mailxmppd/mail"
	"mailxmppd/xmpp/wire"
)

// FuzzRequest hands any element to the server as a request: whatever it is, it
// gets one answer that can be written, and what is accepted was bound to the
// stream's domains.
func FuzzRequest(f *testing.F) {
	content := text(60)
	for _, s := range []string{
		offerXML(content, true, nil, ""), offerXML(content, false, map[string]string{"by": "5", "by-mode": "N", "priority": "-3"}, ""),
		offerXML(content, true, map[string]string{"body": "BINARYMIME", "smtputf8": "1"}, "<rcpt to='a@montague.example' notify='NEVER' orcpt='x;y'/><trace>UmVjZWl2ZWQ6IHgNCg==</trace>"),
		chunkXML(tid1, 0, content), named("commit", tid1), named("abort", tid1), statusXML(tid1, "romeo"),
		"<check xmlns='" + Namespace + "' sender=''><rcpt to='nobody@montague.example'/></check>",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, xml string) {
		x := newSetup()
		for _, typ := range []string{"set", "get"} {
			el, err := parseElement([]byte(xml))
			if err != nil {
				return
			}
			reply := x.server.handle(context.Background(), montague, typ, el)
			if reply.Error != nil && reply.Error.Condition == "internal-server-error" {
				t.Errorf("internal error: %s", reply.Error.Text)
			}
			if _, err := readReply(reply); err != nil && reply.Error == nil {
				t.Errorf("answer is not readable: %v", err)
			}
		}
		for _, m := range x.store.all() {
			if s := m.message.Envelope.Sender; !s.IsNull() && s.Domain != "capulet.example" {
				t.Errorf("sender %s accepted", s)
			}
			for _, r := range m.message.Envelope.Recipients {
				if r.Address.Domain != "montague.example" {
					t.Errorf("recipient %s accepted", r.Address)
				}
			}
		}
	})
}

// FuzzOffer: what decodes encodes to what decodes to the same.
func FuzzOffer(f *testing.F) {
	f.Add(offerXML(text(60), true, map[string]string{"envid": "a b", "ret": "FULL", "requiretls": "true"}, "<rcpt to='\"a b\"@x.example' orcpt='rfc822;a'/>"))
	f.Add(offerXML(nil, false, map[string]string{"by": "-5", "by-mode": "N", "by-trace": "true"}, ""))
	now := time.Unix(1e9, 0)
	f.Fuzz(func(t *testing.T, xml string) {
		el, err := parseElement([]byte(xml))
		if err != nil {
			return
		}
		o, bad := decodeOffer(el, now)
		if bad != nil {
			return
		}
		for _, r := range o.rcpts {
			if r.bad != nil {
				return
			}
		}
		first := encodeWhole(t, o, now)
		again, bad := decodeOffer(parse(t, string(first)), now)
		if bad != nil {
			t.Fatalf("%s\nread again: %v", first, bad)
		}
		if second := encodeWhole(t, again, now); !bytes.Equal(first, second) {
			t.Errorf("changed:\n%s\n%s", first, second)
		}
	})
}

func encodeWhole(t *testing.T, o *offer, now time.Time) []byte {
	t.Helper()
	e := wire.NewEncoder(nil)
	encodeOffer(e, o, now)
	if o.inline {
		addContent(e, o.content)
	}
	e.End()
	b, err := e.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// FuzzAnswer: an answer of a hostile peer is read or refused, and what is read
// can be used.
func FuzzAnswer(f *testing.F) {
	f.Add("<accepted xmlns='" + Namespace + "' tid='" + tid1 + "'><rcpt to='a' queue-id='x'/><rcpt to='b'><failure condition='gone' enhanced='5.4.7' retry-after='5'><too-large/><text>x</text></failure></rcpt></accepted>")
	f.Add("<ready xmlns='" + Namespace + "' tid='" + tid1 + "' next='5' chunk='6000' window='4'/>")
	f.Add("<next xmlns='" + Namespace + "' tid='" + tid1 + "' offset='999999999999999999'/>")
	f.Fuzz(func(t *testing.T, xml string) {
		el, err := parseElement([]byte(xml))
		if err != nil {
			return
		}
		a, err := decodeAnswer("montague.example", tid1, el)
		if err != nil {
			return
		}
		if a.next < 0 || a.kind == ready && (a.chunk < 1 || a.window < 1) {
			t.Errorf("numbers out of range: %+v", a)
		}
		for _, v := range a.rcpts {
			if v.failure != nil && (v.failure.Text != mail.Sanitise(v.failure.Text) || v.failure.RetryAfter > 24*time.Hour) {
				t.Errorf("failure taken as it came: %+v", v.failure)
			}
		}
		if _, err := a.encode(); err != nil && len(a.rcpts) == 0 {
			t.Errorf("encode: %v", err)
		}
	})
}

// FuzzDisco: capabilities that are read can be relied on.
func FuzzDisco(f *testing.F) {
	info, err := Announced().DiscoInfo()
	if err != nil {
		f.Fatal(err)
	}
	f.Add("<query xmlns='" + discoInfo + "'>" + string(info) + "</query>")
	f.Add("<query xmlns='" + discoInfo + "'><feature var='" + Namespace + "'/></query>")
	f.Fuzz(func(t *testing.T, xml string) {
		el, err := parseElement([]byte(xml))
		if err != nil {
			return
		}
		c, ok := FromDisco(el)
		if ok && (c.MaxChunk < leastChunk || c.MaxRecipients < 1 || c.Window < 1 || c.Retain < memory || c.MaxMessage < 0 || c.MaxInline < 0) {
			t.Errorf("capabilities out of range: %+v", c)
		}
	})
}
