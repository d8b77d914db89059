package smtpbridge

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/argon2"
	"golang.org/x/text/secure/precis"
)

// Verifier is what is kept of a user's password, never the password: keys for
// SCRAM-SHA-256, and an Argon2id hash (RFC 9106) for mechanisms that hand the
// password over.
type Verifier struct {
	Scram  ScramKeys
	Argon2 Argon2Hash
}

// Argon2Hash is an Argon2id hash with its parameters.
type Argon2Hash struct {
	Memory  uint32 // KiB
	Time    uint32
	Threads uint8
	Salt    []byte
	Hash    []byte // 32 octets
}

// What new verifiers are made with. RFC 7677 asks for at least 4,096
// iterations; the Argon2id parameters cost 19 MiB for some 20 ms, so that a
// few checks at once fit a small machine.
const (
	scramIterations = 65_536
	argonMemory     = 19 << 10
	argonTime       = 2
	argonThreads    = 1
	saltSize        = 16
)

// Bounds for what is read back: a damaged store must not cost a gigabyte, or
// minutes of a client's time.
const (
	maxIterations  = 10_000_000
	maxArgonMemory = 256 << 10
	maxArgonTime   = 16
	minSalt        = 8
	maxSalt        = 64
)

// NewVerifier makes a verifier with new salts. It fails for a password that
// cannot be prepared (RFC 8265 section 4.2): an empty one, or one with control
// characters, which clients could not send alike.
func NewVerifier(password string) (Verifier, error) {
	prepared, err := preparePassword(password)
	if err != nil {
		return Verifier{}, err
	}
	salts := make([]byte, 2*saltSize)
	rand.Read(salts)
	scram, err := newScramKeys(prepared, salts[:saltSize], scramIterations)
	if err != nil {
		return Verifier{}, err
	}
	hash := Argon2Hash{Memory: argonMemory, Time: argonTime, Threads: argonThreads, Salt: salts[saltSize:]}
	hash.Hash = hash.of(prepared)
	return Verifier{Scram: scram, Argon2: hash}, nil
}

// preparePassword makes what looks alike on different keyboards equal.
func preparePassword(password string) (string, error) {
	if !validPassword(password) {
		return "", fmt.Errorf("password must be text of 1 to %d octets", maxPassword)
	}
	prepared, err := precis.OpaqueString.String(password)
	if err != nil {
		return "", errors.New("password has characters that are not allowed in one (RFC 8265)")
	}
	return prepared, nil
}

// newScramKeys: RFC 5802 section 3.
func newScramKeys(password string, salt []byte, iterations int) (ScramKeys, error) {
	salted, err := pbkdf2.Key(sha256.New, password, salt, iterations, sha256.Size)
	if err != nil {
		return ScramKeys{}, fmt.Errorf("scram keys: %w", err)
	}
	stored := sha256.Sum256(hmac256(salted, "Client Key"))
	return ScramKeys{Salt: salt, Iterations: iterations, StoredKey: stored[:], ServerKey: hmac256(salted, "Server Key")}, nil
}

func (h Argon2Hash) of(prepared string) []byte {
	return argon2.IDKey([]byte(prepared), h.Salt, h.Time, h.Memory, h.Threads, sha256.Size)
}

// Matches checks a password, at the same cost whether it is right or not.
func (v Verifier) Matches(password string) bool {
	prepared, err := preparePassword(password)
	same := subtle.ConstantTimeCompare(v.Argon2.of(prepared), v.Argon2.Hash)
	return err == nil && same == 1
}

// Marshal writes the verifier as one line of text, the form that is stored.
func (v Verifier) Marshal() string {
	enc := base64.RawStdEncoding.EncodeToString
	return fmt.Sprintf("$scram-sha-256$i=%d$%s$%s$%s$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s",
		v.Scram.Iterations, enc(v.Scram.Salt), enc(v.Scram.StoredKey), enc(v.Scram.ServerKey),
		argon2.Version, v.Argon2.Memory, v.Argon2.Time, v.Argon2.Threads, enc(v.Argon2.Salt), enc(v.Argon2.Hash))
}

// ParseVerifier is the inverse of Marshal. Its errors repeat nothing of s.
func ParseVerifier(s string) (Verifier, error) {
	bad := errors.New("malformed password verifier")
	parts := strings.Split(s, "$")
	if len(parts) != 11 || parts[0] != "" || parts[1] != "scram-sha-256" || parts[6] != "argon2id" {
		return Verifier{}, bad
	}
	var v Verifier
	var version int
	_, err1 := fmt.Sscanf(parts[2], "i=%d", &v.Scram.Iterations)
	_, err2 := fmt.Sscanf(parts[7], "v=%d", &version)
	_, err3 := fmt.Sscanf(parts[8], "m=%d,t=%d,p=%d", &v.Argon2.Memory, &v.Argon2.Time, &v.Argon2.Threads)
	if err1 != nil || err2 != nil || err3 != nil || version != argon2.Version {
		return Verifier{}, bad
	}
	for i, field := range map[int]*[]byte{3: &v.Scram.Salt, 4: &v.Scram.StoredKey, 5: &v.Scram.ServerKey, 9: &v.Argon2.Salt, 10: &v.Argon2.Hash} {
		var err error
		if *field, err = base64.RawStdEncoding.Strict().DecodeString(parts[i]); err != nil {
			return Verifier{}, bad
		}
	}
	if !v.sane() || v.Marshal() != s {
		return Verifier{}, bad
	}
	return v, nil
}

func (v Verifier) sane() bool {
	k, a := v.Scram, v.Argon2
	return k.Iterations >= 4096 && k.Iterations <= maxIterations &&
		len(k.StoredKey) == sha256.Size && len(k.ServerKey) == sha256.Size && len(a.Hash) == sha256.Size &&
		len(k.Salt) >= minSalt && len(k.Salt) <= maxSalt && len(a.Salt) >= minSalt && len(a.Salt) <= maxSalt &&
		a.Memory >= 8 && a.Memory <= maxArgonMemory && a.Time >= 1 && a.Time <= maxArgonTime && a.Threads >= 1 && a.Threads <= 16
}

// fakeVerifier is for a name that has no user. It is the same whenever the
// name is asked for, and looks like a new one, so that nobody can tell; it
// matches no password.
func fakeVerifier(secret []byte, name string) Verifier {
	derive := func(what string) []byte {
		h := hmac.New(sha256.New, secret)
		h.Write([]byte(what + "\x00" + name))
		return h.Sum(nil)
	}
	return Verifier{
		Scram: ScramKeys{
			Salt: derive("scram salt")[:saltSize], Iterations: scramIterations,
			StoredKey: derive("stored key"), ServerKey: derive("server key"),
		},
		Argon2: Argon2Hash{
			Memory: argonMemory, Time: argonTime, Threads: argonThreads,
			Salt: derive("argon salt")[:saltSize], Hash: derive("argon hash"),
		},
	}
}
