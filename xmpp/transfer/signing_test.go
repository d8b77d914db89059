package transfer

import (
	"fmt"
	"testing"
)

// TestFreshSignatureInTrace: what a gateway signs anew at each attempt stands
// in the trace, beside the content, and makes no twin (xep-draft sections 5.1
// and 9.2); a signature in the content makes another message of it.
func TestFreshSignatureInTrace(t *testing.T) {
	for _, size := range []int{3000, 300_000} { // inline and in chunks
		x := newSetup()
		first := ""
		for attempt := range 3 {
			a := message(size, "romeo", "nurse")
			signature := fmt.Sprintf("DKIM-Signature: v=1; a=ed25519-sha256; d=capulet.example; s=x; h=from; bh=x; t=%d; b=%d\r\n", attempt, attempt)
			a.Trace = append([]byte(signature), a.Trace...)
			a.InDoubt = attempt == 2 // once as after a lost answer, once as if nobody knew
			out := x.sender.Deliver(t.Context(), a)
			for _, o := range out {
				if !o.Delivered() {
					t.Fatalf("%d octets, attempt %d: %v", size, attempt, o.Failure)
				}
			}
			if attempt == 0 {
				first = out[0].RemoteID
			}
			if out[0].RemoteID != first {
				t.Errorf("%d octets, attempt %d: taken as %s, first as %s", size, attempt, out[0].RemoteID, first)
			}
		}
		if n := len(x.store.all()); n != 1 {
			t.Errorf("%d octets: %d messages of one", size, n)
		}
		other := attemptOf(append([]byte("DKIM-Signature: v=1; t=9\r\n"), text(size)...), "romeo", "nurse")
		if out := x.sender.Deliver(t.Context(), other); !out[0].Delivered() || out[0].RemoteID == first {
			t.Errorf("%d octets, signed by who wrote it: %+v", size, out[0])
		}
	}
}
