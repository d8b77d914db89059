package stream

const (
	nsServer       = "jabber:server"
	nsStreamErrors = "urn:ietf:params:xml:ns:xmpp-streams"
	nsStanzas      = "urn:ietf:params:xml:ns:xmpp-stanzas"
	nsTLS          = "urn:ietf:params:xml:ns:xmpp-tls"
	nsSASL         = "urn:ietf:params:xml:ns:xmpp-sasl"
	nsBidi         = "urn:xmpp:bidi"            // XEP-0288
	nsBidiFeature  = "urn:xmpp:features:bidi"   // XEP-0288
	nsLimits       = "urn:xmpp:stream-limits:0" // XEP-0478
	nsAcks         = "urn:xmpp:sm:3"            // XEP-0198
	nsPing         = "urn:xmpp:ping"            // XEP-0199
	nsVersion      = "jabber:iq:version"        // XEP-0092
	nsDiscoInfo    = "http://jabber.org/protocol/disco#info"
	nsDiscoItems   = "http://jabber.org/protocol/disco#items"
	nsDialback     = "jabber:server:dialback" // XEP-0220
)
