package admin

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strconv"

	"mailxmppd/store"
)

// Grants is what the verbs do with grants; see store.Grants.
type Grants interface {
	PutGrant(ctx context.Context, g store.Grant, b store.GrantBounds) error
	DeleteGrant(ctx context.Context, n store.GrantName) error
	Grants(ctx context.Context, f store.GrantFilter) ([]store.Grant, error)
	FindGrants(ctx context.Context, kind store.GrantKind, recipients []string, peer string, authors []string) ([]store.Grant, error)
}

// GrantPut is the body of PUT /grant.
type GrantPut struct {
	Grant  store.Grant       `json:"grant"`
	Bounds store.GrantBounds `json:"bounds"`
}

func (s *Server) grantsChanged() {
	if s.operator.Granted != nil {
		s.operator.Granted()
	}
}

func kindOf(q url.Values) (store.GrantKind, error) {
	kind := store.GrantKind(q.Get("kind"))
	switch kind {
	case store.GrantGiven, store.GrantAsked, store.GrantHeld, store.GrantWanted:
		return kind, nil
	}
	return "", badRequest{"kind is none of given, asked, held and wanted"}
}

func grantName(q url.Values) (store.GrantName, error) {
	kind, err := kindOf(q)
	n := store.GrantName{Kind: kind, Recipient: q.Get("recipient"), Author: q.Get("author")}
	if err == nil && (n.Recipient == "" || n.Author == "") {
		err = badRequest{"recipient and author are needed"}
	}
	return n, err
}

func (s *Server) grants(ctx context.Context, r *http.Request) (any, error) {
	q := r.URL.Query()
	kind, err := kindOf(q)
	if err != nil {
		return nil, err
	}
	f := store.GrantFilter{Kind: kind, Recipient: q.Get("recipient"), Limit: maxList}
	f.After.Recipient, f.After.Author = q.Get("after_recipient"), q.Get("after_author")
	if text := q.Get("limit"); text != "" {
		if f.Limit, err = strconv.Atoi(text); err != nil || f.Limit < 1 || f.Limit > maxList {
			return nil, badRequest{"limit is not a number from 1 to 10000"}
		}
	}
	return orNone(s.store.Grants(ctx, f))
}

func (s *Server) findGrants(ctx context.Context, r *http.Request) (any, error) {
	q := r.URL.Query()
	kind, err := kindOf(q)
	if err != nil {
		return nil, err
	}
	return orNone(s.store.FindGrants(ctx, kind, q["recipient"], q.Get("peer"), q["author"]))
}

// orNone answers with an empty list instead of none.
func orNone(grants []store.Grant, err error) (any, error) {
	return append([]store.Grant{}, grants...), err
}

func (s *Server) putGrant(ctx context.Context, r *http.Request) (any, error) {
	var in GrantPut
	body := json.NewDecoder(r.Body)
	body.DisallowUnknownFields()
	g := &in.Grant
	if err := body.Decode(&in); err != nil || g.Recipient == "" || g.Author == "" || g.Peer == "" || g.State == "" {
		return nil, badRequest{"the body is no grant"}
	}
	if _, err := kindOf(url.Values{"kind": {string(g.Kind)}}); err != nil {
		return nil, err
	}
	err := s.store.PutGrant(ctx, *g, in.Bounds)
	switch {
	case errors.Is(err, store.ErrTooMany):
		return nil, badRequest{err.Error()}
	case err != nil:
		return nil, err
	}
	s.log.Info("grant stored", "kind", g.Kind, "mailbox", g.Recipient, "author", g.Author, "state", g.State)
	s.grantsChanged()
	return done{}, nil
}

func (s *Server) deleteGrant(ctx context.Context, r *http.Request) (any, error) {
	n, err := grantName(r.URL.Query())
	if err != nil {
		return nil, err
	}
	if err := s.store.DeleteGrant(ctx, n); err != nil {
		return nil, err
	}
	s.log.Info("grant deleted", "kind", n.Kind, "mailbox", n.Recipient, "author", n.Author)
	s.grantsChanged()
	return done{}, nil
}

// PutGrant is Grants'.
func (c *Client) PutGrant(ctx context.Context, g store.Grant, b store.GrantBounds) error {
	body, err := json.Marshal(GrantPut{g, b})
	if err != nil {
		return err
	}
	return c.do(ctx, http.MethodPut, "/grant", nil, body, &done{})
}

// DeleteGrant is Grants'.
func (c *Client) DeleteGrant(ctx context.Context, n store.GrantName) error {
	q := url.Values{"kind": {string(n.Kind)}, "recipient": {n.Recipient}, "author": {n.Author}}
	return c.do(ctx, http.MethodDelete, "/grant", q, nil, &done{})
}

// Grants is Grants'.
func (c *Client) Grants(ctx context.Context, f store.GrantFilter) (grants []store.Grant, err error) {
	q := url.Values{"kind": {string(f.Kind)}, "recipient": {f.Recipient}, "limit": {strconv.Itoa(f.Limit)},
		"after_recipient": {f.After.Recipient}, "after_author": {f.After.Author}}
	err = c.do(ctx, http.MethodGet, "/grants", q, nil, &grants)
	return grants, err
}

// FindGrants is Grants'.
func (c *Client) FindGrants(ctx context.Context, kind store.GrantKind, recipients []string, peer string, authors []string) (grants []store.Grant, err error) {
	q := url.Values{"kind": {string(kind)}, "recipient": recipients, "peer": {peer}, "author": authors}
	err = c.do(ctx, http.MethodGet, "/grants/find", q, nil, &grants)
	return grants, err
}
