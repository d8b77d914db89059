package dns

import (
	"sync"
	"time"
)

const (
	maxCached = 10_000
	// maxTTL caps what is remembered: a domain that moves is followed within
	// minutes, and the server in front of us caches for longer anyway.
	maxTTL = 5 * time.Minute
)

type cacheKey struct {
	name  string // fully qualified, lower-case
	qtype uint16
}

type cached struct {
	result  result
	expires time.Time
}

// cache remembers definite answers, a bounded number of them.
type cache struct {
	mu      sync.Mutex
	max     int
	entries map[cacheKey]cached
	now     func() time.Time
}

func newCache(max int) *cache {
	return &cache{max: max, entries: map[cacheKey]cached{}, now: time.Now}
}

func (c *cache) get(k cacheKey) (result, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.entries[k]
	if ok && !c.now().Before(e.expires) {
		delete(c.entries, k)
		return result{}, false
	}
	return e.result, ok
}

func (c *cache) put(k cacheKey, r result) {
	if r.ttl <= 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, there := c.entries[k]; !there && len(c.entries) >= c.max {
		c.evict()
	}
	c.entries[k] = cached{result: r, expires: c.now().Add(min(r.ttl, maxTTL))}
}

// evict makes room: of up to 16 entries, in the map's own random order, those
// that have expired go, or else the one that would expire first. Its cost does
// not grow with the cache, so that a flood of names cannot make lookups slow.
func (c *cache) evict() {
	var first cacheKey
	var when time.Time
	looked, freed := 0, false
	now := c.now()
	for k, e := range c.entries {
		if !now.Before(e.expires) {
			delete(c.entries, k)
			freed = true
		} else if when.IsZero() || e.expires.Before(when) {
			first, when = k, e.expires
		}
		if looked++; looked == 16 {
			break
		}
	}
	if !freed {
		delete(c.entries, first)
	}
}
