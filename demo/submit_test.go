package demo

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"strings"
	"testing"
)

// checkLogins logs in at both submission listeners with what the endpoints
// say, and fails to with another password.
func checkLogins(t *testing.T, d domainEndpoint, ca string) {
	t.Helper()
	pem, err := os.ReadFile(ca)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	if d.User == "" || d.Password == "" {
		t.Fatalf("%s: no user: %+v", d.Name, d)
	}
	for _, l := range []struct {
		addr     string
		implicit bool
	}{{d.Submission, false}, {d.Submissions, true}} {
		for password, want := range map[string]string{d.Password: "553", d.Password + "x": "535"} {
			e := entry{addr: l.addr, implicit: l.implicit, tls: &tls.Config{RootCAs: roots, ServerName: d.Name}, auth: &plainAuth{d.User, password}}
			_, err := e.send(t.Context(), "nobody@"+d.Name, d.User+"@"+d.Name, letter{})
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %s", l.addr, err, want)
			}
		}
	}
}

// The step must be able to fail: here a server stands in capulet's place that
// knows no users.
func TestSubmissionStepSeesAServerWithoutUsers(t *testing.T) {
	n := newTestNetwork(t)
	standIn(t, n, romeo)
	g := n.gateways[0]
	if err := n.foreignAuthor(t.Context(), n.client(g, g.smtp, false)); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(n.problems, "\n"); n.refusals != 0 || !strings.Contains(got, "not at DATA or not with 553") {
		t.Errorf("refusals %d, problems %q", n.refusals, got)
	}
}

// And here one that takes everything.
func TestSubmissionStepSeesAForeignAuthorTaken(t *testing.T) {
	n := newTestNetwork(t)
	standIn(t, n, romeo)
	if err := n.foreignAuthor(t.Context(), n.entry(n.gateways[0])); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(n.problems, "\n"); n.refusals != 0 || !strings.Contains(got, "taken, though From is not the user's") {
		t.Errorf("refusals %d, problems %q", n.refusals, got)
	}
}
