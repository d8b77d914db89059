package demo

import (
	"bytes"
	"embed"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"slices"
)

//go:embed samples/*.eml
var sampleFiles embed.FS

// unsigned is the sample that gets its DKIM signature at run time.
const unsigned = "samples/6-dkim-signed.eml"

// letters returns what the run sends: the files that were asked for, or the
// samples.
func (n *network) letters() ([]letter, error) {
	if len(n.options.Messages) == 0 {
		return n.samples()
	}
	var out []letter
	for _, file := range n.options.Messages {
		l, err := readLetter(file)
		if err != nil {
			return nil, err
		}
		out = append(out, l)
	}
	return out, nil
}

// samples are the shipped messages, one of them signed now, and a large one
// that is made now.
func (n *network) samples() ([]letter, error) {
	key, err := newSigner()
	if err != nil {
		return nil, err
	}
	n.signer = key
	files, err := sampleFiles.ReadDir("samples")
	if err != nil {
		return nil, err
	}
	var out []letter
	for _, f := range files {
		name := "samples/" + f.Name()
		raw, err := sampleFiles.ReadFile(name)
		if err != nil {
			return nil, err
		}
		l := letter{source: f.Name()}
		if l.content, err = withCRLF(raw); err != nil {
			return nil, fmt.Errorf("sample %s: %w", name, err)
		}
		if name == unsigned {
			if l.content, err = key.sign(l.content); err != nil {
				return nil, err
			}
			l.signed = true
		}
		out = append(out, l)
	}
	return append(out, largeSample()), nil
}

// largeOctets is how much the attachment of the large sample holds: with its
// base64 the message is a little over 5 MB.
const largeOctets = 3_800_000

// largeSample is a message with an attachment that nothing compresses or
// guesses: pseudo-random octets, the same in every run.
func largeSample() letter {
	attachment := make([]byte, largeOctets)
	rand.NewChaCha8([32]byte{1}).Read(attachment)
	var b bytes.Buffer
	b.WriteString("From: Juliet Capulet <juliet@capulet.example>\r\n" +
		"To: Romeo Montague <romeo@montague.example>\r\n" +
		"Subject: Five megabytes, made on the fly\r\n" +
		"Date: Mon, 13 Jul 2026 21:00:06 +0200\r\n" +
		"Message-ID: <demo-large@capulet.example>\r\n" +
		"MIME-Version: 1.0\r\n" +
		"Content-Type: application/octet-stream; name=\"balcony.bin\"\r\n" +
		"Content-Transfer-Encoding: base64\r\n" +
		"\r\n")
	const perLine = 57 // octets that give a line of 76 characters (RFC 2045 section 6.8)
	for line := range slices.Chunk(attachment, perLine) {
		b.WriteString(base64.StdEncoding.EncodeToString(line))
		b.WriteString("\r\n")
	}
	return letter{source: "7-large (made on the fly)", content: b.Bytes()}
}
