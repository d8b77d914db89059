package postgres

import (
	"encoding/json"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// tryOutcome is how an attempt ended, as it is stored: what store.Try shows of
// it.
type tryOutcome struct {
	Result   store.State `json:"result"`
	Status   string      `json:"status,omitempty"`
	Text     string      `json:"text,omitempty"`
	Remote   string      `json:"remote,omitempty"`
	RemoteID string      `json:"remote_id,omitempty"`
	Proof    string      `json:"proof,omitempty"`
	TLS      string      `json:"tls,omitempty"`
}

// storedOutcome returns the JSON of an outcome, and its words.
func storedOutcome(result store.State, o mail.Outcome) (stored, text string) {
	t := tryOutcome{Result: result, Text: clean(o.Text), Remote: clean(o.Remote), RemoteID: clean(o.RemoteID), Proof: clean(o.Proof), TLS: clean(o.TLS)}
	if o.Failure != nil {
		t.Status = o.Failure.Status()
		if t.Text == "" {
			t.Text = clean(o.Failure.Text)
		}
		if t.Remote == "" {
			t.Remote = clean(o.Failure.Remote)
		}
	}
	b, _ := json.Marshal(t) // strings alone cannot fail
	return string(b), t.Text
}

// try reads an attempt back.
func (t tryOutcome) fill(try *store.Try) {
	try.Result, try.Status, try.Text = t.Result, t.Status, t.Text
	try.Remote, try.RemoteID, try.Proof, try.TLS = t.Remote, t.RemoteID, t.Proof, t.TLS
}

func loadOutcome(stored *string, try *store.Try) error {
	if stored == nil {
		return nil
	}
	var t tryOutcome
	if err := json.Unmarshal([]byte(*stored), &t); err != nil {
		return err
	}
	t.fill(try)
	return nil
}
