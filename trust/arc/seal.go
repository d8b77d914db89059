package arc

import (
	"bufio"
	"crypto"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"
	"time"

	"mailxmppd/trust/authres"
	"mailxmppd/trust/dkim"
	"mailxmppd/trust/header"
)

// Sealer is who seals.
type Sealer struct {
	Domain     string // d=, A-labels
	Selector   string // s=
	Key        crypto.Signer
	AuthservID string // in whose name the results are written
}

// ErrNotSealed means that a chain must not be extended: it is full, was broken
// before, or cannot be checked now.
var ErrNotSealed = errors.New("the chain is not to be extended")

// signed lists the fields that a message signature covers where they are
// there: those that DKIM signs (RFC 6376 section 5.4.1), and its signatures.
var signed = []string{
	"from", "sender", "reply-to", "to", "cc", "subject", "date", "message-id", "in-reply-to", "references",
	"mime-version", "content-type", "content-transfer-encoding", "list-id", "list-unsubscribe", "list-post",
	dkim.FieldName,
}

// Seal extends a message's chain by a set of our own (RFC 8617 section 5.1) and
// returns its three fields, to be prepended. message is read once, to its end;
// chain is what Verify has found of it, and methods what we have found, that
// chain included.
func (s Sealer) Seal(message io.Reader, chain Chain, methods []authres.Method, now time.Time) (string, error) {
	cv := "pass"
	switch {
	case chain.Result == authres.None:
		cv = "none"
	case chain.Result == authres.Pass:
	case chain.Result == authres.Fail && !chain.broken:
		cv = "fail"
	default:
		return "", ErrNotSealed
	}
	if chain.highest >= maxSets {
		return "", ErrNotSealed
	}
	algorithm, err := dkim.AlgorithmOf(s.Key)
	if err != nil {
		return "", err
	}
	r := bufio.NewReaderSize(message, 32<<10)
	h, err := header.Read(r)
	if err != nil {
		return "", err
	}
	body := dkim.NewBody(dkim.Relaxed)
	if _, err := io.Copy(body, r); err != nil {
		return "", err
	}

	i := chain.highest + 1
	results := fmt.Sprintf("ARC-Authentication-Results: i=%d; ", i)
	results += authres.FormatValue(len(results), s.AuthservID, methods) + "\r\n"

	digest := sha256.New()
	// One From more than there are: a second author cannot be added.
	names := dkim.Cover(digest, h, signed, []string{"from"})
	signature, err := dkim.SignField(digest, fmt.Sprintf(
		"ARC-Message-Signature: i=%d; a=%s; c=relaxed/relaxed;\r\n\td=%s; s=%s; t=%d;\r\n\th=%s;\r\n\tbh=%s;",
		i, algorithm, s.Domain, s.Selector, now.Unix(), strings.Join(names, ":\r\n\t "), base64.StdEncoding.EncodeToString(body.Sum(dkim.Relaxed))), s.Key)
	if err != nil {
		return "", err
	}

	// A broken chain is sealed by itself, as if it began here (RFC 8617 section
	// 5.1.2).
	digest = sha256.New()
	if cv == "pass" {
		for _, set := range chain.sets {
			cover1(digest, set.results.Raw, set.message.Raw, set.seal.Raw)
		}
	}
	cover1(digest, results, signature)
	seal, err := dkim.SignField(digest, fmt.Sprintf("ARC-Seal: i=%d; a=%s; t=%d; cv=%s;\r\n\td=%s; s=%s;",
		i, algorithm, now.Unix(), cv, s.Domain, s.Selector), s.Key)
	if err != nil {
		return "", err
	}
	return seal + signature + results, nil
}

func cover1(digest hash.Hash, fields ...string) {
	for _, raw := range fields {
		io.WriteString(digest, dkim.Relaxed.CanonicalField(raw))
	}
}
