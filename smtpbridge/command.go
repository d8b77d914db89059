package smtpbridge

import (
	"strings"
	"unicode/utf8"

	"mailxmppd/mail"
)

// command is a command line taken apart: RFC 5321 section 4.1.1.
type command struct {
	verb string // upper case
	arg  string // what follows the first space, without spaces at its ends
}

// parseCommand reads a command line without its CRLF. A line with a control
// character is no command: none belongs into one (RFC 5321 section 4.1.2,
// RFC 6531 section 3.3), and programs disagree about what they mean.
func parseCommand(line []byte) (command, bool) {
	if !utf8.Valid(line) {
		return command{}, false
	}
	for _, c := range line {
		if c < ' ' || c == 0x7f {
			return command{}, false
		}
	}
	verb, arg, _ := strings.Cut(string(line), " ")
	if verb == "" {
		return command{}, false
	}
	return command{verb: strings.ToUpper(verb), arg: strings.Trim(arg, " ")}, true
}

// looksForeign reports whether a line shows that the client does not speak
// SMTP to us: a web client's request, a proxy that is not trusted, or a header field where content is sent
// that no 354 asked for. What follows such a line may be anything.
func (c command) looksForeign() bool {
	switch c.verb {
	case "GET", "POST", "PUT", "HEAD", "OPTIONS", "CONNECT", "PRI", "PROXY":
		return true
	}
	return strings.HasSuffix(c.verb, ":")
}

// pathArg is what MAIL and RCPT say: a path and parameters.
type pathArg struct {
	address mail.Address
	ascii   bool // the path has no octet above 127
	params  []param
}

// parsePathArg reads the argument of MAIL or RCPT, keyword being "FROM:" or
// "TO:" (RFC 5321 section 4.1.1.2 and 4.1.1.3). Spaces after the keyword are
// taken: they are common and harmless.
func parsePathArg(keyword, arg string) (pathArg, *serverReply) {
	if len(arg) < len(keyword) || !strings.EqualFold(arg[:len(keyword)], keyword) {
		return pathArg{}, &serverReply{501, "5.5.4", "syntax: " + keyword + "<address> parameters"}
	}
	a, rest, refusal := cutPath(strings.TrimLeft(arg[len(keyword):], " "))
	if refusal != nil {
		return pathArg{}, refusal
	}
	path := arg[:len(arg)-len(rest)]
	if rest != "" && rest[0] != ' ' {
		return pathArg{}, &serverReply{501, "5.5.4", "unexpected text after the path"}
	}
	params, refusal := parseParams(rest)
	if refusal != nil {
		return pathArg{}, refusal
	}
	return pathArg{address: a, ascii: isASCIIText(path), params: params}, nil
}

// cutPath reads a Path of RFC 5321 section 4.1.2 at the start of s and returns
// what follows it. Where the mailbox ends is for mail.CutAddress to say: a
// quoted local part may hold ">", spaces, and what looks like parameters.
// Source routes are refused, as section 3.6.1 allows: nobody sends them but to
// look for open relays.
func cutPath(s string) (mail.Address, string, *serverReply) {
	in, ok := strings.CutPrefix(s, "<")
	if !ok {
		return mail.Address{}, "", &serverReply{501, "5.5.4", "path must be in angle brackets"}
	}
	if rest, ok := strings.CutPrefix(in, ">"); ok {
		return mail.Address{}, rest, nil
	}
	if strings.HasPrefix(in, "@") {
		return mail.Address{}, "", &serverReply{553, "5.1.3", "source routes are not accepted"}
	}
	a, rest, err := mail.CutAddress(in)
	if err != nil {
		return mail.Address{}, "", &serverReply{553, "5.1.3", plainText(err.Error())}
	}
	rest, ok = strings.CutPrefix(rest, ">")
	if !ok {
		return mail.Address{}, "", &serverReply{553, "5.1.3", "path without its closing angle bracket"}
	}
	return a, rest, nil
}

func isASCIIText(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}
