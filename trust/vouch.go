package trust

import (
	"bytes"
	"context"
	"errors"
	"io"

	"mailxmppd/mail"
	"mailxmppd/trust/arc"
)

// Vouch returns the header fields with which a message goes on from here to
// others: what was found of it in our name, and, where a sealer is there, that
// in an ARC set (RFC 8617), by which those who trust us can judge it as if it had
// come to them. None where nothing was looked at. It is called before anything
// else of ours stands in m.Trace.
func (j *Judge) Vouch(ctx context.Context, src mail.Source, m *mail.Message) []byte {
	return j.vouch(m, j.cfg.Evaluator.Evaluate(ctx, j.input(src, m)))
}

// vouch is Vouch for a message that was looked at before.
func (j *Judge) vouch(m *mail.Message, ev Evidence) []byte {
	if !ev.Judged {
		return nil
	}
	fields := j.cfg.Evaluator.AuthenticationResults(ev)
	if j.cfg.Sealer == nil {
		return []byte(fields)
	}
	sealer, ok := j.cfg.Sealer()
	if !ok {
		return []byte(fields)
	}
	set, err := j.seal(sealer, m, ev)
	if err != nil && !errors.Is(err, arc.ErrNotSealed) {
		j.cfg.Log.Warn("forwarded message not sealed", "id", m.ID, "from", m.Envelope.Sender, "err", err)
	}
	return []byte(set + fields)
}

func (j *Judge) seal(sealer arc.Sealer, m *mail.Message, ev Evidence) (string, error) {
	content, err := m.Content.Open()
	if err != nil {
		return "", err
	}
	defer content.Close()
	return sealer.Seal(io.MultiReader(bytes.NewReader(m.Trace), content), ev.ARC, ev.Methods(), j.cfg.Evaluator.now())
}
