package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"github.com/emersion/go-msgauth/dkim"

	"mailxmppd/dns"
	labtrust "mailxmppd/lab/trust"
	"mailxmppd/mail"
	"mailxmppd/trust"
	"mailxmppd/trust/authres"
)

// trustParams is what the trust benchmark does.
type trustParams struct {
	Size     int `json:"size"`     // octets of body
	Messages int `json:"messages"` // per repetition
	Reps     int `json:"reps"`
}

// signedMessage is a message of one signer with the records that it needs.
func signedMessage(size int) (message []byte, zone labtrust.Zone, record string, err error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, nil, "", err
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, nil, "", err
	}
	record = "v=DKIM1; k=rsa; p=" + base64.StdEncoding.EncodeToString(der)
	zone = labtrust.Zone{
		"s._domainkey.signer.example": {{"TXT", record}},
		"_dmarc.signer.example":       {{"TXT", "v=DMARC1; p=reject"}},
		"signer.example":              {{"TXT", "v=spf1 a:mx.signer.example -all"}},
		"mx.signer.example":           {{"TXT", "v=spf1 a -all"}, {"A", "192.0.2.1"}},
		"1.2.0.192.in-addr.arpa":      {{"PTR", "mx.signer.example"}},
	}
	plain := "Received: from a.signer.example by mx.signer.example; Mon, 23 Nov 2026 06:00:00 +0000\r\n" +
		"From: Romeo <romeo@signer.example>\r\nTo: juliet@capulet.example\r\nSubject: of ten kilobytes\r\n" +
		"Date: Mon, 23 Nov 2026 06:00:00 +0000\r\nMessage-ID: <1@signer.example>\r\nMIME-Version: 1.0\r\n" +
		"Content-Type: text/plain; charset=utf-8\r\n\r\n"
	line := "It is the east, and Juliet is the sun, and other words on a line of text.\r\n"
	plain += strings.Repeat(line, size/len(line))
	var out bytes.Buffer
	err = dkim.Sign(&out, strings.NewReader(plain), &dkim.SignOptions{Domain: "signer.example", Selector: "s", Signer: key,
		HeaderCanonicalization: dkim.CanonicalizationRelaxed, BodyCanonicalization: dkim.CanonicalizationRelaxed})
	return out.Bytes(), zone, record, err
}

// benchTrust lets all evidence and the bare verification take turns.
func benchTrust(ctx context.Context, p trustParams) (report, error) {
	message, zone, record, err := signedMessage(p.Size)
	if err != nil {
		return report{}, err
	}
	addr, stop, err := zone.Serve("127.0.0.1:0")
	if err != nil {
		return report{}, err
	}
	defer stop()
	resolver, err := dns.New([]string{addr}, 0)
	if err != nil {
		return report{}, err
	}
	evaluator := trust.New(trust.Config{DNS: resolver, Hostname: "gw.example"})
	in := trust.Input{
		Arrival: trust.BySMTP, Client: netip.MustParseAddr("192.0.2.1"), Helo: "mx.signer.example",
		Sender: mail.Address{Local: "romeo", Domain: "signer.example"}, Content: mail.Bytes(message),
	}
	evidence := func() error {
		ev := evaluator.Evaluate(ctx, in)
		if by, ok := ev.Proven(); !ok || by != "dkim" || ev.MailFrom.Result != authres.Pass || ev.IPRev.Result != authres.Pass {
			return fmt.Errorf("not the evidence expected: %s", evaluator.AuthenticationResults(ev))
		}
		return nil
	}
	options := &dkim.VerifyOptions{LookupTXT: func(string) ([]string, error) { return []string{record}, nil }}
	bare := func() error {
		v, err := dkim.VerifyWithOptions(bytes.NewReader(message), options)
		if err == nil && (len(v) != 1 || v[0].Err != nil) {
			err = errors.New("go-msgauth does not verify the message")
		}
		return err
	}
	what := []func() error{evidence, bare}
	var wall, cpu [2][]float64
	for rep := range p.Reps + 1 {
		for i, f := range what {
			w, c, err := microseconds(ctx, p.Messages, f)
			if err != nil {
				return report{}, err
			}
			if rep > 0 { // the first is for warming up
				wall[i], cpu[i] = append(wall[i], w), append(cpu[i], c)
			}
		}
	}
	var runs []benchRun
	for i, name := range []string{"evidence", "bare go-msgauth"} {
		runs = append(runs, benchRun{Name: name, Reps: p.Reps, Metrics: map[string]spread{
			wallMetric: spreadOf(wall[i]), cpuMetric: spreadOf(cpu[i])}})
	}
	return report{Bench: "trust", Version: 1, Env: environment(), Cases: []benchCase{{
		Params: p, Runs: runs, Ratio: map[string]*float64{
			wallMetric: ratio(runs[0], &runs[1], wallMetric), cpuMetric: ratio(runs[0], &runs[1], cpuMetric)},
	}}}, nil
}

const (
	wallMetric = "us/message"
	cpuMetric  = "cpu-us/message"
)

// microseconds is what one of n calls takes, of time and of CPU: evidence is
// gathered on all cores at once, and only CPU tells what that costs.
func microseconds(ctx context.Context, n int, f func() error) (wall, cpu float64, err error) {
	var before, after syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &before); err != nil {
		return 0, 0, err
	}
	start := time.Now()
	for range n {
		if err := errors.Join(ctx.Err(), f()); err != nil {
			return 0, 0, err
		}
	}
	wall = float64(time.Since(start).Microseconds()) / float64(n)
	err = syscall.Getrusage(syscall.RUSAGE_SELF, &after)
	used := after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano()
	return wall, float64(used) / 1000 / float64(n), err
}
