package smtpbridge

import (
	"context"
	"strings"
)

// tokenExchange is OAUTHBEARER (RFC 7628). A client that failed is told why in
// a challenge, and has to answer that before it gets its reply (section 3.2.2).
type tokenExchange struct {
	tokens  TokenVerifier
	request AuthRequest
	failure error
}

func (x *tokenExchange) Close() {}

func (x *tokenExchange) Next(ctx context.Context, response []byte) (AuthStep, error) {
	if x.failure != nil {
		return AuthStep{}, x.failure
	}
	as, token, ok := parseBearer(string(response))
	if !ok {
		return AuthStep{}, errResponse
	}
	user, err := x.check(ctx, as, token)
	if err == nil {
		return AuthStep{Done: true, User: user}, nil
	}
	x.failure = err
	return AuthStep{Challenge: []byte(`{"status":"invalid_token"}`)}, nil
}

func (x *tokenExchange) check(ctx context.Context, as, token string) (string, error) {
	if err := x.request.Admit(as); err != nil {
		return "", err
	}
	user, err := x.tokens.Token(ctx, x.request.Client, token)
	if err == nil && as != "" && as != user {
		err = wrongCredentials()
	}
	return user, err
}

// parseBearer reads "n,a=user,", then key=value pairs, each ended by 0x01, and
// one more of it at the end (RFC 7628 section 3.1).
func parseBearer(message string) (as, token string, ok bool) {
	header, rest, found := strings.Cut(message, "\x01")
	rest, ended := strings.CutSuffix(rest, "\x01\x01")
	if !found || !ended {
		return "", "", false
	}
	gs2, ok := parseGS2(header)
	if !ok || gs2.binding != "" || gs2.rest != "" {
		return "", "", false
	}
	for pair := range strings.SplitSeq(rest, "\x01") {
		key, value, _ := strings.Cut(pair, "=")
		scheme, credentials, _ := strings.Cut(value, " ")
		if key == "auth" && strings.EqualFold(scheme, "Bearer") && token == "" {
			token = strings.Trim(credentials, " ")
		}
	}
	if as = gs2.as; as != "" && !validUserName(as) {
		return "", "", false
	}
	return as, token, isToken(token)
}

// isToken: b64token of RFC 6750 section 2.1.
func isToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-._~+/=", c) >= 0) {
			return false
		}
	}
	return s != ""
}
