package proof

import (
	"context"
	"testing"
	"time"

	"mailxmppd/xmpp/stream"
)

// TestDANECannotBeTakenAway: PKIX is no proof of a place that was dialled while
// nobody can tell whether it has signed records, whichever look-up is kept from
// us.
func TestDANECannotBeTakenAway(t *testing.T) {
	peer := selfSigned(t, "montague.example") // which PKIX is to have proven
	const d, h = "montague.example", "xmpp.hoster.example"
	place := &stream.Target{Host: h, Port: 5270}
	direct := srv("_xmpps-server", d, h, 5270)
	for _, c := range []struct {
		name              string
		records           []string
		unsigned, failing []string
		dialled           *stream.Target // nil: accepted
		want, why         string
	}{
		{name: "the SRV record that led there", records: []string{direct}, failing: []string{"_xmpps-server."}, dialled: place, why: "SRV records cannot be had"},
		{name: "all SRV records", records: []string{direct}, failing: []string{"_xmpp"}, dialled: place, why: "SRV records cannot be had"},
		{name: "all SRV records, accepted", records: []string{direct}, failing: []string{"_xmpp"}, want: "pkix"},
		{name: "those of another service", records: []string{direct}, failing: []string{"_xmpps-mail."}, dialled: place, want: "pkix"},
		{name: "those of another service, and ours are not signed", records: []string{direct}, failing: []string{"_xmpps-mail."}, unsigned: []string{"_xmpps-server."}, dialled: place, want: "pkix"},
		{name: "all SRV records, dialled at an address", failing: []string{"_xmpp"}, dialled: &stream.Target{Host: "127.0.0.1", Port: 5270}, want: "pkix"},
	} {
		t.Run(c.name, func(t *testing.T) {
			z := serveZone(t, &zone{records: c.records, unsigned: c.unsigned, failing: c.failing})
			e := accepted(peer)
			e.PKIX, e.Dialled = nil, c.dialled
			proof, err := newProver(t, Config{DNS: z.resolver(t), DANE: true}).Prove(patience(t), e)
			check(t, proof, err, c.want, c.why)
		})
	}
	t.Run("too many look-ups", func(t *testing.T) {
		p := newProver(t, Config{DNS: startZone(t, direct).resolver(t), DANE: true, MaxLookups: 1})
		release := make(chan struct{})
		if _, err := p.places.join("other.example", func(context.Context) []published { <-release; return nil }); err != nil {
			t.Fatal(err)
		}
		defer close(release)
		e := accepted(peer)
		e.PKIX, e.Dialled = nil, place
		proof, err := p.Prove(patience(t), e)
		check(t, proof, err, "", errBusy.Error())
	})
	t.Run("no time for it", func(t *testing.T) {
		p := newProver(t, Config{DNS: startZone(t, direct).resolver(t), DANE: true})
		ctx, cancel := context.WithDeadline(t.Context(), time.Now())
		defer cancel()
		e := accepted(peer)
		e.PKIX, e.Dialled = nil, place
		if proof, err := p.Prove(ctx, e); err == nil {
			t.Errorf("proven by %s", proof)
		}
	})
}
