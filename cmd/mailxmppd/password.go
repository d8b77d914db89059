package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"mailxmppd/smtpbridge"
)

// passwordFlag says where a password comes from: never from the command line,
// which every user of the machine can read.
type passwordFlag struct{ file string }

func (p *passwordFlag) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&p.file, "password-file", "", "read the password from this `FILE` instead")
}

// maxPasswordInput bounds what is read: more than a password may be long.
const maxPasswordInput = 4 << 10

// verifier reads the password, whose last line end does not count, and makes
// of it what is kept.
func (p *passwordFlag) verifier(stdin io.Reader) (string, error) {
	in := stdin
	if p.file != "" {
		f, err := os.Open(p.file)
		if err != nil {
			return "", err
		}
		defer f.Close()
		in = f
	}
	text, err := io.ReadAll(io.LimitReader(in, maxPasswordInput))
	if err != nil {
		return "", fmt.Errorf("password: %w", err)
	}
	v, err := smtpbridge.NewVerifier(strings.TrimSuffix(strings.TrimSuffix(string(text), "\n"), "\r"))
	if err != nil {
		return "", err
	}
	return v.Marshal(), nil
}
