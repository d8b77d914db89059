package admin

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// List is store.Queue's.
func (c *Client) List(ctx context.Context, f store.Filter) (entries []store.Entry, err error) {
	err = c.do(ctx, http.MethodGet, "/queue", valuesOf(f), nil, &entries)
	for i := range entries {
		entries[i].Age = time.Duration(entries[i].AgeSecs) * time.Second
	}
	return entries, err
}

// Totals is store.Queue's.
func (c *Client) Totals(ctx context.Context, f store.Filter, top int) (t store.Totals, err error) {
	q := valuesOf(f)
	q.Set("top", strconv.Itoa(top))
	err = c.do(ctx, http.MethodGet, "/queue/totals", q, nil, &t)
	return t, err
}

// Show is store.Queue's.
func (c *Client) Show(ctx context.Context, id mail.ID) (r store.Record, err error) {
	err = c.do(ctx, http.MethodGet, "/queue/"+string(id), nil, nil, &r)
	return r, err
}

// Retry is store.Queue's.
func (c *Client) Retry(ctx context.Context, sel store.Selection) (int, error) {
	return c.act(ctx, "retry", sel, nil)
}

// Hold is store.Queue's.
func (c *Client) Hold(ctx context.Context, sel store.Selection) (int, error) {
	return c.act(ctx, "hold", sel, nil)
}

// Unhold is store.Queue's.
func (c *Client) Unhold(ctx context.Context, sel store.Selection) (int, error) {
	return c.act(ctx, "unhold", sel, nil)
}

// Redirect is store.Queue's.
func (c *Client) Redirect(ctx context.Context, sel store.Selection, next string) (int, error) {
	return c.act(ctx, "redirect", sel, url.Values{"next": {next}})
}

// Drop is store.Queue's.
func (c *Client) Drop(ctx context.Context, sel store.Selection) (int, error) {
	return c.act(ctx, "drop", sel, nil)
}

// Restore is store.Queue's.
func (c *Client) Restore(ctx context.Context, sel store.Selection) (int, error) {
	return c.act(ctx, "restore", sel, nil)
}

// Fail is Operator's.
func (c *Client) Fail(ctx context.Context, id mail.ID, n int, by, text string) (int, error) {
	return c.act(ctx, "fail", store.One(id, n, by), url.Values{"text": {text}})
}

// act asks for a verb.
func (c *Client) act(ctx context.Context, verb string, sel store.Selection, more url.Values) (int, error) {
	path, q := "/queue/"+verb, valuesOf(sel.Filter)
	switch {
	case sel.ID == "":
		q.Set("everything", "true") // the caller has made its choice
	default:
		path, q = "/queue/"+string(sel.ID)+"/"+verb, url.Values{}
		if sel.N >= 0 {
			q.Set("n", strconv.Itoa(sel.N))
		}
	}
	q.Set("by", sel.By)
	for name, values := range more {
		q[name] = values
	}
	var count Count
	if sel.ID == "" {
		err := c.long(ctx, path, q, &count)
		return count.Deliveries, err
	}
	err := c.do(ctx, http.MethodPost, path, q, nil, &count)
	return count.Deliveries, err
}
