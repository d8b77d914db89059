package trust

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mailxmppd/trust/arc"
	"mailxmppd/trust/authres"
)

// suites returns a folder of the suites that other programs bring.
func suites(t *testing.T, folder string) string {
	t.Helper()
	dir := filepath.Join("../../.cache/vectors", folder)
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		if os.Getenv("MAILXMPPD_LAB") == "optional" {
			t.Skip("the suites are not there")
		}
		t.Fatal("the suites are not there; scripts/vectors fetches them")
	}
	return dir
}

// arcScenario is one document of the ARC test suite.
type arcScenario struct {
	Description string               `json:"description"`
	Tests       map[string]arcVector `json:"tests"`
	Records     json.RawMessage      `json:"txt-records"` // an object, or "" for none
}

type arcVector struct {
	Message string `json:"message"`
	CV      string `json:"cv"` // of the suite for validation

	// Of the suite for sealing: the three fields' values.
	Seal             string `json:"AS"`
	MessageSignature string `json:"AMS"`
	Results          string `json:"AAR"`
}

func (s arcScenario) zone(t *testing.T) Zone {
	t.Helper()
	z := Zone{}
	var records map[string]string
	if len(s.Records) > 0 && s.Records[0] == '{' {
		if err := json.Unmarshal(s.Records, &records); err != nil {
			t.Fatal(err)
		}
	}
	for name, value := range records {
		z[strings.ToLower(name)] = text(strings.ReplaceAll(value, "\n", ""))
	}
	return z
}

// crlf gives a suite's text the line ends that it would have on the wire.
func crlf(s string) []byte {
	return []byte(strings.ReplaceAll(strings.ReplaceAll(s, "\r\n", "\n"), "\n", "\r\n"))
}

func readSuite(t *testing.T, file string) (scenarios []arcScenario) {
	t.Helper()
	if err := vectors(within(t), filepath.Join(suites(t, "mail-dkim"), "t/arc_test_suite", file), &scenarios); err != nil {
		t.Fatal(err)
	}
	return scenarios
}

// arcDiffers lists the vectors that we judge otherwise than the suite wants, with
// what we say of them.
var arcDiffers = map[string]string{
	// RFC 8301 section 3.1: rsa-sha1 is not to be taken for a signature any more.
	"ams_fields_a_sha1": "fail message signature 1: signature: rsa-sha1 proves nothing",
	"as_fields_a_sha1":  "fail seal 1: signature: rsa-sha1 proves nothing",
	// RFC 6376 section 5.4: From is always covered, and section 3.5: h= is not
	// empty. A chain that binds no field of the message could be put on any.
	"ams_fields_h_empty": "fail message signature 1: signature: no h=",
	// Two semicolons in a row at the end of a seal that is right otherwise: empty
	// tags are passed over, as in DKIM signatures and keys.
	"as_format_tags_sc": "pass ",
}

// TestARCVectors runs the validation part of the ARC test suite.
func TestARCVectors(t *testing.T) {
	run, differ := 0, 0
	for _, s := range readSuite(t, "arc-draft-validation-tests.yml") {
		resolver, stop := serveUntil(t, s.zone(t))
		for name, v := range s.Tests {
			run++
			chain := ours(t, resolver, crlf(v.Message)).ARC
			want := strings.ToLower(strings.TrimSpace(v.CV))
			if want == "" {
				want = "fail" // a vector that says nothing is meant so
			}
			says := string(chain.Result) + " " + chain.Reason
			if d, known := arcDiffers[name]; known {
				if differ++; says != d {
					t.Errorf("%s, %s: %s, known is %s", s.Description, name, says, d)
				}
			} else if string(chain.Result) != want {
				t.Errorf("%s, %s: %s, want %s", s.Description, name, says, want)
			}
		}
		stop()
	}
	if run < 170 || differ != len(arcDiffers) {
		t.Errorf("%d vectors, %d of %d that differ", run, differ, len(arcDiffers))
	}
}

// TestARCSealVectors runs the sealing part. Of the sets that it expects the
// message signatures are right to us; the seals cannot be, for the suite compares
// without white space, has lost its own, and seals cover it. Its messages, sealed
// by us, are what we, dkimpy and the suite's word about the chain so far say.
func TestARCSealVectors(t *testing.T) {
	key := newPair(t, "rsa", 2048)
	run := 0
	for _, s := range readSuite(t, "arc-draft-sign-tests.yml") {
		zone := s.zone(t)
		zone["r._domainkey.ours.example"] = text(key.record)
		resolver, stop := serveUntil(t, zone)
		for name, v := range s.Tests {
			run++
			message := crlf(v.Message)
			before := ours(t, resolver, message)
			set, err := arc.Sealer{Domain: "ours.example", Selector: "r", Key: key.signer, AuthservID: "gw.ours.example"}.
				Seal(bytes.NewReader(message), before.ARC, before.Methods(), time.Now())
			if v.Seal == "" { // the chain has ended before (RFC 8617 section 5.1, step 2)
				if !errors.Is(err, arc.ErrNotSealed) {
					t.Errorf("%s: sealed a chain that is %s, %s: %v", name, before.ARC.Result, before.ARC.Reason, err)
				}
				continue
			}
			if err != nil {
				t.Errorf("%s: not sealed: %v; the chain is %s, %s", name, err, before.ARC.Result, before.ARC.Reason)
				continue
			}

			theirs := append([]byte(foldedField("ARC-Seal", v.Seal)+foldedField("ARC-Message-Signature", v.MessageSignature)+
				foldedField("ARC-Authentication-Results", v.Results)), message...)
			got := ours(t, resolver, theirs).ARC
			if failed := strings.Contains(v.Seal, "cv=fail"); failed != strings.Contains(got.Reason, "says that the chain was broken before") ||
				!failed && !strings.HasPrefix(got.Reason, "seal ") { // message signatures are looked at first
				t.Errorf("%s: the suite's set: %s, %s", name, got.Result, got.Reason)
			}

			a, err := askPython(within(t), job{Zone: zone, ARC: true, Messages: [][]byte{message, append([]byte(set), message...)}})
			if err != nil {
				t.Fatal(err)
			}
			cv := map[string]string{"none": "cv=none;", "pass": "cv=pass;", "fail": "cv=fail;"}[a.Chains[0]]
			if !strings.Contains(set, cv) || string(before.ARC.Result) != a.Chains[0] {
				t.Errorf("%s: dkimpy says %s of the chain, we %s, %s, and seal\n%s", name, a.Chains[0], before.ARC.Result, before.ARC.Reason, set)
			}
			after := ours(t, resolver, append([]byte(set), message...)).ARC
			if want := cv != "cv=fail;"; (after.Result == authres.Pass) != want || (a.Chains[1] == "pass") != want {
				t.Errorf("%s: sealed by us: dkimpy says %s, we %s, %s", name, a.Chains[1], after.Result, after.Reason)
			}
		}
		stop()
	}
	if run < 17 {
		t.Errorf("%d vectors", run)
	}
}

// foldedField makes a field of a value of several lines.
func foldedField(name, value string) string {
	return name + ": " + strings.ReplaceAll(strings.TrimSpace(value), "\n", "\r\n ") + "\r\n"
}
