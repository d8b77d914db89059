package transfer

import "mailxmppd/mail"

// batch is a part of an attempt's recipients that goes in one request. The
// protocol names a recipient once (xep-draft section 5.2); who is there twice
// in the envelope gets the same verdict twice.
type batch struct {
	rcpts   []rcpt
	numbers [][]int // per entry of rcpts its places in the envelope
}

// group cuts recipients into batches of at most most.
func group(all []mail.Recipient, most int) []*batch {
	if len(all) == 0 {
		return nil
	}
	b := &batch{}
	at := make(map[mail.Address]int, len(all))
	for n, r := range all {
		i, ok := at[r.Address]
		if !ok {
			i = len(b.rcpts)
			at[r.Address] = i
			b.rcpts = append(b.rcpts, rcpt{to: r.Address.String(), Recipient: r})
			b.numbers = append(b.numbers, nil)
		}
		b.numbers[i] = append(b.numbers[i], n)
	}
	var out []*batch
	for ; len(b.rcpts) > most; b = b.from(most) {
		out = append(out, &batch{b.rcpts[:most], b.numbers[:most]})
	}
	return append(out, b)
}

func (b *batch) from(i int) *batch { return &batch{b.rcpts[i:], b.numbers[i:]} }

// halves splits a batch that does not fit into one stanza.
func (b *batch) halves() []*batch {
	i := len(b.rcpts) / 2
	return []*batch{{b.rcpts[:i], b.numbers[:i]}, b.from(i)}
}

// without returns b less the recipients with these addresses.
func (b *batch) without(done map[string]bool) *batch {
	out := &batch{}
	for i, r := range b.rcpts {
		if !done[r.to] {
			out.rcpts = append(out.rcpts, r)
			out.numbers = append(out.numbers, b.numbers[i])
		}
	}
	return out
}
