package smtpbridge

import "bytes"

// headerGuard refuses headers that cost those who read them later more than
// they are worth: verifying a signature over one folded field of a megabyte
// takes minutes. It holds no octet of the header.
type headerGuard struct {
	limits ServerLimits
	done   bool // the header has ended

	lines, octets, field int
	line                 int  // octets of the current line so far
	folded               bool // the current line continues a field
	colon                bool // the current line has a colon
}

// text takes octets of the current line, its LF not among them.
func (g *headerGuard) text(p []byte) {
	if g.done || len(p) == 0 {
		return
	}
	if g.line == 0 {
		g.folded = p[0] == ' ' || p[0] == '\t'
	}
	g.colon = g.colon || bytes.IndexByte(p, ':') >= 0
	g.line += len(p)
}

// leading reports whether the header begins with a folded line. It continues
// nothing (RFC 5322 section 2.2.3), until somebody puts a field before it: then it
// is a part of that field, as it would be of our verdict.
func (g *headerGuard) leading() bool { return !g.done && g.lines == 0 && g.line > 0 && g.folded }

// endLine ends the current line, whose last octet is CR unless its end is a
// bare LF. A line that is neither a field nor the
// continuation of one ends the header, as an empty one does: what follows is
// the body (RFC 5322 section 2.1).
func (g *headerGuard) endLine(cr bool) (serverReply, bool) {
	if g.done {
		return serverReply{}, true
	}
	if g.line == 0 || g.line == 1 && cr || !g.folded && !g.colon {
		g.done = true
		return serverReply{}, true
	}
	if !g.folded {
		g.field = 0
	}
	g.lines++
	g.octets += g.line + 1
	g.field += g.line + 1
	g.line, g.folded, g.colon = 0, false, false
	switch {
	case g.lines > g.limits.HeaderLines:
		return serverReply{554, "5.6.0", "header of the message has too many lines"}, false
	case g.octets > g.limits.HeaderBytes:
		return serverReply{552, "5.6.0", "header of the message is too large"}, false
	case g.field > g.limits.HeaderField:
		return serverReply{552, "5.6.0", "header field of the message is too large"}, false
	}
	return serverReply{}, true
}
