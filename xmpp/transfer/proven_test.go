package transfer

import (
	"context"
	"fmt"
	"testing"

	"mailxmppd/xmpp/wire"
)

// forgedLink gives the same answer to each request by its name.
type forgedLink struct {
	*fakeLink
	answers map[string]string
}

func (l *forgedLink) Request(_ context.Context, _ string, payload []byte) (*wire.Element, error) {
	el, err := parseElement(payload)
	if err != nil {
		return nil, err
	}
	return parseElement([]byte(fmt.Sprintf(l.answers[el.Name.Local], Namespace, el.Attr("tid"))))
}

// TestAcceptedWithoutQueueID: only a queue-id shows that responsibility has
// moved; without one the recipient is in doubt.
func TestAcceptedWithoutQueueID(t *testing.T) {
	const half = "<accepted xmlns='%s' tid='%s'><rcpt to='romeo@montague.example'/><rcpt to='mercutio@montague.example' queue-id='1'/></accepted>"
	for _, inDoubt := range []bool{false, true} {
		x := newSetup()
		x.links.link = &forgedLink{x.link, map[string]string{"offer": half, "status": half}}
		a := message(100, "romeo", "mercutio")
		a.InDoubt = inDoubt
		expect(t, x.deliver(t, a), "in-doubt/4.4.2 ok")
	}
}
