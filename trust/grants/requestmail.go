package grants

import (
	"fmt"
	"mime"
	"strings"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// maxSaid bounds what is shown of an author's words, in characters.
const maxSaid = 160

// requestMail asks a recipient whether an author may write. From the author
// come nothing but his address and one line, both printable and marked as his.
func (g *Grants) requestMail(to mail.Address, asked store.Grant) []byte {
	permit, refuse := g.address(permits, asked, to.Domain), g.address(refuses, asked, to.Domain)
	author := mail.Sanitise(asked.Author)
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\r\n", args...) }
	line("From: \"Permission to write\" %s", permit.Path())
	line("Reply-To: %s", permit.Path())
	line("To: %s", to.Path())
	line("Subject: %s", mime.QEncoding.Encode("utf-8", cut(author, 60)+" asks to write to you"))
	line("Date: %s", time.Now().UTC().Format(time.RFC1123Z))
	line("Message-ID: <%s@%s>", mail.NewID(), to.Domain)
	line("Auto-Submitted: auto-generated") // RFC 3834 section 5: nothing is to answer by itself
	line("MIME-Version: 1.0")
	line("Content-Type: text/plain; charset=utf-8")
	line("Content-Transfer-Encoding: 8bit")
	line("")
	line("Somebody who may not write to you yet asks to be permitted:")
	line("")
	line("    %s", author)
	line("")
	if said := mail.Sanitise(asked.Text); said != "" {
		line("These are the words of that person, not ours; nobody has checked them:")
		line("")
		line("    | %s", cut(said, maxSaid))
		line("")
	}
	line("To permit this address to write to you, answer this mail. What you write in")
	line("the answer is not read and not passed on.")
	line("")
	line("To refuse, so that you are not asked about this address again, write to")
	line("")
	line("    %s", refuse)
	line("")
	line("If you do neither, nothing happens, and whoever asked hears nothing. You can")
	line("answer until %s.", asked.Expires.UTC().Format("2 January 2006"))
	return []byte(b.String())
}

// cut shortens a text to so many characters.
func cut(s string, most int) string {
	runes := []rune(s)
	if len(runes) <= most {
		return s
	}
	return string(runes[:most-3]) + "..."
}
