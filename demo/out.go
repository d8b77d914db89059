package demo

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
)

// indexEntry describes one file of the output directory: one copy of one
// message on one path, as it reached its final mailbox. A message that has not
// arrived has an entry without a file.
type indexEntry struct {
	File          string `json:"file"` // relative to the directory
	Path          string `json:"path"`
	Source        string `json:"source"`
	From          string `json:"from"`
	Rcpt          string `json:"rcpt"`
	Transport     string `json:"transport"`
	SentSHA256    string `json:"sent_sha256"`
	ContentOffset int    `json:"content_offset"`
	Identical     bool   `json:"identical"`
}

// prepareOut makes the output directory, so that a mistake in its name is
// found before the run and not after it, and clears it of what an earlier run
// has left there: what its index lists, and nothing else.
func prepareOut(dir string) error {
	if dir == "" {
		return nil
	}
	if err := clearOut(dir); err != nil {
		return fmt.Errorf("output directory: %w", err)
	}
	for _, domain := range []string{capulet, montague, legacy} {
		if err := os.MkdirAll(filepath.Join(dir, domain), 0o755); err != nil {
			return fmt.Errorf("output directory: %w", err)
		}
	}
	return nil
}

func clearOut(dir string) error {
	index := filepath.Join(dir, "index.json")
	raw, err := os.ReadFile(index)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var entries []indexEntry
	if err := json.Unmarshal(raw, &entries); err != nil {
		return fmt.Errorf("%s is not of an earlier run: %w", index, err)
	}
	for _, e := range entries {
		if e.File == "" || !filepath.IsLocal(e.File) || filepath.Ext(e.File) != ".eml" {
			continue
		}
		if err := os.Remove(filepath.Join(dir, e.File)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return os.Remove(index)
}

// writeOut copies every message out of the mailboxes and writes the index, if
// that was asked for.
func (n *network) writeOut() error {
	if n.options.Out == "" {
		return nil
	}
	index := []indexEntry{}
	count := map[string]int{}
	for _, s := range n.ledger.snapshot() {
		if s.path == pathSubmitted {
			continue // the demo's own, which nobody gave it
		}
		entry := indexEntry{Path: s.path, Source: s.letter.source, From: s.from, Rcpt: s.rcpt, SentSHA256: s.sum()}
		if len(s.copies) == 0 {
			index = append(index, entry)
		}
		for _, c := range s.copies {
			domain := domainOf(s.rcpt)
			count[domain]++
			entry.File = filepath.Join(domain, strconv.Itoa(count[domain])+".eml")
			entry.Transport, entry.ContentOffset, entry.Identical = c.transport, c.offset, c.identical
			if err := copyFile(filepath.Join(n.options.Out, entry.File), c.file); err != nil {
				return fmt.Errorf("output: %w", err)
			}
			index = append(index, entry)
		}
	}
	if err := writeJSON(filepath.Join(n.options.Out, "index.json"), index); err != nil {
		return fmt.Errorf("output: %w", err)
	}
	return nil
}

func copyFile(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}
