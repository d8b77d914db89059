package admin

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"

	"mailxmppd/store"
)

// done is the answer to what has nothing to say but that it was done.
type done struct{}

func (s *Server) users(ctx context.Context, _ *http.Request) (any, error) {
	users, err := s.store.Users(ctx)
	if users == nil {
		users = []store.User{}
	}
	return users, err
}

func (s *Server) user(ctx context.Context, r *http.Request) (any, error) {
	return s.store.User(ctx, r.URL.Query().Get("name"))
}

func (s *Server) putUser(ctx context.Context, r *http.Request) (any, error) {
	var u store.User
	in := json.NewDecoder(r.Body)
	in.DisallowUnknownFields()
	if err := in.Decode(&u); err != nil || u.Name == "" {
		return nil, badRequest{"the body is no user"}
	}
	if err := s.store.PutUser(ctx, u); err != nil {
		return nil, err
	}
	s.log.Info("user stored", "user", u.Name)
	return done{}, nil
}

func (s *Server) deleteUser(ctx context.Context, r *http.Request) (any, error) {
	name := r.URL.Query().Get("name")
	if err := s.store.DeleteUser(ctx, name); err != nil {
		return nil, err
	}
	s.log.Info("user deleted", "user", name)
	return done{}, nil
}

// User is store.Users'.
func (c *Client) User(ctx context.Context, name string) (u store.User, err error) {
	err = c.do(ctx, http.MethodGet, "/user", url.Values{"name": {name}}, nil, &u)
	return u, err
}

// Users is store.Users'.
func (c *Client) Users(ctx context.Context) (users []store.User, err error) {
	err = c.do(ctx, http.MethodGet, "/users", nil, nil, &users)
	return users, err
}

// PutUser is store.Users'.
func (c *Client) PutUser(ctx context.Context, u store.User) error {
	body, err := json.Marshal(u)
	if err != nil {
		return err
	}
	return c.do(ctx, http.MethodPut, "/user", nil, body, &done{})
}

// DeleteUser is store.Users'.
func (c *Client) DeleteUser(ctx context.Context, name string) error {
	return c.do(ctx, http.MethodDelete, "/user", url.Values{"name": {name}}, nil, &done{})
}
