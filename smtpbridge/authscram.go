package smtpbridge

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"strconv"
)

// Names of mechanisms.
const (
	mechPlain     = "PLAIN"
	mechLogin     = "LOGIN"
	mechScram     = "SCRAM-SHA-256"
	mechScramPlus = "SCRAM-SHA-256-PLUS"
	mechBearer    = "OAUTHBEARER"
)

// ScramKeys is what a server keeps of a password for SCRAM-SHA-256 (RFC 5802
// section 3, RFC 7677): enough to check it, not enough to log in with.
type ScramKeys struct {
	Salt       []byte
	Iterations int
	StoredKey  []byte // 32 octets
	ServerKey  []byte // 32 octets
}

// scramExchange is the server's side of SCRAM-SHA-256 and its -PLUS form.
type scramExchange struct {
	request AuthRequest
	plus    bool
	keys    func(ctx context.Context, user string) (scramLookup, error)
	nonce   string // the server's part of it; random

	step     int
	first    scramFirst
	lookup   scramLookup
	combined string // nonce of client and server
	server   string // server-first-message
}

// scramLookup is what a name leads to.
type scramLookup struct {
	User  string // the user's own form of the name
	Keys  ScramKeys
	Known bool // otherwise the keys are made up, and the proof fails whatever it is
}

func newScramExchange(request AuthRequest, plus bool, keys func(context.Context, string) (scramLookup, error)) *scramExchange {
	return &scramExchange{request: request, plus: plus, keys: keys, nonce: rand.Text()}
}

func (x *scramExchange) Close() {}

// Next goes through client-first, client-final, and the empty response that
// answers the server's signature, which SMTP has no other place for.
func (x *scramExchange) Next(ctx context.Context, response []byte) (AuthStep, error) {
	x.step++
	switch x.step {
	case 1:
		return x.clientFirst(ctx, string(response))
	case 2:
		return x.clientFinal(string(response))
	}
	if len(response) != 0 {
		return AuthStep{}, errResponse
	}
	return AuthStep{Done: true, User: x.lookup.User}, nil
}

func (x *scramExchange) clientFirst(ctx context.Context, message string) (AuthStep, error) {
	var ok bool
	if x.first, ok = parseScramFirst(message); !ok || !x.mayBind() {
		return AuthStep{}, errResponse
	}
	if err := x.request.Admit(x.first.user); err != nil {
		return AuthStep{}, err
	}
	var err error
	if x.lookup, err = x.keys(ctx, x.first.user); err != nil {
		return AuthStep{}, err
	}
	k := x.lookup.Keys
	x.combined = x.first.nonce + x.nonce
	x.server = "r=" + x.combined + ",s=" + base64.StdEncoding.EncodeToString(k.Salt) + ",i=" + strconv.Itoa(k.Iterations)
	return AuthStep{Challenge: []byte(x.server)}, nil
}

// mayBind: RFC 5802 section 6. A client that would have bound, but was not
// shown -PLUS, met somebody in between: we always show what we have.
func (x *scramExchange) mayBind() bool {
	gs2 := x.first.gs2
	_, have := x.request.Bindings[gs2.binding]
	switch {
	case x.plus:
		return gs2.flag == 'p' && have
	case gs2.flag == 'y':
		return len(x.request.Bindings) == 0
	}
	return gs2.flag == 'n'
}

// clientFinal checks the proof. All is computed whatever fails.
func (x *scramExchange) clientFinal(message string) (AuthStep, error) {
	final, ok := parseScramFinal(message)
	if !ok {
		return AuthStep{}, errResponse
	}
	k := x.lookup.Keys
	auth := x.first.bare + "," + x.server + "," + final.withoutProof
	bound := append([]byte(x.first.header), x.request.Bindings[x.first.gs2.binding]...)
	signature := hmac256(k.StoredKey, auth)
	clientKey := make([]byte, sha256.Size)
	subtle.XORBytes(clientKey, final.proof[:], signature)
	stored := sha256.Sum256(clientKey)

	right := subtle.ConstantTimeCompare(stored[:], k.StoredKey) &
		subtle.ConstantTimeCompare(final.binding, bound) &
		subtle.ConstantTimeCompare([]byte(final.nonce), []byte(x.combined))
	if right != 1 || !x.lookup.Known {
		return AuthStep{}, wrongCredentials()
	}
	return AuthStep{Challenge: []byte("v=" + base64.StdEncoding.EncodeToString(hmac256(k.ServerKey, auth)))}, nil
}

func hmac256(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}
