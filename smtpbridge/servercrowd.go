package smtpbridge

import "sync"

// Crowd counts the connections that are open on all listeners that share it, in
// all and by client. Safe for concurrent use.
type Crowd struct {
	mu        sync.Mutex
	all       int
	perClient map[string]int // by clientKey
}

// NewCrowd makes one that has counted nothing yet.
func NewCrowd() *Crowd { return &Crowd{perClient: map[string]int{}} }

// enter counts a connection, if there are fewer than limit.
func (c *Crowd) enter(limit int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.all >= limit {
		return false
	}
	c.all++
	return true
}

// join counts a connection that has entered as the client's, if that has fewer
// than limit.
func (c *Crowd) join(key string, limit int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.perClient[key] >= limit {
		return false
	}
	c.perClient[key]++
	return true
}

// leave undoes enter, and with a key join.
func (c *Crowd) leave(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all--
	c.part(key)
}

// quit undoes join alone.
func (c *Crowd) quit(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.part(key)
}

// part is quit with c.mu held.
func (c *Crowd) part(key string) {
	if key == "" {
		return
	}
	if c.perClient[key]--; c.perClient[key] == 0 {
		delete(c.perClient, key)
	}
}
