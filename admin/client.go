package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// maxAnswer bounds what a client reads of an answer, in octets.
const maxAnswer = 64 << 20

// ErrNotRunning means that nobody listens on the socket.
var ErrNotRunning = errors.New("no gateway is running here")

// Client works on the queue and the users of a running gateway. It is safe for concurrent
// use. Errors: ErrNotRunning, store.ErrNotFound, or the gateway's own words.
type Client struct {
	http    http.Client
	patient http.Client // for what goes over the whole store
}

// NewClient makes a client for the socket at path; it connects when used.
func NewClient(path string) *Client {
	dialer := net.Dialer{Timeout: 5 * time.Second}
	within := func(timeout time.Duration) http.Client {
		return http.Client{
			Timeout: 2 * timeout,
			Transport: &http.Transport{
				DisableKeepAlives:     true,
				ResponseHeaderTimeout: timeout + 5*time.Second,
				DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
					return dialer.DialContext(ctx, "unix", path)
				},
			},
		}
	}
	return &Client{http: within(requestTimeout), patient: within(longTimeout)}
}

// Health asks how the gateway is.
func (c *Client) Health(ctx context.Context) (h Health, err error) {
	err = c.do(ctx, http.MethodGet, "/health", nil, nil, &h)
	return h, err
}

// Counters asks what was counted since the start: part, name, number.
func (c *Client) Counters(ctx context.Context) (parts map[string]map[string]any, err error) {
	err = c.do(ctx, http.MethodGet, "/counters", nil, nil, &parts)
	return parts, err
}

// long asks for what goes over the whole store.
func (c *Client) long(ctx context.Context, path string, q url.Values, v any) error {
	return send(ctx, &c.patient, http.MethodPost, path, q, nil, v)
}

// do sends one request, with a body where there is one, and reads its answer
// into v.
func (c *Client) do(ctx context.Context, method, path string, q url.Values, content []byte, v any) error {
	return send(ctx, &c.http, method, path, q, content, v)
}

func send(ctx context.Context, client *http.Client, method, path string, q url.Values, content []byte, v any) error {
	u := url.URL{Scheme: "http", Host: "gateway", Path: path, RawQuery: q.Encode()}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(content))
	if err != nil {
		return fmt.Errorf("admin socket: %w", err)
	}
	resp, err := client.Do(req)
	switch {
	case errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.ECONNREFUSED):
		return ErrNotRunning
	case err != nil:
		return fmt.Errorf("admin socket: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return fmt.Errorf("admin socket: %w", err)
	case len(body) > maxAnswer:
		return fmt.Errorf("admin socket: answer longer than %d octets", maxAnswer)
	case resp.StatusCode == http.StatusNotFound:
		return notFound(body)
	}
	if resp.StatusCode != http.StatusOK {
		var f Fault
		if json.Unmarshal(body, &f) != nil || f.Error == "" {
			// An unhealthy gateway answers with its Health, which says so.
			if json.Unmarshal(body, v) == nil {
				return nil
			}
			f.Error = resp.Status
		}
		if c, ok := v.(*Count); ok {
			c.Deliveries = f.Deliveries
		}
		return fmt.Errorf("gateway: %s", mail.Sanitise(f.Error))
	}
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("admin socket: %w", err)
	}
	return nil
}

// notFound is store.ErrNotFound with what the gateway says beyond it.
func notFound(body []byte) error {
	var f Fault
	json.Unmarshal(body, &f) // of no Fault nothing is said
	if more, ok := strings.CutPrefix(f.Error, store.ErrNotFound.Error()+": "); ok {
		return fmt.Errorf("%w: %s", store.ErrNotFound, mail.Sanitise(more))
	}
	return store.ErrNotFound
}
