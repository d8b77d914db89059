package admin

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"

	"mailxmppd/store"
)

func (s *Server) keys(ctx context.Context, _ *http.Request) (any, error) {
	keys, err := s.store.SigningKeys(ctx)
	if keys == nil {
		keys = []store.SigningKey{}
	}
	return keys, err
}

func (s *Server) addKeys(ctx context.Context, r *http.Request) (any, error) {
	var keys []store.SigningKey
	in := json.NewDecoder(r.Body)
	in.DisallowUnknownFields()
	if err := in.Decode(&keys); err != nil || len(keys) == 0 {
		return nil, badRequest{"the body is no list of keys"}
	}
	for _, k := range keys {
		if k.Domain == "" || k.Domain != keys[0].Domain || k.Selector == "" || len(k.Private) == 0 {
			return nil, badRequest{"the body is no list of keys of one domain"}
		}
	}
	if err := s.store.AddSigningKeys(ctx, keys, r.URL.Query().Get("first") != ""); err != nil {
		return nil, err
	}
	for _, k := range keys {
		s.log.Info("signing key stored", "domain", k.Domain, "selector", k.Selector)
	}
	s.rekeyed()
	return done{}, nil
}

func (s *Server) deleteKey(ctx context.Context, r *http.Request) (any, error) {
	domain, selector := r.URL.Query().Get("domain"), r.URL.Query().Get("selector")
	if err := s.store.DeleteSigningKey(ctx, domain, selector); err != nil {
		return nil, err
	}
	s.log.Info("signing key deleted", "domain", domain, "selector", selector)
	s.rekeyed()
	return done{}, nil
}

func (s *Server) rekeyed() {
	if s.operator.Rekeyed != nil {
		s.operator.Rekeyed()
	}
}

// SigningKeys is store.Signing's.
func (c *Client) SigningKeys(ctx context.Context) (keys []store.SigningKey, err error) {
	err = c.do(ctx, http.MethodGet, "/keys", nil, nil, &keys)
	return keys, err
}

// AddSigningKeys is store.Signing's.
func (c *Client) AddSigningKeys(ctx context.Context, keys []store.SigningKey, first bool) error {
	body, err := json.Marshal(keys)
	if err != nil {
		return err
	}
	q := url.Values{}
	if first {
		q.Set("first", "1")
	}
	return c.do(ctx, http.MethodPost, "/keys", q, body, &done{})
}

// DeleteSigningKey is store.Signing's.
func (c *Client) DeleteSigningKey(ctx context.Context, domain, selector string) error {
	return c.do(ctx, http.MethodDelete, "/key", url.Values{"domain": {domain}, "selector": {selector}}, nil, &done{})
}
