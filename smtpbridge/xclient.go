package smtpbridge

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"mailxmppd/mail"
)

// The words of XCLIENT and XFORWARD (Postfix's XCLIENT_README and
// XFORWARD_README), as they are announced to a neighbour that may use them.
const (
	xclientKeyword  = "XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT"
	xforwardKeyword = "XFORWARD NAME ADDR PORT PROTO HELO IDENT SOURCE"
)

// sessionTrust says what a neighbour may tell about others. It goes by where
// the connection comes from, not by what XCLIENT made of that.
type sessionTrust struct{ xclient, xforward bool }

func (c *ServerConfig) trustIn(ip netip.Addr) sessionTrust {
	return sessionTrust{xclient: within(ip, c.XClient), xforward: within(ip, c.XForward)}
}

func (t sessionTrust) keywords() []string {
	var list []string
	if t.xclient {
		list = append(list, xclientKeyword)
	}
	if t.xforward {
		list = append(list, xforwardKeyword)
	}
	return list
}

// attribute is one name and value of XCLIENT or XFORWARD. A value is empty
// where the neighbour does not know it.
type attribute struct{ name, value string }

// maxAttribute is Postfix's bound for a host name, the longest value.
const maxAttribute = 255

// parseAttributes reads the argument of either command: names with xtext values,
// each name once, of those that the keyword announces.
func parseAttributes(keyword, arg string) ([]attribute, bool) {
	known := strings.Fields(keyword)[1:]
	var out []attribute
	for word := range strings.SplitSeq(arg, " ") {
		if word == "" {
			continue
		}
		name, encoded, ok := strings.Cut(word, "=")
		name = strings.ToUpper(name)
		value, valid := decodeXtext(encoded)
		i := slices.Index(known, name)
		if !ok || !valid || value == "" || len(value) > maxAttribute || i < 0 {
			return nil, false
		}
		known[i] = "" // not twice
		if upper := strings.ToUpper(value); upper == "[UNAVAILABLE]" || upper == "[TEMPUNAVAIL]" {
			value = ""
		}
		out = append(out, attribute{name, value})
	}
	return out, len(out) > 0
}

// attributeAddr reads "192.0.2.1" or "IPV6:2001:db8::1"; old versions leave
// the prefix away.
func attributeAddr(value string) (netip.Addr, bool) {
	if value == "" {
		return netip.Addr{}, true
	}
	if len(value) > 5 && strings.EqualFold(value[:5], "IPV6:") {
		value = value[5:]
	}
	ip, err := netip.ParseAddr(value)
	return ip.Unmap(), err == nil && ip.Zone() == ""
}

func attributePort(value string) (uint16, bool) {
	if value == "" {
		return 0, true
	}
	n, err := strconv.ParseUint(value, 10, 16)
	return uint16(n), err == nil
}

func attributeProto(value string) (string, bool) {
	value = strings.ToUpper(value)
	return value, value == "" || value == "SMTP" || value == "ESMTP"
}

// xclientHello is the client's greeting as its neighbour had it. It outlasts
// the greeting that the neighbour itself gives after XCLIENT.
type xclientHello struct {
	helo  string
	proto string
}

func (h xclientHello) applyTo(c *mail.Client) {
	if h.helo != "" {
		c.Helo = h.helo
	}
	if h.proto != "" {
		c.ESMTP = h.proto == "ESMTP"
	}
}

// xclient makes the session that of the neighbour's client, and begins it
// anew: XCLIENT_README has the 220 greeting as the positive reply.
func (s *session) xclient(cmd command) bool {
	if refusal := s.neighbourRefusal(); refusal != nil {
		return s.refuse(*refusal)
	}
	attributes, ok := parseAttributes(xclientKeyword, cmd.arg)
	c, told := s.client, s.told
	for i := 0; ok && i < len(attributes); i++ {
		ok = applyXClient(&c, &told, attributes[i])
	}
	if !ok {
		return s.refuse(badAttributes())
	}
	if !c.Via.IsValid() {
		c.Via = s.client.Addr
	}
	s.reset()
	s.greeted = false
	c.Helo, c.ESMTP, c.Forwarded = "", false, nil
	s.client, s.told = c, told
	s.srv.cfg.Log.Debug("smtp client told by neighbour", "neighbour", c.Via.String(), "remote", s.remote(), "user", c.User)
	return s.greet()
}

func (s *session) neighbourRefusal() *serverReply {
	switch {
	case !s.greeted:
		return &serverReply{503, "5.5.1", "say hello first"}
	case s.env != nil:
		return &serverReply{503, "5.5.1", "not in a mail transaction"}
	}
	return nil
}

func badAttributes() serverReply {
	return serverReply{501, "5.5.4", "bad attribute"}
}

func applyXClient(c *mail.Client, told *xclientHello, a attribute) (ok bool) {
	var ip netip.Addr
	var port uint16
	switch a.name {
	case "NAME":
		c.Name = cleanHello(a.value)
		ok = true
	case "ADDR":
		ip, ok = attributeAddr(a.value)
		c.Addr = netip.AddrPortFrom(ip, c.Addr.Port())
	case "PORT":
		port, ok = attributePort(a.value)
		c.Addr = netip.AddrPortFrom(c.Addr.Addr(), port)
	case "DESTADDR":
		ip, ok = attributeAddr(a.value)
		c.Local = netip.AddrPortFrom(ip, c.Local.Port())
	case "DESTPORT":
		port, ok = attributePort(a.value)
		c.Local = netip.AddrPortFrom(c.Local.Addr(), port)
	case "PROTO":
		told.proto, ok = attributeProto(a.value)
	case "HELO":
		told.helo = cleanHello(a.value)
		ok = true
	case "LOGIN":
		c.User = a.value
		ok = validUserName(a.value) || a.value == ""
	}
	return ok
}

// xforward notes what the neighbour tells about the client that the next
// message came from. It may take several commands to do so.
func (s *session) xforward(cmd command) bool {
	if refusal := s.neighbourRefusal(); refusal != nil {
		return s.refuse(*refusal)
	}
	var f mail.Forwarded
	if s.client.Forwarded != nil {
		f = *s.client.Forwarded
	}
	attributes, ok := parseAttributes(xforwardKeyword, cmd.arg)
	for i := 0; ok && i < len(attributes); i++ {
		ok = applyXForward(&f, attributes[i])
	}
	if !ok {
		return s.refuse(badAttributes())
	}
	s.client.Forwarded = &f
	return s.reply(serverReply{250, "2.0.0", "ok"})
}

func applyXForward(f *mail.Forwarded, a attribute) (ok bool) {
	var ip netip.Addr
	var port uint16
	switch a.name {
	case "NAME":
		f.Name = cleanHello(a.value)
		ok = true
	case "ADDR":
		ip, ok = attributeAddr(a.value)
		f.Addr = netip.AddrPortFrom(ip, f.Addr.Port())
	case "PORT":
		port, ok = attributePort(a.value)
		f.Addr = netip.AddrPortFrom(f.Addr.Addr(), port)
	case "PROTO":
		f.Proto, ok = attributeProto(a.value)
	case "HELO":
		f.Helo = cleanHello(a.value)
		ok = true
	case "IDENT":
		f.Ident = cleanHello(a.value)
		ok = true
	case "SOURCE":
		f.Source = strings.ToUpper(a.value)
		ok = f.Source == "" || f.Source == "LOCAL" || f.Source == "REMOTE"
	}
	return ok
}
