package trust

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"mailxmppd/mail"
)

// wishes are what recipients want: mailbox and author, in words.
type wishes struct {
	list map[string]string
	err  error
}

func (w wishes) Permits(_ context.Context, recipient, author mail.Address, _ *Evidence) (string, bool, error) {
	reason, ok := w.list[recipient.String()+" "+author.String()]
	return reason, ok && !strings.HasSuffix(reason, "not wanted"), w.err
}

func (w wishes) MayPermit(_ context.Context, sender mail.Address, r mail.Recipient) (bool, error) {
	for pair := range w.list {
		mailbox, author, _ := strings.Cut(pair, " ")
		if strings.HasSuffix(mailbox, "@"+r.Address.Domain) && strings.HasSuffix(author, "@"+sender.Domain) {
			return true, w.err
		}
	}
	return false, w.err
}

// court is a Judge for capulet.example, where nurse denies, and for
// hidden.example, where everybody does but the clerk.
func court(t *testing.T, w wishes, change func(*JudgeConfig), records ...string) *Judge {
	t.Helper()
	s := startDNS(t, append(montague(t), records...)...)
	cfg := JudgeConfig{
		Evaluator: New(Config{DNS: s.resolver(t), Hostname: "gw.capulet.example", Budget: 2 * time.Second,
			Secondaries: []Secondary{{Networks: []netip.Prefix{netip.MustParsePrefix("192.0.2.77/32")}, AuthservID: "mx2.capulet.example"}}}),
		Domains: map[string]DomainPolicy{
			"capulet.example": {Policy: Policy{RejectForged: true}, Mailboxes: map[string]Policy{"nurse": {Deny: true}}},
			"hidden.example":  {Policy: Policy{Deny: true}, DeniedText: "ask by phone", Mailboxes: map[string]Policy{"clerk": {}}},
			"strict.example":  {Policy: Policy{RejectForged: true, RejectUnclear: true}},
			"open.example":    {},
		},
		Grants: []Permits{w},
		Marks:  NewSentMarks([]byte("a key"), &tally{}, 0),
	}
	if change != nil {
		change(&cfg)
	}
	return NewJudge(cfg)
}

func from(client string) mail.Source {
	return mail.Source{Client: mail.Client{Addr: netip.AddrPortFrom(netip.MustParseAddr(client), 25), Helo: "mx.montague.example"}}
}

func letter(content, reversePath string, to ...string) *mail.Message {
	buf := mail.NewBuffer("")
	buf.Write([]byte(content))
	m := &mail.Message{ID: mail.NewID(), Content: buf, Facts: buf.Facts(), Envelope: mail.Envelope{Sender: sender(reversePath)}}
	for _, r := range to {
		m.Envelope.Recipients = append(m.Envelope.Recipients, mail.Recipient{Address: sender(r)})
	}
	return m
}

var unknownMailbox = mail.Fail(mail.NoSuchMailbox, "the neighbour's own words", nil)

const notWanted = "subscription-required: 5.7.1 recipient has not permitted this sender"

// TestRecipient: before there is content strangers see no difference between a
// mailbox that does not want them and one that is not there; what the content
// could still permit is decided later for both.
func TestRecipient(t *testing.T) {
	wanted := wishes{list: map[string]string{"boss@hidden.example romeo@montague.example": "granted", "nurse@capulet.example romeo@montague.example": "granted"}}
	for _, c := range []struct {
		name      string
		w         wishes
		src       mail.Source
		from, to  string
		missing   *mail.Failure
		undecided bool
		want      string
	}{
		{"open domain", wishes{}, from("192.0.2.1"), "romeo@montague.example", "juliet@open.example", nil, false, ""},
		{"open domain, unknown mailbox", wishes{}, from("192.0.2.1"), "romeo@montague.example", "no@open.example", unknownMailbox, false, "no-such-mailbox: 5.1.1 the neighbour's own words"},
		{"nothing is granted", wishes{}, from("192.0.2.1"), "romeo@montague.example", "boss@hidden.example", nil, false, notWanted + ": ask by phone"},
		{"nothing is granted, unknown mailbox", wishes{}, from("192.0.2.1"), "romeo@montague.example", "no@hidden.example", unknownMailbox, false, notWanted + ": ask by phone"},
		{"nothing is granted, open mailbox", wishes{}, from("192.0.2.1"), "romeo@montague.example", "clerk@hidden.example", nil, false, ""},
		{"something is granted", wanted, from("192.0.2.1"), "tybalt@montague.example", "boss@hidden.example", nil, true, ""},
		{"something is granted to another mailbox", wanted, from("192.0.2.1"), "tybalt@montague.example", "bishop@hidden.example", nil, true, ""},
		{"something is granted, unknown mailbox", wanted, from("192.0.2.1"), "tybalt@montague.example", "no@hidden.example", unknownMailbox, true, ""},
		{"to others", wanted, from("192.0.2.1"), "x@other.example", "no@hidden.example", unknownMailbox, false, notWanted + ": ask by phone"},
		{"a mailbox that denies", wishes{}, from("192.0.2.1"), "romeo@montague.example", "nurse@capulet.example", nil, false, notWanted},
		{"its neighbour that is not there", wishes{}, from("192.0.2.1"), "romeo@montague.example", "no@capulet.example", unknownMailbox, false, notWanted},
		{"its neighbour that takes all", wishes{}, from("192.0.2.1"), "romeo@montague.example", "juliet@capulet.example", nil, false, ""},
		{"with a detail", wishes{}, from("192.0.2.1"), "romeo@montague.example", "Nurse+x@capulet.example", nil, false, notWanted},
		{"the postmaster", wishes{}, from("192.0.2.1"), "romeo@montague.example", "Postmaster@hidden.example", nil, false, ""},
		{"a report", wishes{}, from("192.0.2.1"), "", "boss@hidden.example", nil, true, ""},
		{"a report to nobody", wishes{}, from("192.0.2.1"), "", "no@hidden.example", unknownMailbox, true, ""},
		{"over XMPP", wishes{}, mail.Source{Binding: mail.Binding{Remote: "montague.example"}}, "romeo@montague.example", "no@hidden.example", unknownMailbox, false, notWanted + ": ask by phone"},
		{"a user of ours", wishes{}, mail.Source{Client: mail.Client{User: "u"}}, "u@hidden.example", "no@hidden.example", unknownMailbox, false, "no-such-mailbox: 5.1.1 the neighbour's own words"},
		{"a neighbour", wishes{}, mail.Source{Trusted: true, Client: from("192.0.2.1").Client}, "u@hidden.example", "boss@hidden.example", nil, false, ""},
		{"it cannot be told who exists", wanted, from("192.0.2.1"), "romeo@montague.example", "boss@hidden.example", mail.Fail(mail.Unreachable, "", nil), false, "unreachable: 4.4.1 next hop does not answer"},
		{"grants cannot be read", wishes{err: errors.New("no store")}, from("192.0.2.1"), "romeo@montague.example", "boss@hidden.example", nil, false, "refused-for-now: 4.7.0 it cannot be told now who sent this, try again later: no store"},
		{"grants cannot be read, unknown mailbox", wishes{err: errors.New("no store")}, from("192.0.2.1"), "romeo@montague.example", "no@hidden.example", unknownMailbox, false, "refused-for-now: 4.7.0 it cannot be told now who sent this, try again later: no store"},
	} {
		undecided, f := court(t, c.w, nil).Recipient(t.Context(), c.src, sender(c.from), mail.Recipient{Address: sender(c.to)}, c.missing)
		got := ""
		if f != nil {
			got = f.Error()
		}
		if undecided != c.undecided || got != c.want {
			t.Errorf("%s: undecided %v, %q; want %v, %q", c.name, undecided, got, c.undecided, c.want)
		}
	}
}

const later = "refused-for-now: 4.7.0 it cannot be told now who sent this, try again later"

const fromRomeo = "From: Romeo <romeo@montague.example>\r\nSubject: s\r\n\r\nbody\r\n"

func manyAuthors(list ...string) string { return "From: " + strings.Join(list, ", ") + "\r\n\r\nx\r\n" }

func TestMessage(t *testing.T) {
	w := wishes{list: map[string]string{"boss@hidden.example romeo@montague.example": "granted", "boss@hidden.example x@down.example": "granted",
		"peter@capulet.example romeo@montague.example": "romeo is not wanted"}}
	j := court(t, w, nil, "_dmarc.down.example SERVFAIL", "down.example SERVFAIL")
	mark := string(j.cfg.Marks.Field(mail.NewID(), sender("boss@hidden.example"), "montague.example", 1))
	report := "From: MAILER-DAEMON@mx.montague.example\r\nContent-Type: multipart/report; boundary=b\r\n\r\n--b\r\nContent-Type: text/rfc822-headers\r\n\r\n" + mark + "Subject: s\r\n--b--\r\n"
	peer := mail.Source{Binding: mail.Binding{Remote: "montague.example", Proof: "pkix"}}
	forwarded := func(addr, source string) mail.Source {
		src := from("127.0.0.1")
		src.Trusted = true
		src.Client.Forwarded = &mail.Forwarded{Source: source, Helo: "mx.montague.example"}
		if addr != "" {
			src.Client.Forwarded.Addr = netip.AddrPortFrom(netip.MustParseAddr(addr), 0)
		}
		return src
	}
	neighbour := from("127.0.0.1")
	neighbour.Trusted = true
	second := from("192.0.2.77")
	second.Trusted = true
	user := mail.Source{Client: mail.Client{User: "juliet"}}
	for _, c := range []struct {
		name, content, from, to string
		src                     mail.Source
		missing                 *mail.Failure
		verdict, refusal        string
	}{
		{"proven", fromRomeo, "romeo@montague.example", "juliet@open.example", from("192.0.2.1"), nil, "authenticated; proven by spf", ""},
		{"proven and denied", fromRomeo, "romeo@montague.example", "bishop@hidden.example", from("192.0.2.1"), nil, "authenticated; proven by spf", notWanted + ": ask by phone"},
		{"not there", fromRomeo, "romeo@montague.example", "no@hidden.example", from("192.0.2.1"), unknownMailbox, "authenticated; proven by spf", notWanted + ": ask by phone"},
		{"not there, nothing hidden", fromRomeo, "romeo@montague.example", "no@open.example", from("192.0.2.1"), unknownMailbox, "authenticated; proven by spf", "no-such-mailbox: 5.1.1 the neighbour's own words"},
		{"permitted", fromRomeo, "romeo@montague.example", "boss@hidden.example", from("192.0.2.1"), nil, "permitted; granted, proven by spf", ""},
		{"permitted over XMPP", fromRomeo, "romeo@montague.example", "boss@hidden.example", peer, nil, "permitted; granted, proven by xmpp", ""},
		{"forged, open", fromRomeo, "x@evil.example", "juliet@open.example", from("192.0.2.66"), nil, "forged; montague.example asks to reject mail that it has not signed", ""},
		{"forged, rejected", fromRomeo, "x@evil.example", "juliet@capulet.example", from("192.0.2.66"), nil, "forged; montague.example asks to reject mail that it has not signed",
			"not-permitted: 5.7.1 refused as forged: montague.example asks to reject mail that it has not signed"},
		{"forged, rejected, who is known", fromRomeo, "x@evil.example", "peter@capulet.example", from("192.0.2.66"), nil,
			"forged; montague.example asks to reject mail that it has not signed, romeo is not wanted",
			"not-permitted: 5.7.1 refused as forged: montague.example asks to reject mail that it has not signed"},
		{"forged, denied", fromRomeo, "x@evil.example", "boss@hidden.example", from("192.0.2.66"), nil, "forged; montague.example asks to reject mail that it has not signed", notWanted + ": ask by phone"},
		{"a peer forges", fromRomeo, "x@other.example", "boss@hidden.example", mail.Source{Binding: mail.Binding{Remote: "other.example"}}, nil,
			"forged; montague.example asks to reject mail that it has not signed", notWanted + ": ask by phone"},
		{"a report about our mail", report, "", "boss@hidden.example", from("192.0.2.66"), nil, "permitted; a report about mail that was sent from here", ""},
		{"a report by the peer that got the mail", report, "", "boss@hidden.example", peer, nil, "permitted; a report about mail that was sent from here", ""},
		{"a report by another peer", strings.Replace(report, "mx.montague", "mx.plain", 1), "", "boss@hidden.example", mail.Source{Binding: mail.Binding{Remote: "other.example"}}, nil,
			"unproven; nothing proves that this is from mx.plain.example", notWanted + ": ask by phone"},
		{"a report about another's", report, "", "bishop@hidden.example", from("192.0.2.66"), nil, "forged; mx.montague.example asks to reject mail that it has not signed", notWanted + ": ask by phone"},
		{"mail that quotes a mark", report, "x@evil.example", "boss@hidden.example", from("192.0.2.66"), nil, "forged; mx.montague.example asks to reject mail that it has not signed", notWanted + ": ask by phone"},
		{"a neighbour's", fromRomeo, "romeo@montague.example", "boss@hidden.example", neighbour, nil, "unproven; not judged", ""},
		{"a neighbour's own", fromRomeo, "romeo@montague.example", "boss@hidden.example", forwarded("127.0.0.1", "LOCAL"), nil, "unproven; not judged", ""},
		{"a neighbour's client", fromRomeo, "romeo@montague.example", "boss@hidden.example", forwarded("192.0.2.1", "REMOTE"), nil, "permitted; granted, proven by spf", ""},
		{"a neighbour's client that forges", fromRomeo, "romeo@montague.example", "juliet@open.example", forwarded("192.0.2.66", "REMOTE"), nil,
			"forged; montague.example asks to reject mail that it has not signed", ""},
		{"a neighbour that does not know", fromRomeo, "romeo@montague.example", "juliet@open.example", forwarded("", "REMOTE"), nil, "unproven; not judged", ""},
		{"a secondary that may relay", "Authentication-Results: mx2.capulet.example; dmarc=pass header.from=montague.example\r\n" + fromRomeo,
			"romeo@montague.example", "juliet@open.example", second, nil, "authenticated; as our own host before us has found", ""},
		{"five authors, one forged, strict", manyAuthors("romeo@montague.example", "a@a.example", "b@b.example", "c@c.example", "d@d.example"), "x@evil.example", "juliet@strict.example", from("192.0.2.66"), nil,
			"forged; montague.example asks to reject mail that it has not signed, several authors, authors of more domains than are looked at",
			"not-permitted: 5.7.1 refused as forged: montague.example asks to reject mail that it has not signed"},
		{"five authors, the forged one last", manyAuthors("a@a.example", "b@b.example", "c@c.example", "d@d.example", "romeo@montague.example"), "x@evil.example", "juliet@strict.example", from("192.0.2.66"), nil,
			"unproven; it cannot be told who the author is, several authors, authors of more domains than are looked at",
			"not-permitted: 5.7.1 refused: it cannot be told who the author is, several authors, authors of more domains than are looked at"},
		{"five authors, tagged", manyAuthors("a@a.example", "b@b.example", "c@c.example", "d@d.example", "romeo@montague.example"), "x@evil.example", "juliet@capulet.example", from("192.0.2.66"), nil,
			"unproven; it cannot be told who the author is, several authors, authors of more domains than are looked at", ""},
		{"a From that cannot be read, strict", "From: romeo@montague.example <\r\n\r\nx\r\n", "x@evil.example", "juliet@strict.example", from("192.0.2.66"), nil,
			"unproven; it cannot be told who the author is, From cannot be read", "not-permitted: 5.7.1 refused: it cannot be told who the author is, From cannot be read"},
		{"no From, strict", "Subject: x\r\n\r\nx\r\n", "x@evil.example", "juliet@strict.example", from("192.0.2.66"), nil,
			"unproven; it cannot be told who the author is, no From field", "not-permitted: 5.7.1 refused: it cannot be told who the author is, no From field"},
		{"two From fields, strict, one proven", fromRomeo[:strings.Index(fromRomeo, "Subject")] + "From: y@plain.example\r\n\r\nx\r\n", "romeo@montague.example", "juliet@strict.example", from("192.0.2.1"), nil,
			"unproven; it cannot be told who the author is, several From fields, several authors",
			"not-permitted: 5.7.1 refused: it cannot be told who the author is, several From fields, several authors"},
		{"an encoded address, strict", "From: =?utf-8?Q?romeo?=@montague.example\r\n\r\nx\r\n", "romeo@montague.example", "juliet@strict.example", from("192.0.2.1"), nil,
			"unproven; it cannot be told who the author is, an encoded word where the address is",
			"not-permitted: 5.7.1 refused: it cannot be told who the author is, an encoded word where the address is"},
		{"nothing proven, strict", strings.ReplaceAll(fromRomeo, "romeo@montague", "y@plain"), "x@evil.example", "juliet@strict.example", from("192.0.2.66"), nil,
			"unproven; nothing proves that this is from plain.example", ""},
		{"submitted without From, strict", "Subject: x\r\n\r\nx\r\n", "romeo@montague.example", "juliet@strict.example", user, nil,
			"unproven; it cannot be told who the author is, no From field", ""},
		{"submitted", fromRomeo, "romeo@montague.example", "boss@hidden.example", user, nil, "permitted; granted, submitted by our user juliet", ""},
		{"submitted by another", fromRomeo, "romeo@montague.example", "bishop@hidden.example", user, nil, "authenticated; submitted by our user juliet", ""},
		{"DNS down, open", strings.ReplaceAll(fromRomeo, "romeo@montague", "x@down"), "x@down.example", "juliet@capulet.example", from("192.0.2.1"), nil,
			"unproven; it cannot be told now who sent this", ""},
		{"DNS down, nothing granted to the domain", strings.ReplaceAll(fromRomeo, "romeo@montague", "y@plain"), "x@down.example", "boss@hidden.example", from("192.0.2.1"), nil,
			"unproven; it cannot be told now who sent this", notWanted + ": ask by phone"},
		{"DNS down, granted to another author", strings.ReplaceAll(fromRomeo, "romeo@montague", "y@down"), "y@down.example", "boss@hidden.example", from("192.0.2.1"), nil,
			"unproven; it cannot be told now who sent this", later},
		{"DNS down, granted by another", strings.ReplaceAll(fromRomeo, "romeo@montague", "x@down"), "x@down.example", "bishop@hidden.example", from("192.0.2.1"), nil,
			"unproven; it cannot be told now who sent this", later},
		{"DNS down, not there", strings.ReplaceAll(fromRomeo, "romeo@montague", "x@down"), "x@down.example", "no@hidden.example", from("192.0.2.1"), unknownMailbox,
			"unproven; it cannot be told now who sent this", later},
		{"DNS down, granted", strings.ReplaceAll(fromRomeo, "romeo@montague", "x@down"), "x@down.example", "boss@hidden.example", from("192.0.2.1"), nil,
			"unproven; it cannot be told now who sent this", later},
	} {
		out := j.Message(t.Context(), c.src, letter(c.content, c.from, c.to), []*mail.Failure{c.missing})
		refusal := ""
		if f := out.Recipients[0].Refusal; f != nil {
			refusal = f.Error()
		}
		if out.Recipients[0].Verdict != c.verdict || refusal != c.refusal {
			t.Errorf("%s:\n%q, %q; want\n%q, %q", c.name, out.Recipients[0].Verdict, refusal, c.verdict, c.refusal)
		}
		if !strings.HasPrefix(out.Results, "Authentication-Results: gw.capulet.example;") || !strings.HasSuffix(out.Results, "\r\n") {
			t.Errorf("%s: %q", c.name, out.Results)
		}
		if forged := strings.HasPrefix(c.verdict, "forged"); out.Recipients[0].Forged != forged {
			t.Errorf("%s: forged %v", c.name, !forged)
		}
	}
}

// TestOpenFor: a resolver that stays down puts a message off for a bounded time.
func TestOpenFor(t *testing.T) {
	w := wishes{list: map[string]string{"boss@hidden.example x@down.example": "granted"}}
	j := court(t, w, nil, "_dmarc.down.example SERVFAIL", "down.example SERVFAIL")
	now := time.Now()
	j.open.now = func() time.Time { return now }
	m := letter(strings.ReplaceAll(fromRomeo, "romeo@montague", "x@down"), "x@down.example", "boss@hidden.example")
	for _, step := range []struct {
		after time.Duration
		want  mail.Kind
	}{{0, mail.Refused}, {time.Hour, mail.Refused}, {defaultOpenFor, mail.SubscriptionNeeded}} {
		now = now.Add(step.after)
		if f := j.Message(t.Context(), from("192.0.2.1"), m, []*mail.Failure{nil}).Recipients[0].Refusal; f == nil || f.Kind != step.want {
			t.Errorf("after %s more: %v, want %s", step.after, f, step.want)
		}
	}
	for i := range 2 * maxPatience {
		m.Facts.SHA256[0], m.Facts.SHA256[1], m.Facts.SHA256[2] = byte(i), byte(i>>8), byte(i>>16)
		j.open.over(m, mail.Address{})
	}
	if n := len(j.open.since); n > maxPatience {
		t.Errorf("%d messages remembered", n)
	}
}

// wrote notes whose mail a Granter was told of.
type wrote []string

func (w *wrote) Wrote(_ context.Context, mailbox mail.Address, _ *mail.Message) {
	*w = append(*w, mailbox.String())
}

func TestOutgoing(t *testing.T) {
	var w wrote
	j := court(t, wishes{}, func(cfg *JudgeConfig) {
		cfg.Granter = &w
		cfg.Domains["open.example"] = DomainPolicy{Policy: Policy{AutoGrant: true}}
	})
	user := mail.Source{Client: mail.Client{User: "u"}}
	for _, c := range []struct {
		src     mail.Source
		from    string
		marked  bool
		granted bool
	}{
		{user, "boss@hidden.example", true, false},
		{mail.Source{Trusted: true}, "boss@hidden.example", true, false},
		{user, "clerk@hidden.example", false, false},
		{user, "juliet@open.example", false, true},
		{mail.Source{Trusted: true}, "juliet@open.example", false, false},
		{user, "", false, false},
		{from("192.0.2.66"), "boss@hidden.example", false, false},
		{mail.Source{Binding: mail.Binding{Remote: "hidden.example"}}, "boss@hidden.example", false, false},
	} {
		w = nil
		marked := j.Marks(c.src, sender(c.from))
		j.Accepted(t.Context(), c.src, letter(fromRomeo, c.from, "x@other.example"))
		if marked != c.marked || (len(w) > 0) != c.granted {
			t.Errorf("%s %+v: marked %v, granted to %v", c.from, c.src, marked, w)
		}
	}
}
