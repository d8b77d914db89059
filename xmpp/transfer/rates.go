package transfer

import (
	"sync"
	"time"

	"mailxmppd/mail"
)

// rates bounds how often each bound domain may do something: so many times a
// minute, and as many at once.
type rates struct {
	perMinute int

	mu    sync.Mutex
	spent map[string]time.Time // when a domain will have its full allowance again; absent: it has
	swept time.Time
}

func newRates(perMinute int) *rates {
	return &rates{perMinute: perMinute, spent: map[string]time.Time{}}
}

// take takes n from a domain's allowance; where there is too little left it
// takes nothing and says when to come back.
func (r *rates) take(domain string, n int, now time.Time) (wait time.Duration) {
	n = min(n, r.perMinute) // what is never to be had could never be asked for
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sweep(now)
	full := r.spent[domain]
	if full.Before(now) {
		full = now
	}
	full = full.Add(time.Minute * time.Duration(n) / time.Duration(r.perMinute))
	if wait = full.Sub(now) - time.Minute; wait > 0 {
		return wait
	}
	r.spent[domain] = full
	return 0
}

// sweep forgets those with a full allowance, so that only the proven domains
// of the last minutes are held.
func (r *rates) sweep(now time.Time) {
	if now.Sub(r.swept) < time.Minute {
		return
	}
	r.swept = now
	for domain, full := range r.spent {
		if full.Before(now) {
			delete(r.spent, domain)
		}
	}
}

// tooOften is the refusal of what exceeds a rate (xep-draft sections 5.7 and
// 5.8).
func tooOften(text string, wait time.Duration) *mail.Failure {
	f := mail.Fail(mail.ResourceShort, text, nil).WithStatus("4.7.1")
	f.RetryAfter = wait
	return f
}
