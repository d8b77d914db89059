package smtpbridge

import (
	"context"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"mailxmppd/mail"
)

// admitAll is for exchanges outside a session.
func admitAll(string) error { return nil }

// TestScramVectors: the exchange that RFC 7677 section 3 gives.
func TestScramVectors(t *testing.T) {
	salt, err := base64.StdEncoding.DecodeString("W22ZaJ0SNY7soEsUEjb6gQ==")
	if err != nil {
		t.Fatal(err)
	}
	keys, err := newScramKeys("pencil", salt, 4096)
	if err != nil {
		t.Fatal(err)
	}
	x := newScramExchange(AuthRequest{Admit: admitAll}, false, func(_ context.Context, user string) (scramLookup, error) {
		return scramLookup{User: user, Keys: keys, Known: true}, nil
	})
	x.nonce = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
	steps := []struct{ response, challenge string }{
		{"n,,n=user,r=rOprNGfwEbeRWgbNEkqO", "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"},
		{"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=", "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="},
	}
	for _, s := range steps {
		step, err := x.Next(context.Background(), []byte(s.response))
		if err != nil || string(step.Challenge) != s.challenge || step.Done {
			t.Fatalf("%s: %+v, %v, want %s", s.response, step, err, s.challenge)
		}
	}
	if step, err := x.Next(context.Background(), []byte{}); err != nil || !step.Done || step.User != "user" {
		t.Errorf("%+v, %v", step, err)
	}
}

// scramClient is the client's side, made from the RFC and not from the server.
type scramClient struct {
	header   string // GS2
	binding  []byte
	name     string
	password string
	bare     string
	server   string // server-first-message
	want     string // server signature, base64
}

func (c *scramClient) first() string {
	c.bare = "n=" + c.name + ",r=fyko+d2lbbFgONRv9qkxdawL"
	return c.header + c.bare
}

func (c *scramClient) final(serverFirst string) (string, error) {
	var nonce, salt64 string
	var iterations int
	for _, part := range strings.Split(serverFirst, ",") {
		switch {
		case strings.HasPrefix(part, "r="):
			nonce = part[2:]
		case strings.HasPrefix(part, "s="):
			salt64 = part[2:]
		case strings.HasPrefix(part, "i="):
			iterations, _ = strconv.Atoi(part[2:])
		}
	}
	salt, err := base64.StdEncoding.DecodeString(salt64)
	if err != nil || iterations < 4096 || len(nonce) < 40 {
		return "", fmt.Errorf("server-first-message %q", serverFirst)
	}
	salted, err := pbkdf2.Key(sha256.New, c.password, salt, iterations, 32)
	if err != nil {
		return "", err
	}
	mac := func(key []byte, s string) []byte {
		h := hmac.New(sha256.New, key)
		h.Write([]byte(s))
		return h.Sum(nil)
	}
	clientKey := mac(salted, "Client Key")
	stored := sha256.Sum256(clientKey)
	without := "c=" + base64.StdEncoding.EncodeToString(append([]byte(c.header), c.binding...)) + ",r=" + nonce
	auth := c.bare + "," + serverFirst + "," + without
	proof := mac(stored[:], auth)
	for i := range proof {
		proof[i] ^= clientKey[i]
	}
	c.want = base64.StdEncoding.EncodeToString(mac(mac(salted, "Server Key"), auth))
	return without + ",p=" + base64.StdEncoding.EncodeToString(proof), nil
}

// play goes through the exchange up to the code of the final reply.
func (c *scramClient) play(d *dialogue, mechanism string) string {
	d.t.Helper()
	d.play("< 220", "> EHLO h", "<* 250", "> AUTH "+mechanism+" "+b64(c.first()))
	line := d.expect("")
	if !strings.HasPrefix(line, "334 ") {
		return line[:3]
	}
	challenge, err := base64.StdEncoding.DecodeString(strings.TrimSpace(line[4:]))
	if err != nil {
		d.t.Fatal(err)
	}
	final, err := c.final(string(challenge))
	if err != nil {
		d.t.Fatal(err)
	}
	d.send(b64(final) + "\r\n")
	if line = d.expect(""); !strings.HasPrefix(line, "334 ") {
		return line[:3]
	}
	if got := strings.TrimSpace(line[4:]); got != b64("v="+c.want) {
		d.t.Fatalf("server signature %s", got)
	}
	d.send("\r\n")
	return d.expect("")[:3]
}

func TestScramOverSMTP(t *testing.T) {
	dialIn := startSubmission(t, &recorder{}, nil)
	exporter := func(s tls.ConnectionState) []byte {
		b, err := s.ExportKeyingMaterial("EXPORTER-Channel-Binding", []byte{}, 32)
		if err != nil {
			t.Error(err)
		}
		return b
	}
	unique := func(s tls.ConnectionState) []byte { return s.TLSUnique }
	endPointHash := func(s tls.ConnectionState) []byte {
		sum := sha256.Sum256(s.PeerCertificates[0].Raw) // of ECDSA with SHA-256
		return sum[:]
	}
	nonsense := func(tls.ConnectionState) []byte { return []byte("a binding of another connection!") }
	const juliet = "juliet@ours.example"
	tests := []struct {
		name      string
		mechanism string
		header    string
		binding   func(tls.ConnectionState) []byte
		version   uint16
		user      string
		password  string
		want      string
	}{
		{"unbound", mechScram, "n,,", nil, 0, juliet, "wherefore", "235"},
		{"as oneself", mechScram, "n,a=juliet@ours.example,", nil, 0, juliet, "wherefore", "235"},
		{"as somebody else", mechScram, "n,a=romeo@ours.example,", nil, 0, juliet, "wherefore", "501"},
		{"wrong password", mechScram, "n,,", nil, 0, juliet, "wrong", "535"},
		{"unknown user", mechScram, "n,,", nil, 0, "nobody@ours.example", "wrong", "535"},
		{"a store that fails", mechScram, "n,,", nil, 0, "broken@ours.example", "x", "454"},
		{"stripped -PLUS", mechScram, "y,,", nil, 0, juliet, "wherefore", "501"},
		{"bound without -PLUS", mechScram, "p=tls-exporter,,", exporter, 0, juliet, "wherefore", "501"},
		{"-PLUS unbound", mechScramPlus, "n,,", nil, 0, juliet, "wherefore", "501"},
		{"tls-exporter", mechScramPlus, "p=tls-exporter,,", exporter, 0, juliet, "wherefore", "235"},
		{"tls-exporter in TLS 1.2", mechScramPlus, "p=tls-exporter,,", exporter, tls.VersionTLS12, juliet, "wherefore", "235"},
		{"tls-exporter of another connection", mechScramPlus, "p=tls-exporter,,", nonsense, 0, juliet, "wherefore", "535"},
		{"tls-server-end-point", mechScramPlus, "p=tls-server-end-point,,", endPointHash, 0, juliet, "wherefore", "235"},
		{"tls-server-end-point in TLS 1.2", mechScramPlus, "p=tls-server-end-point,,", endPointHash, tls.VersionTLS12, juliet, "wherefore", "235"},
		{"tls-server-end-point of another certificate", mechScramPlus, "p=tls-server-end-point,,", nonsense, 0, juliet, "wherefore", "535"},
		{"tls-unique", mechScramPlus, "p=tls-unique,,", unique, tls.VersionTLS12, juliet, "wherefore", "235"},
		{"tls-unique in TLS 1.3", mechScramPlus, "p=tls-unique,,", nonsense, 0, juliet, "wherefore", "501"},
		{"unknown binding", mechScramPlus, "p=tls-nothing,,", nonsense, 0, juliet, "wherefore", "501"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			d := dialIn(test.version)
			d.t = t
			c := &scramClient{header: test.header, name: strings.ReplaceAll(test.user, "=", "=3D"), password: test.password}
			if test.binding != nil {
				c.binding = test.binding(d.conn.(*tls.Conn).ConnectionState())
			}
			if got := c.play(d, test.mechanism); got != test.want {
				t.Errorf("reply %s, want %s", got, test.want)
			}
		})
	}
}

// TestUnknownUsersLookAlike: what a name without a user is shown does not
// change, differs by name, and has the form of what a user is shown.
func TestUnknownUsersLookAlike(t *testing.T) {
	challenge := func(secret, user string) string {
		auth, err := NewStoredAuth(someUsers{}, []byte(secret))
		if err != nil {
			t.Fatal(err)
		}
		x, err := auth.Exchange(context.Background(), mechScram, AuthRequest{Admit: admitAll})
		if err != nil {
			t.Fatal(err)
		}
		step, err := x.Next(context.Background(), []byte("n,,n="+user+",r=abc"))
		if err != nil {
			t.Fatal(err)
		}
		_, saltAndCount, _ := strings.Cut(string(step.Challenge), ",")
		return saltAndCount
	}
	const secret, other = "0123456789abcdef", "fedcba9876543210"
	first := challenge(secret, "nobody")
	if again := challenge(secret, "nobody"); again != first {
		t.Errorf("%s, then %s", first, again)
	}
	if challenge(secret, "somebody") == first || challenge(other, "nobody") == first {
		t.Error("the same salt for another name or secret")
	}
	if challenge(secret, "NoBody") != first {
		t.Error("a name in capitals has a salt of its own, which no user's has")
	}
	verifier, err := NewVerifier("x")
	if err != nil {
		t.Fatal(err)
	}
	real := "s=" + base64.StdEncoding.EncodeToString(verifier.Scram.Salt) + ",i=" + strconv.Itoa(verifier.Scram.Iterations)
	if len(real) != len(first) || real[len(real)-8:] != first[len(first)-8:] {
		t.Errorf("a user is shown %s, nobody %s", real, first)
	}
}

func TestParseScram(t *testing.T) {
	good := map[string]scramFirst{
		"n,,n=user,r=abc":                 {gs2: gs2Header{flag: 'n', rest: "n=user,r=abc"}, header: "n,,", bare: "n=user,r=abc", user: "user", nonce: "abc"},
		"y,,n=a=2Cb=3Dc,r=abc":            {gs2: gs2Header{flag: 'y', rest: "n=a=2Cb=3Dc,r=abc"}, header: "y,,", bare: "n=a=2Cb=3Dc,r=abc", user: "a,b=c", nonce: "abc"},
		"p=tls-unique,a=u,n=u,r=abc,x=yz": {gs2: gs2Header{flag: 'p', binding: "tls-unique", as: "u", rest: "n=u,r=abc,x=yz"}, header: "p=tls-unique,a=u,", bare: "n=u,r=abc,x=yz", user: "u", nonce: "abc"},
	}
	for in, want := range good {
		if got, ok := parseScramFirst(in); !ok || got != want {
			t.Errorf("%q: %+v, %v", in, got, ok)
		}
	}
	for _, in := range []string{"", "n", "n,", "n,,", "n,,n=user", "n,,n=,r=abc", "n,,n=user,r=", "n,,m=x,n=user,r=abc", "n,,r=abc,n=user", "n,,n=a=b,r=abc", "n,,n=a=,r=abc",
		"x,,n=user,r=abc", "p=,,n=user,r=abc", "p=a b,,n=user,r=abc", "n,b=user,n=user,r=abc", "n,,n=us\x00er,r=abc", "n,,n=user,r=a\x7fc", "n,,n=user,r=" + strings.Repeat("x", 257), "n,,n=" + strings.Repeat("x", 256) + ",r=a"} {
		if got, ok := parseScramFirst(in); ok {
			t.Errorf("%q is taken: %+v", in, got)
		}
	}
	proof := base64.StdEncoding.EncodeToString(make([]byte, 32))
	if f, ok := parseScramFinal("c=biws,r=abc,p=" + proof); !ok || string(f.binding) != "n,," || f.nonce != "abc" || f.withoutProof != "c=biws,r=abc" {
		t.Errorf("%+v, %v", f, ok)
	}
	for _, in := range []string{"", "c=biws,r=abc", "c=biws,r=abc,p=", "c=biws,r=abc,p=AAAA", "c=biws,p=" + proof, "c=!,r=abc,p=" + proof, "r=abc,c=biws,p=" + proof, "c=biws,r=abc,p=" + proof + ",x=y"} {
		if f, ok := parseScramFinal(in); ok {
			t.Errorf("%q is taken: %+v", in, f)
		}
	}
}

// FuzzScram holds that a client without the password never gets in, whatever it
// sends, and that names come out fit.
func FuzzScram(f *testing.F) {
	keys, err := newScramKeys("a long password that nobody guesses", []byte("salt and pepper."), 4096)
	if err != nil {
		f.Fatal(err)
	}
	f.Add("n,,n=user,r=abc", "c=biws,r=abcSERVER,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
	f.Add("p=tls-exporter,a=user,n=user,r=abc,x=y", "c=biws,r=abcSERVER,p=AAAA")
	f.Add("y,,n=a=2Cb,r=", "p=")
	f.Fuzz(func(t *testing.T, first, final string) {
		for _, plus := range []bool{false, true} {
			request := AuthRequest{Bindings: ChannelBindings{"tls-exporter": []byte("binding")}, Admit: func(user string) error {
				if !validUserName(user) {
					t.Fatalf("user %q", user)
				}
				return nil
			}}
			x := newScramExchange(request, plus, func(context.Context, string) (scramLookup, error) {
				return scramLookup{User: "user", Keys: keys, Known: true}, nil
			})
			x.nonce = "SERVER"
			if _, err := x.Next(context.Background(), []byte(first)); err != nil {
				continue
			}
			step, err := x.Next(context.Background(), []byte(final))
			if failure, ok := errors.AsType[*mail.Failure](err); err == nil || !errors.Is(err, errResponse) && (!ok || failure.Kind != mail.NotAuthorized) {
				t.Fatalf("%q, %q: %+v, %v", first, final, step, err)
			}
		}
	})
}

func FuzzAuthMessages(f *testing.F) {
	for _, seed := range []string{"\x00user\x00password", "user\x00user\x00password", "n,a=user,\x01auth=Bearer abc\x01\x01", "n,,\x01\x01"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, message []byte) {
		if user, password, ok := parsePlain(message); ok && (!validUserName(user) || password == "" || strings.Contains(password, "\x00")) {
			t.Fatalf("PLAIN %q: %q, %q", message, user, password)
		}
		if as, token, ok := parseBearer(string(message)); ok && (as != "" && !validUserName(as) || strings.ContainsAny(token, " \x01\r\n") || token == "") {
			t.Fatalf("OAUTHBEARER %q: %q, %q", message, as, token)
		}
	})
}

func TestEndPoint(t *testing.T) {
	serverTLS, _ := serverCertificate(t)
	c := serverTLS.Certificates[0]
	sum := sha256.Sum256(c.Certificate[0])
	if got := endPoint(&c); string(got) != string(sum[:]) {
		t.Errorf("%x", got)
	}
	if endPoint(nil) != nil || endPoint(&tls.Certificate{}) != nil || endPoint(&tls.Certificate{Certificate: [][]byte{{1}}}) != nil {
		t.Error("a binding to nothing")
	}
	strong := signedWithSHA512(t)
	if want, got := sha512.Sum512(strong.Certificate[0]), endPoint(&strong); string(got) != string(want[:]) {
		t.Errorf("SHA-512: %x", got)
	}
}
