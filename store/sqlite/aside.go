package sqlite

import (
	"context"
	"fmt"
	"net/url"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// aside is what claiming found that it cannot read: a group, held.
type aside struct {
	id     mail.ID
	domain string
	why    error
}

const (
	dueKeys = "SELECT key FROM deliveries WHERE key BETWEEN ? AND ? AND domain = ? AND next = ? AND due <= ?"
	holdFor = `UPDATE deliveries SET text = ? WHERE key = ?`
)

// putAside holds the due deliveries of a group whose message cannot be read, as an
// operator would, and says why where the words of the last attempt stand.
func putAside(c *conn, g group, now, first, last int64, why error) error {
	var keys []int64
	err := c.query(dueKeys, []any{first, last, g.domain, g.next, now}, func(r row) error {
		keys = append(keys, r.int(0))
		return nil
	})
	for _, key := range keys {
		if err == nil {
			_, err = c.exec(holdOne, neverDue, now, key)
		}
		if err == nil {
			_, err = c.exec(holdFor, why.Error(), key)
		}
		if err == nil {
			err = note(c, g.num, int(key&(maxRecipients-1)), now, "hold", store.ByStore, why.Error())
		}
	}
	return err
}

// tell logs what was put aside, once it is.
func (s *Store) tell(put []aside) {
	for _, a := range put {
		s.log.Error("stored message held, it cannot be read", "id", a.id, "domain", a.domain, "err", a.why)
	}
}

// Unreadable looks at what is stored of every message at path, content excepted, and
// names those that this program cannot read. It works beside a running gateway too.
func Unreadable(ctx context.Context, path string) (found store.Unreadables, err error) {
	c, err := openConn((&url.URL{Scheme: "file", Path: path, RawQuery: "mode=ro"}).String(), "busy_timeout=10000", "query_only=1")
	if err != nil {
		return found, fmt.Errorf("store %s: %w", path, err)
	}
	defer c.close()
	// In stretches, so that no log of a running gateway has to be kept for long.
	for at, looked := int64(-1), unreadableStep; looked == unreadableStep; {
		looked = 0
		err := c.query("SELECT "+messageColumns+`, (SELECT max(key) & 65535 FROM deliveries WHERE key BETWEEN num << 16 AND num << 16 | 65535)
			FROM messages WHERE num > ? ORDER BY num LIMIT ?`, []any{at, unreadableStep}, func(r row) error {
			looked, at = looked+1, r.int(0)
			m, err := scanMessage(r)
			if err == nil && r[12] != nil {
				err = store.Lease{Envelope: m.envelope, Deliveries: []store.Delivery{{N: int(r.int(12))}}}.CheckDeliveries()
			}
			if err != nil {
				found.Add(m.id, err)
			}
			return ctx.Err()
		})
		if err != nil {
			return found, fmt.Errorf("store %s: %w", path, err)
		}
	}
	return found, nil
}

// unreadableStep is how many messages are looked at in one query.
const unreadableStep = 1000
