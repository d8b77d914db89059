package smtpbridge

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"mailxmppd/mail"
)

// Standings tells how a domain's mail goes now. Safe for concurrent use, and
// bounds its own waits; a failure comes with mail.Unsure only.
type Standings interface {
	Standing(ctx context.Context, domain string) (mail.Standing, *mail.Failure)
}

// LookupConfig says what a Lookup is.
type LookupConfig struct {
	Standings   Standings
	Own         []string       // our domains, A-labels
	Answer      string         // for a peer's domain: what Postfix or Exim is to do with its mail
	OwnAnswer   string         // for a domain of ours; "": not found
	Trusted     []netip.Prefix // who may ask by TCP
	Connections int            // at a time
	Timeouts    LookupTimeouts // zero fields take the defaults
	Log         *slog.Logger
}

// LookupTimeouts bound the waits of a Lookup. Zero fields take the default.
type LookupTimeouts struct {
	Idle     time.Duration // for the next question; 10 min
	Question time.Duration // for the rest of one, and for the answer to be taken; 10 s
	Answer   time.Duration // for finding out about a domain; 10 s
}

func (t LookupTimeouts) withDefaults() LookupTimeouts {
	for _, d := range []struct {
		set      *time.Duration
		standard time.Duration
	}{{&t.Idle, 10 * time.Minute}, {&t.Question, 10 * time.Second}, {&t.Answer, 10 * time.Second}} {
		if *d.set <= 0 {
			*d.set = d.standard
		}
	}
	return t
}

// Lookup tells a neighbouring MTA which domains are peers now, so that only
// their mail comes to us: Postfix by its socketmap protocol, Exim by a line in
// and a line out. Both on the same socket: a netstring begins with digits and
// a colon, which no domain holds.
type Lookup struct {
	*neighbourServer
	cfg    LookupConfig
	own    map[string]bool
	kept   lookupMemory
	counts struct{ peer, own, legacy, unsure, noDomain, brokenOff atomic.Uint64 }
}

// LookupCounts is what a Lookup counted since its start, for metrics.
type LookupCounts struct {
	Connections uint64
	TurnedAway  uint64 // of them, at once
	BrokenOff   uint64 // for a question that was none, or too long in coming
	Peer        uint64 // answers
	Own         uint64
	Legacy      uint64
	Unsure      uint64 // could not be told in time
	NoDomain    uint64 // asked about something that is neither a domain nor an address at one
}

// NewLookup checks a configuration and makes a Lookup of it.
func NewLookup(cfg LookupConfig) (*Lookup, error) {
	switch {
	case cfg.Standings == nil:
		return nil, errors.New("lookup: nobody to ask about standings")
	case !validLookupAnswer(cfg.Answer) || cfg.OwnAnswer != "" && !validLookupAnswer(cfg.OwnAnswer):
		return nil, fmt.Errorf("lookup: answer wants 1 to %d printable characters", maxLookupAnswer)
	case cfg.Connections < 1:
		return nil, errors.New("lookup: no connections allowed")
	}
	cfg.Timeouts = cfg.Timeouts.withDefaults()
	l := &Lookup{cfg: cfg, own: map[string]bool{}}
	for _, d := range cfg.Own {
		l.own[d] = true
	}
	l.neighbourServer = newNeighbourServer(cfg.Trusted, cfg.Connections, cfg.Log, l.session)
	return l, nil
}

const maxLookupAnswer = 255

func validLookupAnswer(s string) bool {
	return s != "" && len(s) <= maxLookupAnswer && mail.Sanitise(s) == s
}

// Counts returns the counts so far.
func (l *Lookup) Counts() LookupCounts {
	c := &l.counts
	return LookupCounts{
		Connections: l.connections.Load(), TurnedAway: l.turnedAway.Load(), BrokenOff: c.brokenOff.Load(),
		Peer: c.peer.Load(), Own: c.own.Load(), Legacy: c.legacy.Load(), Unsure: c.unsure.Load(), NoDomain: c.noDomain.Load(),
	}
}

// session answers one question after the other. After a line there is but one:
// Exim's readsocket reads to the end of the connection.
func (l *Lookup) session(ctx context.Context, c *neighbourConn) {
	br := bufio.NewReaderSize(c, lookupBuffer)
	for c.rest(l.cfg.Timeouts.Idle) {
		if _, err := br.Peek(1); err != nil {
			return
		}
		if !c.rest(l.cfg.Timeouts.Question) {
			return
		}
		q, err := readLookup(br)
		if err != nil {
			if !errors.Is(err, io.EOF) {
				l.counts.brokenOff.Add(1)
				l.log.Info("lookup broken off", "remote", remoteText(addrPort(c.RemoteAddr())), "err", err)
			}
			return
		}
		c.work(l.cfg.Timeouts.Question)
		answer := q.format(l.answer(ctx, q.key))
		c.SetWriteDeadline(time.Now().Add(l.cfg.Timeouts.Question))
		if _, err := c.Write(answer); err != nil || q.line {
			return
		}
	}
}

// The results of Postfix's socketmap_table(5).
const (
	lookupOK       = "OK "
	lookupNotFound = "NOTFOUND "
	lookupTemp     = "TEMP "
)

// answer looks one key up. Of a socketmap Postfix asks the whole address and
// nothing else (transport(5), on tables of that kind), and "*" once to see
// whether there is an answer for everything; of other tables it would ask the
// domain and each ".parent" too. What holds for an address is what holds for
// its domain; no domain holds for others.
func (l *Lookup) answer(ctx context.Context, key string) string {
	domain, err := mail.ParseDomain(key[strings.LastIndexByte(key, '@')+1:])
	if err != nil || mail.IsLiteral(domain) {
		l.counts.noDomain.Add(1)
		return lookupNotFound
	}
	if l.own[domain] {
		l.counts.own.Add(1)
		if l.cfg.OwnAnswer == "" {
			return lookupNotFound
		}
		return lookupOK + l.cfg.OwnAnswer
	}
	switch l.standing(ctx, domain) {
	case mail.Peer:
		l.counts.peer.Add(1)
		return lookupOK + l.cfg.Answer
	case mail.Legacy:
		l.counts.legacy.Add(1)
		return lookupNotFound
	default:
		// Never "not found": that mail would go by SMTP to a domain which may
		// have been promised that it does not.
		l.counts.unsure.Add(1)
		return lookupTemp + "cannot tell now whether " + domain + " takes mail over XMPP"
	}
}

// standing asks, unless asking took too long just now.
func (l *Lookup) standing(ctx context.Context, domain string) mail.Standing {
	if standing, kept := l.kept.get(domain); kept {
		return standing
	}
	ctx, cancel := context.WithTimeout(ctx, l.cfg.Timeouts.Answer)
	defer cancel()
	begun := time.Now()
	standing, failure := l.cfg.Standings.Standing(ctx, domain)
	if standing == mail.Unsure {
		l.log.Info("lookup cannot tell", "peer", domain, "err", failure)
	}
	l.kept.put(domain, standing, time.Since(begun))
	return standing
}

// format writes an answer as its question was written.
func (q lookupQuestion) format(answer string) []byte {
	if q.line {
		return []byte(strings.TrimRight(answer, " ") + "\n")
	}
	return fmt.Appendf(nil, "%d:%s,", len(answer), answer)
}
