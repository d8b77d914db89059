// Package trust compares the verdicts of our verifiers with those of programs
// that share no code with them: dkimpy, Mail::DKIM and OpenDKIM for DKIM, the
// first two for ARC, pyspf for SPF. And it runs the suites that the world tests
// with: the openspf.org suite for SPF, the ARC test suite, the messages that
// Mail::DKIM has collected, and what rspamd has for DMARC. Where we differ on
// purpose is listed by name, with the reason.
package trust

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	mdns "github.com/miekg/dns"
)

// ErrNotInstalled means that a program is missing on this machine.
var ErrNotInstalled = errors.New("opendkim-tools, python3-dkim, python3-spf or libmail-dkim-perl is not installed; scripts/deps installs them")

// The scripts that ask the programs.
var (
	//go:embed testdata/judge.py
	judgePython string
	//go:embed testdata/judge.pl
	judgePerl string
)

// python is Debian's own: another one in the PATH has not its modules.
const python = "/usr/bin/python3"

// Installed tells whether all programs are there.
func Installed() error {
	if _, err := exec.LookPath("opendkim-testmsg"); err != nil {
		return ErrNotInstalled
	}
	for _, argv := range [][]string{{python, "-c", "import dkim, spf, yaml"}, {"perl", "-MMail::DKIM::ARC::Verifier", "-e", "1"}} {
		if exec.Command(argv[0], argv[1:]...).Run() != nil {
			return ErrNotInstalled
		}
	}
	return nil
}

// Zone holds records by lower-case name: pairs of type and value, which is
// text, an address or a host; the type FAIL makes all of a name's lookups fail.
type Zone map[string][][2]string

// Serve answers from the zone at an address of the loopback network until stop
// is called, and returns the address with the port that it got.
func (z Zone) Serve(addr string) (at string, stop func(), err error) {
	pc, ln, err := listenBoth(addr)
	if err != nil {
		return "", nil, err
	}
	var stops []func()
	for _, srv := range []*mdns.Server{{PacketConn: pc}, {Listener: ln}} {
		srv.Handler = mdns.HandlerFunc(z.answer)
		up, done := make(chan struct{}), make(chan struct{})
		srv.NotifyStartedFunc = func() { close(up) }
		go func() {
			defer close(done)
			srv.ActivateAndServe()
		}()
		<-up
		stops = append(stops, func() {
			srv.Shutdown()
			<-done
		})
	}
	return pc.LocalAddr().String(), func() {
		for _, s := range stops {
			s()
		}
	}, nil
}

// listenBoth finds a port that is free for both protocols, where addr leaves it
// open.
func listenBoth(addr string) (pc net.PacketConn, ln net.Listener, err error) {
	for range 50 {
		if pc, err = net.ListenPacket("udp", addr); err != nil {
			return nil, nil, err
		}
		if ln, err = net.Listen("tcp", pc.LocalAddr().String()); err == nil {
			return pc, ln, nil
		}
		pc.Close()
	}
	return nil, nil, err
}

func (z Zone) answer(w mdns.ResponseWriter, q *mdns.Msg) {
	m := new(mdns.Msg)
	m.SetReply(q)
	name := strings.ToLower(strings.TrimSuffix(q.Question[0].Name, "."))
	head := mdns.RR_Header{Name: q.Question[0].Name, Rrtype: q.Question[0].Qtype, Class: mdns.ClassINET, Ttl: 60}
	records, known := z[name]
	if !known {
		m.Rcode = mdns.RcodeNameError
	}
	for _, r := range records {
		switch kind, value := r[0], r[1]; {
		case kind == "FAIL":
			m.Rcode = mdns.RcodeServerFailure
		case mdns.StringToType[kind] != head.Rrtype:
		case kind == "TXT":
			var parts []string
			for len(value) > 255 {
				parts, value = append(parts, value[:255]), value[255:]
			}
			m.Answer = append(m.Answer, &mdns.TXT{Hdr: head, Txt: append(parts, value)})
		case kind == "A":
			m.Answer = append(m.Answer, &mdns.A{Hdr: head, A: netip.MustParseAddr(value).AsSlice()})
		case kind == "AAAA":
			m.Answer = append(m.Answer, &mdns.AAAA{Hdr: head, AAAA: netip.MustParseAddr(value).AsSlice()})
		case kind == "MX":
			m.Answer = append(m.Answer, &mdns.MX{Hdr: head, Preference: 10, Mx: value + "."})
		case kind == "PTR":
			m.Answer = append(m.Answer, &mdns.PTR{Hdr: head, Ptr: value + "."})
		}
	}
	if len(m.Answer) == 0 { // so that absence is remembered (RFC 2308 section 5)
		m.Ns = []mdns.RR{&mdns.SOA{Hdr: mdns.RR_Header{Name: ".", Rrtype: mdns.TypeSOA, Class: mdns.ClassINET, Ttl: 60},
			Ns: "ns.example.", Mbox: "host.example.", Minttl: 60}}
	}
	if w.RemoteAddr().Network() == "udp" {
		size := 512
		if opt := q.IsEdns0(); opt != nil {
			size = int(opt.UDPSize())
			m.SetEdns0(1232, false)
		}
		m.Truncate(size)
	}
	w.WriteMsg(m)
}

// job is what judge.py does, and answer what it says.
type job struct {
	Zone     Zone      `json:"zone"`
	Messages [][]byte  `json:"messages,omitempty"`
	ARC      bool      `json:"arc,omitempty"`
	Senders  []sender  `json:"senders,omitempty"`
	Seal     []sealJob `json:"seal,omitempty"`
	Sign     []signJob `json:"sign,omitempty"`
}

type sender struct {
	Client string `json:"client"`
	Sender string `json:"sender"`
	Helo   string `json:"helo"`
}

type sealJob struct {
	Message  []byte `json:"message"`
	Selector string `json:"selector"`
	Domain   string `json:"domain"`
	Key      string `json:"key"` // PEM
	Authserv string `json:"authserv"`
	Time     string `json:"time"`
}

type signJob struct {
	Message   []byte `json:"message"`
	Selector  string `json:"selector"`
	Domain    string `json:"domain"`
	Key       string `json:"key"`
	Header    string `json:"header"`
	Body      string `json:"body"`
	Algorithm string `json:"algorithm"`
}

type answer struct {
	Signatures [][]string `json:"signatures"`
	Chains     []string   `json:"chains"`
	Senders    []string   `json:"senders"`
	Seals      [][]byte   `json:"seals"`
	Signed     [][]byte   `json:"signed"`
}

// askPython has dkimpy and pyspf do a job.
func askPython(ctx context.Context, j job) (a answer, err error) {
	in, err := json.Marshal(j)
	if err != nil {
		return a, err
	}
	out, err := run(exec.CommandContext(ctx, python, "-c", judgePython), in)
	if err != nil {
		return a, err
	}
	return a, json.Unmarshal(out, &a)
}

// vectors reads a test suite of YAML documents.
func vectors(ctx context.Context, file string, into any) error {
	out, err := run(exec.CommandContext(ctx, python, "testdata/vectors.py", file), nil)
	if err != nil {
		return err
	}
	return json.Unmarshal(out, into)
}

// askPerl returns, per message, what Mail::DKIM says: first of the ARC chain,
// then of each signature.
func askPerl(ctx context.Context, dir, server string, messages [][]byte) ([][]string, error) {
	host, port, err := net.SplitHostPort(server)
	if err != nil {
		return nil, err
	}
	argv := []string{"-e", judgePerl, "--", host, port}
	for i, m := range messages {
		file := filepath.Join(dir, strconv.Itoa(i)+".eml")
		if err := os.WriteFile(file, m, 0o600); err != nil {
			return nil, err
		}
		argv = append(argv, file)
	}
	out, err := run(exec.CommandContext(ctx, "perl", argv...), nil)
	if err != nil {
		return nil, err
	}
	var said [][]string
	for line := range strings.Lines(string(out)) {
		said = append(said, strings.Fields(line))
	}
	if len(said) != len(messages) {
		return nil, fmt.Errorf("%d answers to %d messages", len(said), len(messages))
	}
	return said, nil
}

// Chain returns what dkimpy and Mail::DKIM say of a message's ARC chain, whose
// keys are in the zone. dir is for files.
func Chain(ctx context.Context, dir string, zone Zone, message []byte) (dkimpy, mailDKIM string, err error) {
	server, stop, err := zone.Serve("127.0.0.1:0")
	if err != nil {
		return "", "", err
	}
	defer stop()
	a, err := askPython(ctx, job{Zone: zone, Messages: [][]byte{message}, ARC: true})
	if err != nil {
		return "", "", err
	}
	perl, err := askPerl(ctx, dir, server, [][]byte{message})
	if err != nil {
		return "", "", err
	}
	return a.Chains[0], perl[0][0], nil
}

// Signatures returns what dkimpy says of each DKIM signature of some messages,
// from the top: pass, or why not.
func Signatures(ctx context.Context, zone Zone, messages ...[]byte) ([][]string, error) {
	a, err := askPython(ctx, job{Zone: zone, Messages: messages})
	return a.Signatures, err
}

// askOpenDKIM reports whether OpenDKIM accepts a message's signature. It asks
// the DNS server of resolv.conf, port 53, and so has one of its own in a mount
// namespace of its own.
func askOpenDKIM(ctx context.Context, dir, server string, message []byte) (bool, error) {
	conf := filepath.Join(dir, "resolv.conf")
	if err := os.WriteFile(conf, []byte("nameserver "+server+"\noptions timeout:2 attempts:2\n"), 0o644); err != nil {
		return false, err
	}
	cmd := exec.CommandContext(ctx, "unshare", "--mount", "sh", "-c",
		`mount --bind "$1" /etc/resolv.conf || exit 99; exec opendkim-testmsg -C -t "$2"`, "sh", conf, dir)
	cmd.Stdin = bytes.NewReader(message)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return true, nil
	case errors.As(err, &exit) && exit.ExitCode() != 99 && strings.Contains(string(out), "opendkim-testmsg:"):
		return false, nil
	}
	return false, fmt.Errorf("opendkim-testmsg: %w: %s", err, out)
}

func run(cmd *exec.Cmd, in []byte) ([]byte, error) {
	var errs bytes.Buffer
	cmd.Stdin, cmd.Stderr = bytes.NewReader(in), &errs
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", cmd.Args[0], err, errs.String())
	}
	return out, nil
}
