package admin

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"

	"mailxmppd/store"
)

// Contacts are the verbs on contact keys (store.Contacts).
type Contacts interface {
	PutContactKey(ctx context.Context, k store.ContactKey) error
	ListContactKeys(ctx context.Context, owner string, after store.ContactKey, n int) ([]store.ContactKey, error)
	DeleteContactKeys(ctx context.Context, owner, address, fingerprint string) (int, error)
}

func (s *Server) contacts(ctx context.Context, r *http.Request) (any, error) {
	q := r.URL.Query()
	n, err := strconv.Atoi(q.Get("limit"))
	if err != nil || n < 1 || n > maxList {
		return nil, badRequest{"limit: not a number from 1 to " + strconv.Itoa(maxList)}
	}
	after := store.ContactKey{Owner: q.Get("after_owner"), Address: q.Get("after_address"), Fingerprint: q.Get("after_fingerprint")}
	keys, err := s.store.ListContactKeys(ctx, q.Get("owner"), after, n)
	if keys == nil {
		keys = []store.ContactKey{}
	}
	return keys, err
}

func (s *Server) putContact(ctx context.Context, r *http.Request) (any, error) {
	var k store.ContactKey
	in := json.NewDecoder(r.Body)
	in.DisallowUnknownFields()
	if err := in.Decode(&k); err != nil || k.Owner == "" || k.Address == "" || k.Fingerprint == "" || len(k.Certificate) == 0 {
		return nil, badRequest{"the body is no contact key"}
	}
	if err := s.store.PutContactKey(ctx, k); err != nil {
		return nil, err
	}
	s.log.Info("contact key stored", "rcpt", k.Owner, "from", k.Address, "key", k.Fingerprint)
	return done{}, nil
}

func (s *Server) deleteContacts(ctx context.Context, r *http.Request) (any, error) {
	q := r.URL.Query()
	n, err := s.store.DeleteContactKeys(ctx, q.Get("owner"), q.Get("address"), q.Get("fingerprint"))
	if err == nil && n > 0 {
		s.log.Info("contact keys deleted", "rcpt", q.Get("owner"), "from", q.Get("address"), "count", n)
	}
	return n, err
}

// PutContactKey is Contacts'.
func (c *Client) PutContactKey(ctx context.Context, k store.ContactKey) error {
	body, err := json.Marshal(k)
	if err != nil {
		return err
	}
	return c.do(ctx, http.MethodPut, "/contact", nil, body, &done{})
}

// ListContactKeys is Contacts'.
func (c *Client) ListContactKeys(ctx context.Context, owner string, after store.ContactKey, n int) (keys []store.ContactKey, err error) {
	q := url.Values{"owner": {owner}, "limit": {strconv.Itoa(n)},
		"after_owner": {after.Owner}, "after_address": {after.Address}, "after_fingerprint": {after.Fingerprint}}
	err = c.do(ctx, http.MethodGet, "/contacts", q, nil, &keys)
	return keys, err
}

// DeleteContactKeys is Contacts'.
func (c *Client) DeleteContactKeys(ctx context.Context, owner, address, fingerprint string) (n int, err error) {
	err = c.do(ctx, http.MethodDelete, "/contact", url.Values{"owner": {owner}, "address": {address}, "fingerprint": {fingerprint}}, nil, &n)
	return n, err
}
