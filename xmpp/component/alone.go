package component

import (
	"fmt"
	"strings"
	"time"

	"mellium.im/xmpp/stanza"

	"mailxmppd/xmpp/wire"
)

// Answers come to whoever the server takes for the component, so that of two
// nodes with one name each would lose the other's. Prosody refuses the second;
// ejabberd lets both in and gives each stanza to one of them. Therefore a node
// writes to its own name now and then: what it gets back tells nothing, but
// what another node gets shows both that there are two, and the one that
// connected later leaves.

// aloneID begins the ids of these requests; the time of connecting follows.
const aloneID = "alone-"

// atOnce is how many are sent together: half of them, on average, go to a
// second node.
const atOnce = 12

// newNode names a connection so that names sort by the time of connecting.
func newNode() string { return fmt.Sprintf("%s%016x-%s-", aloneID, time.Now().UnixNano(), newID()) }

// watch asks at the beginning and then every AloneEvery. It also notices a
// server that has stopped without closing the connection: one that has brought
// something back, and then does so no more.
func (s *session) watch() {
	tick := time.NewTicker(s.c.cfg.AloneEvery)
	defer tick.Stop()
	for answers := false; ; {
		s.callOut()
		select {
		case <-tick.C:
		case <-s.ctx.Done():
			return
		}
		switch back := s.back.Swap(0); {
		case back > 0:
			answers = true
		case answers:
			s.c.cfg.Log.Warn("server does not answer", "local", s.c.cfg.Domain, "remote", s.c.cfg.Address)
			s.conn.Close() // which ends the reader
			return
		}
	}
}

func (s *session) callOut() {
	own := addresses(s.c.cfg.Domain, s.c.cfg.Domain)
	for range atOnce {
		s.out.try([]byte("<iq type='get' id='" + s.node + newID() + "'" + own + "<ping xmlns='" + nsPing + "'/></iq>"))
	}
}

// meet deals with what has come from our own name. It reports false for what
// is none of these requests and their refusals.
func (s *session) meet(el *wire.Element) bool {
	id := el.Attr("id")
	if el.Name.Local != "iq" || !strings.HasPrefix(id, aloneID) {
		return false
	}
	own := strings.HasPrefix(id, s.node)
	if own {
		s.back.Add(1)
	}
	switch typ := el.Attr("type"); {
	case typ == "error" && own:
		if refusal, _ := readError(el); refusal.Condition == string(stanza.Conflict) {
			s.second = true
		}
	case typ == "get" && !own && id < s.node:
		s.second = true
	case typ == "get" && !own:
		s.refuse(el, stanza.Cancel, stanza.Conflict, "component is connected already")
	}
	return true
}
