package gateway

import (
	"context"
	"strings"

	"mailxmppd/mail"
)

// JudgeBeside judges a message that a mail server beside us is about to take:
// why not, or the header fields to go before it, CRLF-ended, and the recipients
// who must not get it. What it says to its client is one answer for all, and what
// it writes before the message too: that is the worst verdict of those who get
// it. Recipients that may be refused by the content have none beside them
// (admits); what is left to be refused beside others is forged mail, of which
// nobody is to hear. Whatever else is, refuses the message for all, since nobody
// could be told for one.
func (e *Entrance) JudgeBeside(ctx context.Context, c mail.Client, m *mail.Message) (fields []byte, refused []int, f *mail.Failure) {
	if e.Judge == nil {
		return nil, nil, nil
	}
	src := e.source(c)
	judged, _ := e.judge(ctx, src, m, m.Content, e.meantAll(ctx, m))
	refused, kept, f := turnedAway(judged)
	if len(refused) > 0 && (len(kept) == 0 || f.Class != mail.Permanent) {
		return nil, nil, f
	}
	for _, i := range refused {
		if !judged[i].Forged {
			return nil, nil, judged[i].Refusal
		}
	}
	for _, i := range refused {
		e.Log.Info("refused without a report", "from", m.Envelope.Sender, "rcpt", m.Envelope.Recipients[i].Address, "forged", true, "err", judged[i].Refusal)
	}
	m.Envelope = only(m.Envelope, kept)
	takers := make([]mail.Judged, len(kept))
	for n, i := range kept {
		takers[n] = judged[i]
	}
	if verdict := worst(takers); verdict != "" { // else nobody of ours
		fields = append(VerdictField(verdict), m.Origin.Results...)
		if len(takers) == 1 { // of others the keys may tell otherwise
			fields = append(fields, takers[0].Results...)
		}
	}
	if !e.Judge.Marks(src, m.Envelope.Sender) {
		return fields, refused, nil
	}
	return append(fields, e.marksBeside(m)...), refused, nil
}

// maxMarksBeside bounds the marks of a message that leaves through the mail server
// beside us: a report is looked through for so many.
const maxMarksBeside = 16

// marksBeside marks a message for all domains that it goes to: who gets it sees
// which they are, since that mail server makes the copies.
func (e *Entrance) marksBeside(m *mail.Message) []byte {
	var domains []string
	count := map[string]int{}
	for _, r := range m.Envelope.Recipients {
		if count[r.Address.Domain]++; count[r.Address.Domain] == 1 {
			domains = append(domains, r.Address.Domain)
		}
	}
	id := mail.NewID()
	var fields []byte
	for _, domain := range domains[:min(len(domains), maxMarksBeside)] {
		fields = append(fields, e.Judge.Mark(id, m.Envelope.Sender, domain, count[domain])...)
	}
	return fields
}

// worst is the verdict that promises least.
func worst(judged []mail.Judged) string {
	out, rank := "", -1
	for _, j := range judged {
		word, _, _ := strings.Cut(j.Verdict, ";")
		if r := map[string]int{"permitted": 0, "authenticated": 1, "unproven": 2, "forged": 3}[word]; j.Verdict != "" && r > rank {
			out, rank = j.Verdict, r
		}
	}
	return out
}
