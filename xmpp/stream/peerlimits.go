package stream

import (
	"strconv"
	"strings"
	"time"

	"mailxmppd/xmpp/wire"
)

const (
	leastMaxBytes = 10000          // RFC 6120 section 13.12: what every peer takes at least
	maxPeerIdle   = 24 * time.Hour // longer announcements say nothing
)

// takeLimits reads what the peer announces (XEP-0478) in its features or its
// bidi element. Announcements that make no sense count as none.
func (n *negotiation) takeLimits(parent *wire.Element) {
	limits := parent.Child(nsLimits, "limits")
	if limits == nil {
		return
	}
	if v := limitOf(limits, "max-bytes"); v >= leastMaxBytes {
		n.peerMax = v
	}
	if v := time.Duration(limitOf(limits, "idle-seconds")) * time.Second; v > 0 && v < maxPeerIdle {
		n.peerIdle = v
	}
}

func limitOf(limits *wire.Element, name string) int {
	el := limits.Child(nsLimits, name)
	if el == nil {
		return 0
	}
	v, err := strconv.ParseUint(strings.TrimSpace(string(el.Text)), 10, 31)
	if err != nil {
		return 0
	}
	return int(v)
}

// ownLimits announces ours, which hold as long as the stream.
func (n *negotiation) ownLimits() string {
	idle := ""
	if s := int(n.m.cfg.IdleClose.Seconds()); s > 0 {
		idle = "<idle-seconds>" + strconv.Itoa(s) + "</idle-seconds>"
	}
	return "<limits xmlns='" + nsLimits + "'><max-bytes>" + strconv.Itoa(n.m.cfg.Limits.StanzaBytes) +
		"</max-bytes>" + idle + "</limits>"
}
