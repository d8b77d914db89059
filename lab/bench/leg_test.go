package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"

	"mailxmppd/lab/harness"
)

// TestMain is also the processes of the leg, which are this executable.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == legSide {
		main()
		return
	}
	goleak.VerifyTestMain(m)
}

// TestLeg runs the benchmark in small and holds the shape of its JSON.
func TestLeg(t *testing.T) {
	t.Setenv("GORACE", "atexit_sleep_ms=0") // else each process takes a second to end
	p := legParams{Sizes: []int{1 << 10, 100 << 10}, InFlight: 8, VolumeMB: 1, Reps: 2, Streams: 4, Hold: 10 * time.Millisecond, LargeMB: 1, profile: t.TempDir()}
	r, err := benchLeg(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := r.output(&out, true); err != nil {
		t.Fatal(err)
	}
	var got struct {
		Bench   string
		Version int
		Env     map[string]string
		Cases   []struct {
			Params map[string]any
			Runs   []struct {
				Name    string
				Reps    int
				Metrics map[string]spread
			}
			Ratio map[string]*float64
		}
		Missing []string
	}
	dec := json.NewDecoder(&out)
	dec.DisallowUnknownFields()
	if err := dec.Decode(&got); err != nil {
		t.Fatal(err)
	}
	if got.Bench != "leg" || got.Version != 1 || got.Env["tls"] == "" || got.Missing == nil {
		t.Errorf("bench %q version %d env %v missing %v", got.Bench, got.Version, got.Env, got.Missing)
	}
	load := []string{"msgs_per_s", "cpu_ms_per_msg"}
	idle := []string{"heap_kb_per_stream", "rss_kb_per_stream"}
	large := []string{"extra_heap_mb", "extra_rss_mb"}
	for i, want := range []struct {
		what    string
		runs    []string
		metrics []string
		ratios  int
	}{
		{"messages in flight", []string{overStreams, overFrames, overFloor}, load, 6},
		{"messages in flight", []string{overStreams, overFrames, overFloor}, load, 6},
		{"idle streams", []string{"sending side", "receiving side"}, idle, 0},
		{"one large message", []string{"sending side", "receiving side"}, large, 0},
	} {
		if i >= len(got.Cases) {
			t.Fatalf("only %d cases", len(got.Cases))
		}
		c := got.Cases[i]
		if c.Params["what"] != want.what || len(c.Ratio) != want.ratios {
			t.Errorf("case %d: params %v, ratios %v", i, c.Params, c.Ratio)
		}
		for metric, v := range c.Ratio {
			if v == nil && metric == "msgs_per_s" {
				t.Errorf("case %d: no ratio for %s", i, metric)
			}
		}
		var names []string
		for _, run := range c.Runs {
			names = append(names, run.Name)
			for _, metric := range want.metrics {
				if m, ok := run.Metrics[metric]; !ok || m.Min > m.Median || m.Median > m.Max {
					t.Errorf("case %d, %s: %s is %+v", i, run.Name, metric, m)
				}
			}
		}
		if !slices.Equal(names, want.runs) {
			t.Errorf("case %d: runs %v", i, names)
		}
	}
	if files, _ := filepath.Glob(filepath.Join(p.profile, "*.pprof")); len(files) != 12 { // two sizes, three kinds, two sides
		t.Errorf("%d profiles: %v", len(files), files)
	}
}

// TestFramesRefused holds that a broken peer ends a frames sender instead of
// leaving it waiting.
func TestFramesRefused(t *testing.T) {
	dir := t.TempDir()
	ca, err := harness.NewCA(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := ca.Issue(receiving(0)); err != nil {
		t.Fatal(err)
	}
	cert, err := loadCertificate(dir, receiving(0))
	if err != nil {
		t.Fatal(err)
	}
	roots, err := loadRoots(dir)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		serveFrames(ln, cert, nil)
	}()
	defer func() {
		ln.Close()
		<-served
	}()
	f, err := dialFrames(ln.Addr().String(), receiving(0), roots, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer f.conn.Close()
	for _, c := range []struct {
		size int
		ok   bool
	}{{1000, true}, {maxFrame, true}, {maxFrame + 1, false}} {
		if err := f.load(c.size); err != nil {
			t.Fatal(err)
		}
		if err := f.send(LegLoad{Messages: 20, InFlight: 7}); (err == nil) != c.ok {
			t.Errorf("frames of %d octets: %v", c.size, err)
		}
	}
}

func TestAnswerFrames(t *testing.T) {
	for _, c := range []struct {
		name string
		in   string
		out  string
		err  error
	}{
		{"none", "", "", io.EOF},
		{"empty frame", "\x00\x00\x00\x00", "\x00\x00\x00\x00\x00\x00\x00\x00", io.EOF},
		{"two frames", "\x00\x00\x00\x01a\x00\x00\x00\x02bc", "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01", io.EOF},
		{"cut in the length", "\x00\x00", "", io.ErrUnexpectedEOF},
		{"cut in the content", "\x00\x00\x00\x03a", "", io.ErrUnexpectedEOF},
	} {
		var out bytes.Buffer
		err := answerFrames(struct {
			io.Reader
			io.Writer
		}{bytes.NewReader([]byte(c.in)), &out}, nil)
		if !errors.Is(err, c.err) || out.String() != c.out {
			t.Errorf("%s: %q, %v", c.name, out.String(), err)
		}
	}
}

// TestFloor holds that the floor does what it is there to cost.
func TestFloor(t *testing.T) {
	var f floor
	frame, err := f.encode([]byte("head"), []byte("a rose"))
	if err != nil || string(frame) != "headYSByb3Nl" {
		t.Fatalf("%q, %v", frame, err)
	}
	for _, c := range []struct {
		frame string
		ok    bool
	}{{"YSByb3Nl", true}, {"YSByb3N", false}, {"YSByb3Nm", false}, {"YSByb3Nl", true}} {
		if err := f.check([]byte(c.frame)); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.frame, err)
		}
	}
}

func TestLegContent(t *testing.T) {
	for _, size := range []int{0, 1, 80, 1000, 20 << 10} {
		b := legContent(size)
		if len(b) != size {
			t.Errorf("%d octets where %d were asked for", len(b), size)
		}
	}
	if !bytes.Contains(legContent(1000), []byte("\r\n\r\n")) {
		t.Error("no end of the header")
	}
}

// TestEach holds that every index is visited once, and that an error ends it.
func TestEach(t *testing.T) {
	visits := make([]int, 100)
	if err := each(len(visits), 1, func(i int) error { visits[i]++; return nil }); err != nil {
		t.Fatal(err)
	}
	if slices.Min(visits) != 1 || slices.Max(visits) != 1 {
		t.Errorf("visits %v", visits)
	}
	wrong, count := errors.New("wrong"), 0
	err := each(100, 1, func(i int) error {
		count++
		if i == 10 {
			return wrong
		}
		return nil
	})
	if err != wrong || count != 11 {
		t.Errorf("%v after %d", err, count)
	}
}
