package transfer

import (
	"bytes"
	"testing"
	"time"

	"mailxmppd/mail"
)

// TestOtherStreams: an open transfer is that of a pair of domains. Another
// stream of the pair goes on with it, whatever proved that one; a stream of
// another domain finds nothing under the id, and leaves what is there as it is.
func TestOtherStreams(t *testing.T) {
	content := text(1000)
	second := montague
	second.Addr, second.Proof, second.TLS = "192.0.2.2:5270", "dane", "TLS1.2 Y"
	mallory := mail.Binding{Local: "montague.example", Remote: "mallory.example", Proof: "pkix"}
	elsewhere := mail.Binding{Local: "verona.example", Remote: "capulet.example", Proof: "pkix"}
	reversed := mail.Binding{Local: "capulet.example", Remote: "montague.example", Proof: "pkix"}
	first, whole := chunkXML(tid1, 0, content[:400]), chunkXML(tid1, 0, content)
	rest, commit := chunkXML(tid1, 400, content[400:]), named("commit", tid1)
	forged := chunkXML(tid1, 400, bytes.Repeat([]byte("x"), 600))
	type step struct {
		from          mail.Binding
		payload, want string
	}
	for _, c := range []struct {
		name  string
		steps []step
	}{
		{"commit over another stream", []step{{montague, whole, "next 1000"}, {second, commit, "accepted id"}, {montague, commit, "unknown"}}},
		{"chunk over another stream", []step{{montague, first, "next 400"}, {second, rest, "next 1000"}, {montague, commit, "accepted id"}}},
		{"all over another stream", []step{{second, whole, "next 1000"}, {second, commit, "accepted id"}}},
		{"late chunk over the first stream", []step{{montague, first, "next 400"}, {second, rest, "next 1000"}, {montague, forged, "next 1000"},
			{second, commit, "accepted id"}}},
		{"incomplete commit over another stream", []step{{montague, first, "next 400"}, {second, commit, "next 400"}, {montague, rest, "next 1000"},
			{second, commit, "accepted id"}}},
		{"commit of another domain", []step{{montague, whole, "next 1000"}, {mallory, commit, "unknown"}, {montague, commit, "accepted id"}}},
		{"chunk of another domain in between", []step{{montague, first, "next 400"}, {mallory, forged, "unknown"}, {montague, rest, "next 1000"},
			{montague, commit, "accepted id"}}},
		{"first chunk of another domain", []step{{mallory, chunkXML(tid1, 0, bytes.Repeat([]byte("x"), 1000)), "unknown"}, {montague, whole, "next 1000"},
			{mallory, commit, "unknown"}, {montague, commit, "accepted id"}}},
		{"chunk and commit to another domain of ours", []step{{montague, first, "next 400"}, {elsewhere, forged, "unknown"}, {elsewhere, commit, "unknown"},
			{montague, rest, "next 1000"}, {montague, commit, "accepted id"}}},
		{"the pair the other way round", []step{{montague, first, "next 400"}, {reversed, forged, "unknown"}, {reversed, commit, "unknown"},
			{montague, rest, "next 1000"}, {montague, commit, "accepted id"}}},
		{"another domain opens one under the same id", []step{{montague, first, "next 400"},
			{mallory, offerXML(text(999), false, map[string]string{"sender": "x@mallory.example"}, ""), "ready 0 ok"},
			{mallory, chunkXML(tid1, 0, content[:7]), "next 7"}, {montague, rest, "next 1000"}, {mallory, commit, "next 7"},
			{montague, commit, "accepted id"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := newSetup(func(s *ServerConfig, _ *SenderConfig) { s.ChunkWait = time.Millisecond })
			steps := append([]step{{montague, offerXML(content, false, nil, ""), "ready 0 ok"}}, c.steps...)
			for i, s := range steps {
				if got := x.ask(t, s.from, "set", s.payload); got != s.want {
					t.Fatalf("step %d: got %q, want %q", i, got, s.want)
				}
			}
			x.storedOnce(t, content)
			if k := x.store.all()[0].key; k.Domain != "capulet.example" || k.Local != "montague.example" {
				t.Errorf("stored for %s with %s", k.Domain, k.Local)
			}
		})
	}
}
