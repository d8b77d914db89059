package admin

import (
	"context"
	"net/http"
	"net/url"
	"path/filepath"

	"mailxmppd/mail"
)

// backup writes the store into a file of the gateway's user: only the process
// that owns an SQLite store knows to keep its log in place meanwhile.
func (s *Server) backup(ctx context.Context, r *http.Request) (any, error) {
	file := r.URL.Query().Get("file")
	switch {
	case s.operator.Backup == nil:
		return nil, badRequest{"this store has a server of its own, which has tools for its backup"}
	case !filepath.IsAbs(file):
		return nil, badRequest{"file is no absolute path"}
	}
	if err := s.operator.Backup(ctx, file); err != nil {
		return nil, err
	}
	s.log.Info("store backed up", "file", mail.Sanitise(file))
	return done{}, nil
}

// Backup is Operator's; the path must be absolute.
func (c *Client) Backup(ctx context.Context, file string) error {
	return c.long(ctx, "/backup", url.Values{"file": {file}}, &done{})
}
