package transfer

import (
	"bytes"
	"context"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// hostile is one request of a peer that does not play by the rules, and its
// answer.
type hostile struct {
	typ, payload, want string
	from               mail.Binding // montague's stream with capulet if empty
}

// TestHostileTransfers plays each attack against a fresh server and looks at
// the answers, at what is left open, at what was accepted and at the counter
// that shows it to the operator.
func TestHostileTransfers(t *testing.T) {
	content := text(1000)
	offer := offerXML(content, false, nil, "")
	opened := hostile{"set", offer, "ready 0 ok", mail.Binding{}}
	chunk := func(at, from, to int, want string) hostile {
		return hostile{"set", chunkXML(tid1, at, content[from:to]), want, mail.Binding{}}
	}
	set := func(payload, want string) hostile { return hostile{"set", payload, want, mail.Binding{}} }
	commit := func(want string) hostile { return set(named("commit", tid1), want) }
	mallory := mail.Binding{Local: "montague.example", Remote: "mallory.example", Proof: "pkix"}
	elsewhere := mail.Binding{Local: "verona.example", Remote: "capulet.example", Proof: "pkix"}
	raw := func(text string) string {
		return fmt.Sprintf("<chunk xmlns='%s' tid='%s' offset='0'>%s</chunk>", Namespace, tid1, text)
	}
	at := func(offset string) string {
		return fmt.Sprintf("<chunk xmlns='%s' tid='%s' offset='%s'>eHh4</chunk>", Namespace, tid1, offset)
	}
	sized := func(size string) string {
		return offerXML(content, false, map[string]string{"size": size}, "")
	}
	for _, c := range []struct {
		name     string
		steps    []hostile
		accepted int
		open     int64 // transfers afterwards
		counter  string
		count    int64
	}{
		{"overlapping chunks", []hostile{opened, chunk(0, 0, 600, "next 600"), chunk(300, 300, 900, "next 600"),
			chunk(600, 600, 1000, "next 1000"), commit("accepted id")}, 1, 0, countStray, 1},
		{"missing chunk", []hostile{opened, chunk(0, 0, 400, "next 400"), chunk(700, 700, 1000, "next 400"),
			commit("next 400")}, 0, 1, countStray, 1},
		{"replayed chunks", []hostile{opened, chunk(0, 0, 1000, "next 1000"), chunk(0, 0, 1000, "next 1000"),
			chunk(0, 0, 1000, "next 1000"), commit("accepted id"), chunk(0, 0, 1000, "unknown")}, 1, 0, countStray, 2},
		{"replayed chunk with other octets", []hostile{opened, chunk(0, 0, 500, "next 500"), chunk(0, 500, 1000, "next 500"),
			chunk(500, 500, 1000, "next 1000"), commit("accepted id")}, 1, 0, countStray, 1},
		{"fewer octets than offered", []hostile{set(sized("1001"), "ready 0 ok"), chunk(0, 0, 1000, "next 1000"),
			commit("next 1000")}, 0, 1, countReady, 1},
		{"more octets than offered", []hostile{set(sized("999"), "ready 0 ok"), chunk(0, 0, 1000, "error bad-request 4.5.2"),
			chunk(0, 0, 999, "next 999"), commit("error bad-request 4.5.2")}, 0, 0, countWrongContent, 1},
		{"wrong size inline", []hostile{set(offerXML(content, true, map[string]string{"size": "999"}, ""), "error bad-request 4.5.2")},
			0, 0, countWrongContent, 1},
		{"wrong hash", []hostile{opened, chunk(0, 1, 1000, "next 999"), chunk(999, 0, 1, "next 1000"),
			commit("error bad-request 4.5.2"), commit("unknown")}, 0, 0, countWrongContent, 1},
		{"base64 with line ends", []hostile{opened, set(raw("eHh4\neHh4"), "error bad-request 4.5.2")}, 0, 1, "refused-malformed-request", 1},
		{"base64 without padding", []hostile{opened, set(raw("eHg"), "error bad-request 4.5.2")}, 0, 1, "refused-malformed-request", 1},
		{"base64 with stray bits", []hostile{opened, set(raw("eHi="), "error bad-request 4.5.2"), set(raw("eHj="), "error bad-request 4.5.2")},
			0, 1, "refused-malformed-request", 2},
		{"chunk of nothing", []hostile{opened, set(raw(""), "error bad-request 4.5.2")}, 0, 1, "refused-malformed-request", 1},
		{"chunk above the maximum", []hostile{opened, set(chunkXML(tid1, 0, make([]byte, 128<<10+1)), "error bad-request 4.5.2")},
			0, 1, "refused-malformed-request", 1},
		{"offset overflow", []hostile{opened, set(at("9223372036854775807"), "error bad-request 4.5.2"), set(at("18446744073709551616"), "error bad-request 4.5.2"),
			set(at("999999999999999999"), "error bad-request 4.5.2"), set(at("-1"), "error bad-request 4.5.2"), set(at("+1"), "error bad-request 4.5.2"),
			set(at("0x10"), "error bad-request 4.5.2")}, 0, 1, "refused-malformed-request", 6},
		{"size overflow", []hostile{set(sized("9223372036854775807"), "error bad-request 4.5.2"), set(sized("-1"), "error bad-request 4.5.2"),
			set(sized("999999999999999999"), "error policy-violation 5.3.4")}, 0, 0, "refused-too-large", 1},
		{"double commit", []hostile{opened, chunk(0, 0, 1000, "next 1000"), commit("accepted id"), commit("unknown"),
			set(offer, "accepted id")}, 1, 0, countAccepted, 1},
		{"commit from another domain", []hostile{opened, chunk(0, 0, 1000, "next 1000"),
			{"set", named("commit", tid1), "unknown", mallory}, commit("accepted id")}, 1, 0, countUnknown, 1},
		{"commit to another domain of ours", []hostile{opened, chunk(0, 0, 1000, "next 1000"),
			{"set", named("commit", tid1), "unknown", elsewhere}, commit("accepted id")}, 1, 0, countUnknown, 1},
		{"chunk from another domain", []hostile{opened, {"set", chunkXML(tid1, 0, content[:9]), "unknown", mallory}}, 0, 1, countUnknown, 1},
		{"abort from another domain", []hostile{opened, chunk(0, 0, 1000, "next 1000"),
			{"set", named("abort", tid1), "empty", mallory}, commit("accepted id")}, 1, 0, countAccepted, 1},
		{"status from another domain", []hostile{opened, chunk(0, 0, 1000, "next 1000"), commit("accepted id"),
			{"get", statusXML(tid1, "romeo"), "unknown", mallory}}, 1, 0, countUnknown, 1},
		{"chunks without an offer", []hostile{chunk(0, 0, 1000, "unknown"), commit("unknown")}, 0, 0, countUnknown, 2},
		{"same id for other content", []hostile{opened, set(offerXML(text(999), false, nil, ""), "error conflict 4.5.0"),
			set(offerXML(text(999), true, nil, ""), "error conflict 4.5.0")}, 0, 1, "refused-conflict", 2},
		{"recipients not ours", []hostile{set(offerXML(content, true, nil, "<rcpt to='a@verona.example'/><rcpt to='b@sub.montague.example'/>"),
			"refused forbidden forbidden")}, 0, 0, countRelaying, 2},
		{"some recipients not ours", []hostile{set(offerXML(content, true, nil, "<rcpt to='a@verona.example'/><rcpt to='romeo@montague.example'/>"),
			"accepted forbidden id")}, 1, 0, countRelaying, 1},
		{"sender of another domain", []hostile{set(offerXML(content, true, map[string]string{"sender": "x@verona.example"}, ""),
			"error forbidden 5.7.1")}, 0, 0, "refused-not-permitted", 1},
		{"loop by hop count", []hostile{set(offerXML(content, true, map[string]string{"hops": "101"}, ""), "error policy-violation 5.4.6"),
			set(offerXML(content, true, map[string]string{"hops": "999999999999999999"}, ""), "error policy-violation 5.4.6")},
			0, 0, "refused-loop", 2},
		{"loop that hides its hops", []hostile{set(offerXML(looping(), true, nil, ""), "error policy-violation 5.4.6")}, 0, 0, "refused-loop", 1},
		{"bare line feeds", []hostile{set(offerXML([]byte("Subject: x\r\n\r\n.\nMAIL FROM:<x@y>\n"), true, nil, ""), "error not-acceptable 5.6.0")},
			0, 0, countWrongContent, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := newSetup(func(s *ServerConfig, _ *SenderConfig) { s.ChunkWait = time.Millisecond })
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			for i, s := range c.steps {
				b := s.from
				if b.Remote == "" {
					b = montague
				}
				if got := x.ask(t, b, s.typ, s.payload); got != s.want {
					t.Fatalf("step %d: got %q, want %q", i, got, s.want)
				}
			}
			// What the requests themselves take, a few times over; a step that
			// waits for more than the ChunkWait of a millisecond would end the
			// package's time.
			runtime.ReadMemStats(&after)
			if grew := after.TotalAlloc - before.TotalAlloc; grew > 2<<20 {
				t.Errorf("%d octets were allocated", grew)
			}
			got := x.store.all()
			if len(got) != c.accepted {
				t.Fatalf("%d accepted, want %d", len(got), c.accepted)
			}
			for _, m := range got {
				if !bytes.Equal(m.content, content) {
					t.Error("content changed")
				}
			}
			counts := x.server.Snapshot()
			if counts["open"] != c.open || counts[c.counter] != c.count {
				t.Errorf("%d open, want %d; %s is %d, want %d", counts["open"], c.open, c.counter, counts[c.counter], c.count)
			}
		})
	}
}

// looping is a message that has had too many hops, whatever its offer says.
func looping() []byte {
	return []byte(strings.Repeat("Received: from a by b; now\r\n", mail.MaxHops+1) + "\r\nx\r\n")
}

// tidOf is the n-th of many transfer ids.
func tidOf(n int) string { return fmt.Sprintf("%064x", n) }

// peerOf is the stream of the n-th of many peers.
func peerOf(n int) (mail.Binding, string) {
	domain := fmt.Sprintf("d%d.example", n)
	return mail.Binding{Local: "montague.example", Remote: domain, Proof: "pkix"}, "x@" + domain
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestThousandsOfOpenOffers: of one domain, and of many domains, each with as
// many recipients as it may name. What is held is bounded, and a newcomer finds
// a place beside those that take all they may.
func TestThousandsOfOpenOffers(t *testing.T) {
	x := newSetup(func(s *ServerConfig, _ *SenderConfig) { s.Capabilities.MaxRecipients = 100 })
	var rcpts strings.Builder
	for i := range 100 {
		fmt.Fprintf(&rcpts, "<rcpt to='mailbox-%d-%s@montague.example'/>", i, strings.Repeat("x", 40))
	}
	ask := func(domain, n int, children string) string {
		b, sender := peerOf(domain)
		return x.ask(t, b, "set", offerXML(text(1000), false, map[string]string{"tid": tidOf(n), "sender": sender}, children))
	}
	before := heap()
	ready, crowded := 0, 0
	for domain := range 30 {
		for n := range 100 {
			got := ask(domain, n, rcpts.String())
			switch {
			case strings.HasPrefix(got, "ready 0"):
				ready++
			case got == "error resource-constraint 4.3.1":
				crowded++
			default:
				t.Fatal(got)
			}
		}
	}
	if ready+crowded != 3000 || ready > 1024 || ready < 512 {
		t.Errorf("%d ready, %d crowded", ready, crowded)
	}
	counts := x.server.Snapshot()
	if counts["open"] != int64(ready) || counts[countCrowded] != int64(crowded) || counts["open-octets"] > maxOpenOctets {
		t.Errorf("counters: %v", counts)
	}
	if grown := heap() - before; grown > maxOpenOctets {
		t.Errorf("%d octets held for %d open offers, at most %d were to be", grown, ready, maxOpenOctets)
	}
	if got := ask(1000, 1, ""); got != "ready 0 ok" {
		t.Errorf("a newcomer is told %s", got)
	}
	runtime.KeepAlive(x)
}

// TestOfferAndVanish: transfers that make no progress give way to others after
// some minutes, and are forgotten after an hour; what the store holds of them
// is taken up again.
func TestOfferAndVanish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newSetup(func(s *ServerConfig, _ *SenderConfig) { s.MaxOpenPerDomain = 3 })
		content := text(1000)
		offer := func(n int) string {
			return x.ask(t, montague, "set", offerXML(content, false, map[string]string{"tid": tidOf(n)}, ""))
		}
		for n := range 3 {
			if got := offer(n); got != "ready 0 ok" {
				t.Fatal(got)
			}
			x.ask(t, montague, "set", chunkXML(tidOf(n), 0, content[:300]))
			time.Sleep(time.Second)
		}
		if got := offer(3); got != "error resource-constraint 4.3.1" {
			t.Errorf("too many at once: %s", got)
		}
		time.Sleep(restBeforeDrop)
		if got := offer(3); got != "ready 0 ok" {
			t.Errorf("after they rested: %s", got)
		}
		if got := x.ask(t, montague, "set", chunkXML(tidOf(0), 300, content[300:])); got != "unknown" {
			t.Errorf("chunk for the one that was dropped: %s", got)
		}
		if got := x.ask(t, montague, "set", chunkXML(tidOf(2), 300, content[300:])); got != "next 1000" {
			t.Errorf("chunk for one that was not: %s", got)
		}
		time.Sleep(2 * time.Hour)
		if got := offer(0); got != "ready 300 ok" {
			t.Errorf("taken up again: %s", got)
		}
		if counts := x.server.Snapshot(); counts["open"] != 1 || counts[countDropped] != 4 {
			t.Errorf("%v, want 1 open and 4 dropped", counts)
		}
	})
}

// TestEndlessChunks: whoever sends on and on gets no further than the offered
// size, and a slow chunk keeps nobody else waiting.
func TestEndlessChunks(t *testing.T) {
	x := newSetup()
	content := text(1000)
	x.ask(t, montague, "set", offerXML(content, false, nil, ""))
	x.ask(t, montague, "set", chunkXML(tid1, 0, content))
	before := heap()
	piece := make([]byte, 6000)
	for i := range 2000 {
		offset := (i * 6000) % 20_000
		got := x.ask(t, montague, "set", chunkXML(tid1, offset, piece))
		if got != "error bad-request 4.5.2" {
			t.Fatalf("at %d: %s", offset, got)
		}
	}
	if grown := heap() - before; grown > 4<<20 {
		t.Errorf("%d octets held after 12 MB of chunks", grown)
	}
	known, err := x.store.Lookup(context.Background(), store.TransferKey{Domain: "capulet.example", Local: "montague.example", ID: tid1})
	if err != nil || known.Next != 1000 {
		t.Errorf("the store holds %d octets, %v", known.Next, err)
	}
}

// TestOfferFlood: what one domain offers is bounded by time, with a word when
// to come back; another domain does not feel it.
func TestOfferFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newSetup(func(s *ServerConfig, _ *SenderConfig) { s.OffersPerMinute = 60 })
		offer := func(n int, b mail.Binding, sender string) string {
			return x.ask(t, b, "set", offerXML(text(100), true, map[string]string{"tid": tidOf(n), "sender": sender}, ""))
		}
		for n := range 100 {
			want := "accepted id"
			if n >= 60 {
				want = "error resource-constraint 4.7.1"
			}
			if got := offer(n, montague, ""); got != want {
				t.Fatalf("offer %d: %s, want %s", n, got, want)
			}
		}
		if n := x.server.Snapshot()[countOfferFlood]; n != 40 {
			t.Errorf("%d counted, want 40", n)
		}
		other, _ := peerOf(1)
		if got := offer(1, other, ""); got != "accepted id" {
			t.Errorf("another domain: %s", got)
		}
		time.Sleep(time.Second)
		if got := offer(99, montague, ""); got != "accepted id" {
			t.Errorf("a second later: %s", got)
		}
	})
}

// TestNullSenderFlood: mail without a reverse-path is limited by bound domain,
// other mail and other domains are not.
func TestNullSenderFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newSetup(func(s *ServerConfig, _ *SenderConfig) { s.NullPerMinute = 60 })
		bounce := func(n int, b mail.Binding) string {
			return x.ask(t, b, "set", offerXML(text(100), true, map[string]string{"tid": tidOf(n), "sender": ""}, ""))
		}
		taken := 0
		for n := range 5000 {
			switch got := bounce(n, montague); got {
			case "accepted id":
				taken++
			case "error resource-constraint 4.7.1":
			default:
				t.Fatal(got)
			}
		}
		if taken != 60 {
			t.Errorf("%d taken at once, want 60", taken)
		}
		if n := x.server.Snapshot()[countNullFlood]; n != 4940 {
			t.Errorf("%d counted, want 4940", n)
		}
		if got := x.ask(t, montague, "set", offerXML(text(100), true, nil, "")); got != "accepted id" {
			t.Errorf("mail with a reverse-path: %s", got)
		}
		other, _ := peerOf(1)
		if got := bounce(1, other); got != "accepted id" {
			t.Errorf("another domain: %s", got)
		}
		time.Sleep(time.Second)
		if first, second := bounce(6000, montague), bounce(6001, montague); first != "accepted id" || second != "error resource-constraint 4.7.1" {
			t.Errorf("a second later: %s, %s", first, second)
		}
	})
}

// TestCheckFlood: who harvests addresses is slowed down; recipients count, not
// requests.
func TestCheckFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newSetup(func(s *ServerConfig, _ *SenderConfig) { s.ChecksPerMinute = 100 })
		ask := func(rcpts int) string {
			var b strings.Builder
			for i := range rcpts {
				fmt.Fprintf(&b, "<rcpt to='r%d@montague.example'/>", i)
			}
			got := x.ask(t, montague, "get", "<check xmlns='"+Namespace+"' sender=''>"+b.String()+"</check>")
			return strings.SplitAfterN(got, " ", 2)[0]
		}
		for _, c := range []struct {
			pause time.Duration
			rcpts int
			want  string
		}{
			{0, 60, "verdicts "}, {0, 60, "error "}, {0, 40, "verdicts "}, {0, 1, "error "},
			{6 * time.Second, 10, "verdicts "}, {0, 1, "error "},
			{time.Hour, 500, "verdicts "}, // more than the allowance takes all of it
			{0, 1, "error "},
		} {
			time.Sleep(c.pause)
			if got := ask(c.rcpts); got != c.want {
				t.Errorf("%d after %v: %s, want %s", c.rcpts, c.pause, got, c.want)
			}
		}
		if x.gateway.checked != 60+40+10+500 {
			t.Errorf("%d recipients judged", x.gateway.checked)
		}
		if n := x.server.Snapshot()[countCheckFlood]; n != 4 {
			t.Errorf("%d counted, want 4", n)
		}
	})
}

// TestRatesForgetDomains: what is held of domains does not grow with all that
// ever came.
func TestRatesForgetDomains(t *testing.T) {
	r := newRates(60)
	now := time.Now()
	for i := range 10_000 {
		r.take(fmt.Sprint("d", i), 1, now.Add(time.Duration(i)*time.Second))
	}
	if n := len(r.spent); n > 200 {
		t.Errorf("%d domains held", n)
	}
}
