package smtpbridge

import "bytes"

// contentGuard looks at content line by line as it goes by, and says why it
// must be refused. CR and LF occur in that pair only (RFC 5321 section 2.3.8),
// so that no other program's idea of a line end can make two messages of one.
// There are two exceptions: under BODY=BINARYMIME the body is octets (RFC 3030
// section 3), but not the header, and a submission client's bare LF may be
// repaired. It holds no octet of the content.
type contentGuard struct {
	header  headerGuard
	maxLine int
	binary  bool // octets in any order are allowed after the header
	repair  bool // a bare LF ends a line, and becomes CRLF by lineRepairer

	cr       bool            // the last octet of the current line was CR
	length   int             // octets of the current line so far
	repaired int64           // octets that lineRepairer adds
	bare     bool            // the last line ended in a bare LF
	refused  *refusedContent // the first reason
}

func newContentGuard(limits ServerLimits, binary, repair bool) contentGuard {
	return contentGuard{header: headerGuard{limits: limits}, maxLine: limits.ContentLine, binary: binary, repair: repair}
}

// line takes octets of the current line up to and with the next LF, and
// returns how many they are and whether the line has ended.
func (g *contentGuard) line(p []byte) (n int, ended bool) {
	if g.binary && g.header.done {
		return len(p), false
	}
	lf := bytes.IndexByte(p, '\n')
	text := p
	if lf >= 0 {
		text = p[:lf]
	}
	endsInCR := g.cr
	if len(text) > 0 {
		first := bytes.IndexByte(text, '\r')
		if g.cr || first >= 0 && first < len(text)-1 {
			g.refuseLineEnd()
		}
		endsInCR = text[len(text)-1] == '\r'
	}
	g.header.text(text)
	if g.header.leading() {
		g.refuse(serverReply{550, "5.6.0", "message begins with white space, which would continue a header field of another"})
	}
	g.length += len(text)
	g.cr = endsInCR
	if lf < 0 {
		g.checkLength()
		return len(p), false
	}
	g.cr = false
	if !endsInCR && !g.repair {
		g.refuseLineEnd() // and the line goes on
		return lf + 1, false
	}
	if g.bare = !endsInCR; g.bare {
		g.repaired++
	}
	g.checkLength()
	if reply, ok := g.header.endLine(endsInCR); !ok {
		g.refuse(reply)
	}
	g.length = 0
	return lf + 1, true
}

// all takes octets that are content as they stand.
func (g *contentGuard) all(p []byte) {
	for len(p) > 0 {
		n, _ := g.line(p)
		p = p[n:]
	}
}

// end takes the end of content that has no end of its own.
func (g *contentGuard) end() {
	if g.cr {
		g.refuseLineEnd()
	}
}

// checkLength looks at the current line, whose last octet may be the CR of its
// end.
func (g *contentGuard) checkLength() {
	if g.length > g.maxLine+1 {
		g.refuse(serverReply{554, "5.6.0", "line of the message is too long"})
	}
}

func (g *contentGuard) refuseLineEnd() {
	if g.refused != nil { // a flood of them makes no more text
		return
	}
	where := "message"
	if g.binary {
		where = "header"
	}
	g.refuse(serverReply{550, "5.6.0", "bare CR or LF in the " + where + ", lines must end in CRLF"})
}

// refuse keeps the first reason.
func (g *contentGuard) refuse(reply serverReply) {
	if g.refused == nil {
		g.refused = &refusedContent{reply}
	}
}
