package smtpbridge

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/big"
	"slices"
	"strings"
	"time"

	"mailxmppd/mail"
)

// JWTConfig says whose tokens count.
type JWTConfig struct {
	Keys     []crypto.PublicKey // RSA of 2048 bits at least, ECDSA on P-256, Ed25519; at least one, at most 16
	Issuer   string             // "iss" as it is
	Audience string             // one of "aud" as it is
	Claim    string             // the claim that names the user, e.g. "sub"
}

// JWTVerifier takes JSON Web Tokens (RFC 7519) that a known key has signed, for
// as long as they say. It asks nobody: a token that was withdrawn counts until
// it expires. Safe for concurrent use.
type JWTVerifier struct {
	cfg JWTConfig
	now func() time.Time
}

const (
	maxJWTKeys = 16          // each costs a verification at most
	maxJWT     = authLine    // octets of a token; no longer one arrives
	jwtLeeway  = time.Minute // between our clock and the issuer's (RFC 7519 section 4.1.4)
	minRSABits = 2048        // RFC 7518 section 3.3
)

// NewJWTVerifier checks the configuration.
func NewJWTVerifier(cfg JWTConfig) (*JWTVerifier, error) {
	switch {
	case len(cfg.Keys) == 0 || len(cfg.Keys) > maxJWTKeys:
		return nil, fmt.Errorf("jwt: %d keys, want 1 to %d", len(cfg.Keys), maxJWTKeys)
	case cfg.Issuer == "" || cfg.Audience == "" || cfg.Claim == "":
		return nil, errors.New("jwt: issuer, audience and claim are needed")
	}
	for i, key := range cfg.Keys {
		if algorithmOf(key) == "" {
			return nil, fmt.Errorf("jwt: key %d is neither RSA of %d bits, nor ECDSA on P-256, nor Ed25519", i+1, minRSABits)
		}
	}
	return &JWTVerifier{cfg: cfg, now: time.Now}, nil
}

// algorithmOf is the one algorithm that a key is used with: what a token says of
// itself chooses among keys, never how one is used (RFC 8725 section 3.1).
func algorithmOf(key crypto.PublicKey) string {
	switch k := key.(type) {
	case *rsa.PublicKey:
		if k.N.BitLen() >= minRSABits {
			return "RS256"
		}
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P256() {
			return "ES256"
		}
	case ed25519.PublicKey:
		return "EdDSA"
	}
	return ""
}

// Token implements TokenVerifier.
func (v *JWTVerifier) Token(_ context.Context, _ mail.Client, token string) (string, error) {
	user, err := v.verify(token)
	if err != nil {
		return "", mail.Fail(mail.NotAuthorized, "authentication failed", fmt.Errorf("token: %w", err))
	}
	return user, nil
}

func (v *JWTVerifier) verify(token string) (user string, err error) {
	if len(token) > maxJWT {
		return "", errors.New("is too long")
	}
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return "", errors.New("does not have three parts")
	}
	var raw [3][]byte
	for i, p := range parts {
		if raw[i], err = base64.RawURLEncoding.Strict().DecodeString(p); err != nil {
			return "", errors.New("is not base64url")
		}
	}
	header, err := jwtFields(raw[0])
	if err != nil {
		return "", err
	}
	if _, critical := header["crit"]; critical { // RFC 7515 section 4.1.11: we understand none
		return "", errors.New("has critical extensions")
	}
	if !v.signed(jwtString(header["alg"]), parts[0]+"."+parts[1], raw[2]) {
		return "", errors.New("is not signed by a key that counts")
	}
	return v.claims(raw[1])
}

// signed tries the keys of one algorithm.
func (v *JWTVerifier) signed(algorithm, text string, signature []byte) bool {
	sum := sha256.Sum256([]byte(text))
	return slices.ContainsFunc(v.cfg.Keys, func(key crypto.PublicKey) bool {
		if algorithmOf(key) != algorithm {
			return false
		}
		switch k := key.(type) {
		case *rsa.PublicKey:
			return rsa.VerifyPKCS1v15(k, crypto.SHA256, sum[:], signature) == nil
		case *ecdsa.PublicKey: // RFC 7518 section 3.4: both numbers in 32 octets
			return len(signature) == 64 &&
				ecdsa.Verify(k, sum[:], new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:]))
		case ed25519.PublicKey: // RFC 8037 section 3.1
			return ed25519.Verify(k, []byte(text), signature)
		}
		return false
	})
}

// claims judges what a signed token says. A time of expiry must be there: a
// token for ever could not be withdrawn.
func (v *JWTVerifier) claims(payload []byte) (user string, err error) {
	fields, err := jwtFields(payload)
	if err != nil {
		return "", err
	}
	now := v.now()
	expires, ok := jwtTime(fields["exp"])
	switch {
	case !ok:
		return "", errors.New("does not say when it expires")
	case !now.Before(expires.Add(jwtLeeway)):
		return "", errors.New("has expired")
	}
	if start, given := fields["nbf"]; given {
		if from, ok := jwtTime(start); !ok || now.Add(jwtLeeway).Before(from) {
			return "", errors.New("does not count yet")
		}
	}
	if jwtString(fields["iss"]) != v.cfg.Issuer {
		return "", errors.New("has another issuer")
	}
	if !jwtAudience(fields["aud"], v.cfg.Audience) {
		return "", errors.New("is not meant for us")
	}
	if user = jwtString(fields[v.cfg.Claim]); !validUserName(user) {
		return "", errors.New("names no user")
	}
	return user, nil
}

// jwtFields reads an object, names as they are: encoding/json would take "EXP"
// for "exp".
func jwtFields(b []byte) (map[string]json.RawMessage, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(b, &fields); err != nil || fields == nil {
		return nil, errors.New("is not made of JSON objects")
	}
	return fields, nil
}

// jwtString is "" for anything but a string.
func jwtString(raw json.RawMessage) (s string) {
	if json.Unmarshal(raw, &s) != nil {
		return ""
	}
	return s
}

// jwtTime reads seconds since 1970, with or without a fraction (RFC 7519 section
// 2).
func jwtTime(raw json.RawMessage) (time.Time, bool) {
	var seconds float64
	if raw == nil || json.Unmarshal(raw, &seconds) != nil || string(raw) == "null" || math.Abs(seconds) > 1<<40 {
		return time.Time{}, false
	}
	return time.Unix(int64(seconds), 0), true
}

// jwtAudience: a string or a list of them (RFC 7519 section 4.1.3).
func jwtAudience(raw json.RawMessage, want string) bool {
	var list []string
	if json.Unmarshal(raw, &list) == nil {
		return slices.Contains(list, want)
	}
	return jwtString(raw) == want
}
