package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/mattn/go-isatty"
	"github.com/spf13/cobra"

	"mailxmppd/config"
	"mailxmppd/mail"
	"mailxmppd/store"
)

// filterFlags narrow which deliveries are meant.
type filterFlags struct {
	f              store.Filter
	states         []string
	older, younger config.Duration
}

func (c *filterFlags) add(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&c.f.Domain, "domain", "", "only recipients of this `DOMAIN`")
	fl.StringVar(&c.f.Sender, "sender", "", "only mail from this `ADDRESS`, from @DOMAIN, or from <>")
	fl.StringSliceVar(&c.states, "state", nil, "only in this `STATE`: "+strings.Join(stateNames(store.States()), ", "))
	fl.StringVar(&c.f.Text, "text", "", "only where the last reply has this `TEXT` in it")
	fl.TextVar(&c.older, "older", config.Duration{}, "only older than this `TIME`, such as 2d or 90m")
	fl.TextVar(&c.younger, "younger", config.Duration{}, "only younger than this `TIME`")
}

// settle puts what was given into the form that the store knows.
func (c *filterFlags) settle() (err error) {
	c.f.Older, c.f.Younger = c.older.Duration, c.younger.Duration
	if c.f.Domain != "" {
		if c.f.Domain, err = mail.ParseDomain(c.f.Domain); err != nil {
			return err
		}
	}
	if c.f.Sender, err = senderArg(c.f.Sender); err != nil {
		return err
	}
	for _, name := range c.states {
		s := store.State(strings.ToLower(name))
		if !slices.Contains(store.States(), s) {
			return fmt.Errorf("--state %s: want one of %s", name, strings.Join(stateNames(store.States()), ", "))
		}
		c.f.States = append(c.f.States, s)
	}
	return nil
}

func senderArg(s string) (string, error) {
	if s == "" || s == "<>" {
		return s, nil
	}
	if domain, ok := strings.CutPrefix(s, "@"); ok {
		d, err := mail.ParseDomain(domain)
		return "@" + d, err
	}
	a, err := mail.ParseAddress(strings.Trim(s, "<>"))
	return a.String(), err
}

func (c *filterFlags) given() bool {
	return c.f.Domain != "" || c.f.Sender != "" || c.f.Text != "" || len(c.states) > 0 || c.older.Duration > 0 || c.younger.Duration > 0
}

func stateNames(states []store.State) []string {
	names := make([]string, len(states))
	for i, s := range states {
		names[i] = string(s)
	}
	return names
}

// selectFlags say for which deliveries a verb is: those of a message, one of
// them, or all that a choice finds.
type selectFlags struct {
	verbFlags
	choice   filterFlags
	all, yes bool
	sel      store.Selection
}

func (s *selectFlags) add(cmd *cobra.Command) {
	s.verbFlags.add(cmd)
	s.choice.add(cmd)
	cmd.Flags().BoolVar(&s.all, "all", false, "all deliveries, or all of the choice by the other flags")
	cmd.Flags().BoolVar(&s.yes, "yes", false, "do not ask whether --all is meant")
}

// settle reads the selection from the command line.
func (s *selectFlags) settle(args []string) (err error) {
	switch {
	case len(args) == 1 && (s.all || s.choice.given()), len(args) == 0 && !s.all && !s.choice.given():
		return errors.New("wants either ID, or ID.N, or --all, which the other flags narrow")
	case len(args) == 0 && !s.all:
		return errors.New("wants --all too: it is for more than one delivery")
	}
	s.sel.By = operator()
	if len(args) == 1 {
		s.sel.ID, s.sel.N, err = deliveryArg(args[0])
		return err
	}
	err = s.choice.settle()
	s.sel.Filter = s.choice.f
	return err
}

// named is the selection in words.
func (s *selectFlags) named() string {
	if s.sel.N < 0 {
		return fmt.Sprintf("message %s", s.sel.ID)
	}
	return fmt.Sprintf("delivery %s.%d", s.sel.ID, s.sel.N)
}

// confirm asks whether a verb on many deliveries is meant. Where nobody can be
// asked, it is not.
func confirm(in io.Reader, out io.Writer, question string) error {
	if f, ok := in.(*os.File); ok && !isatty.IsTerminal(f.Fd()) {
		return errors.New("not at a terminal: --yes says that --all is meant")
	}
	fmt.Fprintf(out, "%s [y/N] ", question)
	answer, err := bufio.NewReader(io.LimitReader(in, 80)).ReadString('\n')
	if err != nil {
		return errors.New("no answer: --yes says that --all is meant")
	}
	if a := strings.ToLower(strings.TrimSpace(answer)); a != "y" && a != "yes" {
		return errors.New("nothing was changed")
	}
	return nil
}
