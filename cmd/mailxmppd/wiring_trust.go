package main

import (
	"context"
	"crypto/x509"
	"log/slog"
	"strings"

	"mailxmppd/config"
	"mailxmppd/dns"
	"mailxmppd/gateway"
	"mailxmppd/mail"
	"mailxmppd/store"
	"mailxmppd/trust"
	"mailxmppd/trust/contacts"
	"mailxmppd/xmpp/peers"
)

// newJudge makes what judges who mail is from; nil where the operator does not
// want that.
func (p *parts) newJudge(ctx context.Context, cfg *config.Config, st store.Store, resolver *dns.Resolver, log *slog.Logger) (*trust.Judge, error) {
	t := cfg.Trust
	if !t.Enabled {
		return nil, nil
	}
	key, err := sharedKey(ctx, st, "sent")
	if err != nil {
		return nil, err
	}
	conf := trust.Config{
		DNS: resolver, Hostname: cfg.SMTP.Hostname, Peers: announced{p.xmpp.directory}, Sealers: t.Sealers, Forwarders: t.Forwarders,
		Budget: t.DNSBudget.Duration, MaxSignatures: t.Signatures, Log: log,
	}
	for _, s := range t.Secondaries {
		conf.Secondaries = append(conf.Secondaries, trust.Secondary{Networks: prefixes(s.Networks), AuthservID: s.AuthservID, Recipients: s.Recipients})
	}
	domains := map[string]trust.DomainPolicy{}
	var known []string
	for _, d := range cfg.Domains {
		if domains[d.Name], err = domainPolicy(d.Trust); err != nil {
			return nil, err
		}
		known = append(known, d.Name)
	}
	keys := contacts.NewKeys(contacts.New(contacts.Config{
		Store: st, LearntPermit: cfg.Contacts.Learnt == config.LearntPermit, MaxMessage: int64(cfg.Contacts.MaxMessage),
	}))
	jc := trust.JudgeConfig{
		Evaluator: trust.New(conf), Domains: domains, Marks: trust.NewSentMarks(key, st, t.ReportsFor.Duration),
		OpenFor: t.PutOff.Duration, Known: known, Log: log, Sealer: sealing(cfg, p.signing),
		Keys: []trust.Permits{keys}, Attester: keys,
		Learner: learning(p.learner),
	}
	if p.grants != nil {
		jc.Grants, jc.Granter = []trust.Permits{p.grants}, p.grants
	}
	return trust.NewJudge(jc), nil
}

// domainPolicy is what a domain of the configuration wants.
func domainPolicy(t config.DomainTrust) (trust.DomainPolicy, error) {
	out := trust.DomainPolicy{
		Policy: policy(t.Default, t.Forged, t.Unclear, t.AutoGrant, t.Forwarders), DeniedText: t.DeniedText, Mailboxes: map[string]trust.Policy{},
	}
	for _, m := range t.Mailboxes {
		a, err := mail.ParseAddress(m.Address)
		if err != nil {
			return out, err
		}
		out.Mailboxes[strings.ToLower(a.Local)] = policy(m.Default, m.Forged, m.Unclear, m.AutoGrant, append(m.Forwarders, t.Forwarders...))
	}
	return out, nil
}

func policy(standard, forged, unclear, grant string, forwarders []string) trust.Policy {
	return trust.Policy{
		Deny: standard == config.DefaultDeny, RejectForged: forged == config.ForgedReject, RejectUnclear: unclear == config.ForgedReject,
		AutoGrant: grant == config.On, Forwarders: forwarders,
	}
}

// judging is a Judge for the gateway: no interface around nothing.
func judging(j *trust.Judge) gateway.Judge {
	if j == nil {
		return nil
	}
	return j
}

// newLearner makes what keeps the keys of permitted authors; nil where the
// operator does not want that.
func newLearner(cfg *config.Config, st store.Contacts, resolver *dns.Resolver, roots *x509.CertPool, log *slog.Logger) *contacts.Learner {
	if len(cfg.Contacts.Learn) == 0 {
		return nil
	}
	conf := contacts.LearnConfig{Store: st, Autocrypt: cfg.Contacts.Learns(config.LearnAutocrypt), Log: log}
	if cfg.Contacts.Learns(config.LearnWKD) {
		conf.Directory = contacts.NewDirectory(contacts.DirectoryConfig{DNS: resolver, Roots: roots})
	}
	return contacts.NewLearner(conf)
}

// learning is a Learner for the Judge: no interface around nothing.
func learning(l *contacts.Learner) trust.Learner {
	if l == nil {
		return nil
	}
	return l
}

// announced is what peers have said of themselves, as package trust asks.
type announced struct{ directory *peers.Directory }

// SendsOnlyXMPP implements trust.Peers.
func (a announced) SendsOnlyXMPP(ctx context.Context, domain string) (bool, error) {
	return a.directory.XMPPOnly(ctx, domain)
}
