package gateway

import (
	"bytes"
	"io"
	"slices"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// Alias is an address of ours that stands for others, of ours or of anybody.
// Where it is among its own targets it is a mailbox, too.
type Alias struct {
	Address mail.Address
	To      []mail.Address
}

// aliases finds an alias, as Table does a mailbox: without regard to ASCII case.
type aliases map[mail.Address]Alias

func newAliases(list []Alias) aliases {
	m := aliases{}
	for _, a := range list {
		m[folded(a.Address)] = a
	}
	return m
}

func (a aliases) has(addr mail.Address) bool {
	if len(a) == 0 {
		return false
	}
	_, ok := a[folded(addr)]
	return ok
}

// targets lists the mailboxes behind an address, those of other aliases
// included, each once. An alias that is met on the way to itself is meant as a
// mailbox, so that no circle of them has no end.
func (a aliases) targets(addr mail.Address) []mail.Address {
	var out []mail.Address
	seen, way := map[mail.Address]bool{}, map[mail.Address]bool{}
	var walk func(addr mail.Address)
	walk = func(addr mail.Address) {
		key := folded(addr)
		alias, ok := a[key]
		switch {
		case !ok || way[key]:
			if !slices.Contains(out, addr) {
				out = append(out, addr)
			}
		case !seen[key]:
			seen[key], way[key] = true, true
			for _, to := range alias.To {
				walk(to)
			}
			way[key] = false
		}
	}
	walk(addr)
	return out
}

// expansion is what the aliases among a message's recipients came to.
type expansion struct {
	env      mail.Envelope
	at       []int // per original recipient its first place in env
	aliases  []mail.Recipient
	expanded []int // originals whose sender wants to hear of success, and will not hear it of several mailboxes
}

// expand puts the mailboxes behind aliases in their place, nobody twice. DSN
// parameters go on as RFC 3461 section 5.2.7.2 has it for an alias of one
// mailbox, and section 5.2.7.3 (c) for one of several.
func (g *Gateway) expand(env mail.Envelope) expansion {
	x := expansion{env: env}
	if !slices.ContainsFunc(env.Recipients, func(r mail.Recipient) bool { return g.aliases.has(r.Address) }) {
		return x
	}
	x.env.Recipients = nil
	place := map[mail.Address]int{}
	for i, r := range env.Recipients {
		targets := []mail.Address{r.Address}
		to := r
		if g.aliases.has(r.Address) {
			targets = g.aliases.targets(r.Address)
			x.aliases = append(x.aliases, r)
			if to.Original == "" { // what the sender knows, RFC 3461 section 4.2
				to.Original = addressType(r.Address) + ";" + r.Address.String()
			}
			if len(targets) > 1 && r.WantsSuccess() {
				x.expanded = append(x.expanded, i)
				if to.Notify &^= mail.NotifySuccess; to.Notify == 0 {
					to.Notify = mail.NotifyNever
				}
			}
		}
		for n, target := range targets {
			at, there := place[target]
			if !there {
				at = len(x.env.Recipients)
				place[target] = at
				to.Address = target
				x.env.Recipients = append(x.env.Recipients, to)
			}
			if n == 0 {
				x.at = append(x.at, at)
			}
		}
	}
	return x
}

// back gives each original recipient the id of its first mailbox: all of them
// were accepted together.
func (x expansion) back(ids []mail.ID) []mail.ID {
	if len(x.aliases) == 0 {
		return ids
	}
	out := make([]mail.ID, len(x.at))
	for i, at := range x.at {
		out[i] = ids[at]
	}
	return out
}

// unalias expands a message's recipients before it is taken. A message that has
// been through one of its aliases before is looping: each carries the mark of
// those that it has been through (see loops.go), wherever it went from here.
func (g *Gateway) unalias(m *mail.Message, content mail.Content) (expansion, *mail.Failure) {
	x := g.expand(m.Envelope)
	if len(x.aliases) == 0 {
		return x, nil
	}
	m.Origin.Forwarded = true
	if len(g.loops.key) == 0 {
		return x, nil
	}
	passed, err := passedHere(m.Trace, content)
	if err != nil {
		return x, mail.AsFailure(err)
	}
	for _, r := range x.aliases {
		if passed[g.loops.mark(r.Address)] {
			return x, mail.Failf(mail.Loop, "mail for %s comes back after it was forwarded: the message is looping", r.Address)
		}
	}
	m.Trace = append(g.loops.field(x.aliases), m.Trace...)
	return x, nil
}

// passedHere collects the marks of a message, in trace and content.
func passedHere(trace []byte, content mail.Content) (map[string]bool, error) {
	in, err := content.Open()
	if err != nil {
		return nil, err
	}
	defer in.Close()
	return passedMarks(io.MultiReader(bytes.NewReader(trace), io.LimitReader(in, maxMarkHeader)))
}

// expandedReports tell the sender that the message was handed to the several
// mailboxes of an alias, which is the success that can be told of one. They are
// stored with the message: neither is there without the other.
func (g *Gateway) expandedReports(m *mail.Message, content mail.Content, original mail.Envelope, expanded []int) ([]store.NewMessage, *mail.Failure) {
	if len(expanded) == 0 {
		return nil, nil
	}
	n := notice{action: "expanded", content: content, way: toLocal, lease: store.Lease{
		ID: m.ID, Envelope: original, Facts: m.Facts, Trace: m.Trace, Origin: m.Origin,
		Domain: original.Recipients[expanded[0]].Address.Domain,
	}}
	for _, i := range expanded {
		n.reports = append(n.reports, report{original.Recipients[i], store.Result{State: store.Delivered}, store.Delivery{N: i}})
	}
	dsn, err := g.dsn(n)
	switch {
	case err != nil:
		return nil, mail.AsFailure(err)
	case dsn == nil:
		return nil, nil
	}
	return []store.NewMessage{*dsn}, nil
}
