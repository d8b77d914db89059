package crash

// kill is one way to die: which gateway, where, and what traffic gets it there.
type kill struct {
	point   string   // "": any moment
	victim  string   // "a": the sending gateway, "b": the receiving one
	cut     bool     // cut-through instead of spooling at a
	legacy  bool     // mail to a legacy domain by SMTP instead of the peer over XMPP
	large   bool     // messages that travel in chunks and are stored in pieces
	lmtp    bool     // messages to two mailboxes of the peer come in by LMTP
	dsn     bool     // messages that cannot be delivered, whose DSNs go to the peer, or to a legacy domain
	backend string   // that has the point; "": both
	env     []string // what else the victim needs to get there
}

// upkeep has the store rid itself of what is old every second.
var upkeep = []string{"MAILXMPPD_MAINTAIN=1s"}

// Attempts that take longer than the time after which their leases are renewed,
// at some step of each way.
var (
	longBySMTP = []string{"MAILXMPPD_LEASE=2s", "MAILXMPPD_SLOW_AT=smtp.after-dot:1200ms"}
	longByXMPP = []string{"MAILXMPPD_LEASE=2s", "MAILXMPPD_SLOW_AT=xmpp.after-answer:1200ms"}
)

// kills reaches every stop point there is, on each side that has it.
var kills = []kill{
	{victim: "a"},
	{victim: "a", cut: true},
	{victim: "a", large: true},
	{victim: "a", legacy: true},
	{victim: "b"},
	{victim: "b", cut: true, large: true},
	{point: "accept.received", victim: "a"},
	{point: "accept.received", victim: "a", cut: true},
	{point: "accept.handed-over", victim: "a", cut: true},
	{point: "accept.spooled", victim: "a"},
	{point: "smtp.before-reply", victim: "a"},
	{point: "smtp.before-reply", victim: "a", cut: true},
	{point: "smtp.replied", victim: "a"},
	{point: "smtp.replied", victim: "a", cut: true},
	{point: "store.put.before-commit", victim: "a"},
	{point: "store.put.before-commit", victim: "a", large: true},
	{point: "store.put.after-commit", victim: "a"},
	{point: "store.put.after-commit", victim: "a", large: true},
	{point: "store.stage.before-commit", victim: "a", large: true},
	{point: "store.stage.after-commit", victim: "a", large: true},
	{point: "store.claim.before-commit", victim: "a"},
	{point: "store.claim.after-commit", victim: "a"},
	{point: "store.begin.before-commit", victim: "a"},
	{point: "store.begin.after-commit", victim: "a"},
	{point: "deliver.begun", victim: "a"},
	{point: "xmpp.before-offer", victim: "a"},
	{point: "xmpp.before-offer", victim: "a", cut: true},
	{point: "xmpp.after-answer", victim: "a"},
	{point: "xmpp.after-answer", victim: "a", large: true},
	{point: "xmpp.chunk-sent", victim: "a", large: true},
	{point: "xmpp.chunk-sent", victim: "a", cut: true, large: true},
	{point: "xmpp.before-commit", victim: "a", large: true},
	{point: "xmpp.before-commit", victim: "a", cut: true, large: true},
	{point: "deliver.tried", victim: "a"},
	{point: "settle.before", victim: "a"},
	{point: "store.settle.before-commit", victim: "a"},
	{point: "store.settle.after-commit", victim: "a"},
	{point: "store.sweep.before-commit", victim: "a", large: true, backend: "sqlite"},
	{point: "store.sweep.after-commit", victim: "a", large: true, backend: "sqlite"},
	{point: "settle.after", victim: "a"},
	{point: "store.remove.before-commit", victim: "a", env: upkeep},
	{point: "store.remove.after-commit", victim: "a", env: upkeep},
	{point: "smtp.dialled", victim: "a", legacy: true},
	{point: "smtp.recipients-taken", victim: "a", legacy: true},
	{point: "smtp.before-dot", victim: "a", legacy: true},
	{point: "smtp.after-dot", victim: "a", legacy: true},
	{point: "smtp.after-reply", victim: "a", legacy: true},
	{point: "deliver.tried", victim: "a", legacy: true},
	{point: "store.settle.before-commit", victim: "a", legacy: true},
	{point: "xmpp.opened", victim: "b", large: true},
	{point: "store.transfer.before-commit", victim: "b", large: true},
	{point: "store.transfer.after-commit", victim: "b", cut: true, large: true},
	{point: "xmpp.chunk-taken", victim: "b", large: true},
	{point: "xmpp.chunk-taken", victim: "b", cut: true, large: true},
	{point: "receive.before-accept", victim: "b"},
	{point: "receive.before-accept", victim: "b", cut: true, large: true},
	{point: "store.accept.before-commit", victim: "b"},
	{point: "store.accept.before-commit", victim: "b", cut: true},
	{point: "store.accept.after-commit", victim: "b"},
	{point: "store.accept.after-commit", victim: "b", cut: true, large: true},
	{point: "xmpp.after-accept", victim: "b"},
	{point: "xmpp.after-accept", victim: "b", cut: true},
	{point: "deliver.begun", victim: "b"},
	{point: "smtp.dialled", victim: "b"},
	{point: "smtp.recipients-taken", victim: "b"},
	{point: "smtp.before-dot", victim: "b"},
	{point: "smtp.after-dot", victim: "b"},
	{point: "smtp.after-reply", victim: "b"},
	{point: "deliver.tried", victim: "b"},
	{point: "settle.before", victim: "b"},
	{point: "store.settle.before-commit", victim: "b"},
	{point: "store.settle.after-commit", victim: "b"},
	{point: "store.renew.before-commit", victim: "a", env: longByXMPP},
	{point: "store.renew.after-commit", victim: "a", env: longByXMPP},
	{point: "store.renew.before-commit", victim: "a", legacy: true, env: longBySMTP},
	{point: "store.renew.after-commit", victim: "a", legacy: true, env: longBySMTP},
	{point: "store.renew.before-commit", victim: "b", env: longBySMTP},
	{point: "store.renew.after-commit", victim: "b", env: longBySMTP},
	{point: "accept.received", victim: "a", lmtp: true},
	{point: "store.put.before-commit", victim: "a", lmtp: true},
	{point: "store.put.after-commit", victim: "a", lmtp: true},
	{point: "accept.handed-over", victim: "a", cut: true, lmtp: true},
	{point: "lmtp.replying", victim: "a", lmtp: true},
	{point: "lmtp.replying", victim: "a", cut: true, lmtp: true},
	{point: "smtp.before-reply", victim: "a", lmtp: true},
	{point: "smtp.replied", victim: "a", cut: true, lmtp: true},
	{point: "store.accept.after-commit", victim: "b", cut: true, lmtp: true},
	{point: "store.report.before-commit", victim: "b", dsn: true},
	{point: "store.report.after-commit", victim: "b", dsn: true},
	{point: "xmpp.before-offer", victim: "b", dsn: true},
	{point: "xmpp.after-answer", victim: "b", dsn: true},
	{point: "store.settle.before-commit", victim: "b", dsn: true},
	{point: "store.accept.before-commit", victim: "a", dsn: true},
	{point: "store.accept.after-commit", victim: "a", dsn: true},
	{point: "xmpp.after-accept", victim: "a", dsn: true},
	{point: "smtp.after-dot", victim: "a", dsn: true},
	{point: "store.report.before-commit", victim: "a", dsn: true, legacy: true},
	{point: "store.report.after-commit", victim: "a", dsn: true, legacy: true},
	{point: "smtp.before-dot", victim: "a", dsn: true, legacy: true},
	{point: "smtp.after-dot", victim: "a", dsn: true, legacy: true},
	{point: "smtp.after-reply", victim: "a", dsn: true, legacy: true},
	{point: "store.settle.before-commit", victim: "a", dsn: true, legacy: true},
}

func (k kill) String() string {
	name := k.point
	if name == "" {
		name = "any moment"
	}
	name += " at " + k.victim
	for _, f := range []struct {
		on   bool
		word string
	}{{k.cut, " cut-through"}, {k.legacy, " legacy"}, {k.large, " large"}, {k.lmtp, " by lmtp"}, {k.dsn, " dsn"}} {
		if f.on {
			name += f.word
		}
	}
	return name
}
