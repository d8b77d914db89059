package interop

import (
	"testing"
	"time"

	"mailxmppd/xmpp/component"
)

// TestOneNode: of two nodes with one component name the later one stays out,
// whether the server refuses it (Prosody) or not (ejabberd), and takes over
// when the first is gone.
func TestOneNode(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for _, c := range []*chatServer{s.prosody(t, nil), s.ejabberd(t)} {
		t.Run(c.name, func(t *testing.T) {
			often := func(cfg *component.Config) { cfg.AloneEvery = 200 * time.Millisecond }
			first, leave := c.join(t, c.bot, often)
			connected(t, first)
			second, _ := c.join(t, c.bot, often)
			eventually(t, "the second node has been turned away", func() bool {
				n := second.Snapshot()
				return n.Refused > 1
			})
			if n := first.Snapshot(); !n.Live || n.Connected != 1 {
				t.Errorf("first node: %+v", n)
			}
			leave()
			eventually(t, "the second node serves alone", func() bool {
				l, err := second.Link(t.Context(), c.bot, c.domain)
				if err == nil {
					_, err = l.Request(t.Context(), "get", []byte(ping))
				}
				return err == nil
			})
		})
	}
}
