package admin

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"mailxmppd/store"
)

func (s *Server) tlsDays(ctx context.Context, r *http.Request) (any, error) {
	day := r.URL.Query().Get("day")
	if _, err := time.Parse(time.DateOnly, day); err != nil {
		return nil, badRequest{"day is not a date such as 2006-01-02"}
	}
	domain, err := domainOf(r.URL.Query())
	if err != nil {
		return nil, err
	}
	days, err := s.store.TLSDays(ctx, day, domain)
	if days == nil {
		days = []store.TLSDay{}
	}
	return days, err
}

// TLSDays is Store's.
func (c *Client) TLSDays(ctx context.Context, day, domain string) (days []store.TLSDay, err error) {
	err = c.do(ctx, http.MethodGet, "/tls-reports", url.Values{"day": {day}, "domain": {domain}}, nil, &days)
	return days, err
}
