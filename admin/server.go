// Package admin is the operator's door into a running gateway: HTTP over a
// Unix socket that only the gateway's own user can open.
//
//	GET  /health                  is the gateway up and its store answering
//	GET  /counters                what was counted since the start, by part
//	GET  /queue?domain=&from=&state=&older=&younger=&text=&all=&limit=&after=   deliveries
//	GET  /queue/totals?top=       their numbers by domain and age, of the same choice
//	GET  /queue/{id}              one message with its deliveries, attempts and events
//	POST /queue/{id}/retry?n=     try again now, n for one delivery of it
//	POST /queue/{id}/hold?n=      keep from being tried; unhold ends that
//	POST /queue/{id}/redirect?n=&next=   send to another next hop
//	POST /queue/{id}/drop?n=      end without a DSN; restore brings it back
//	POST /queue/{id}/fail?n=&text=  end with a DSN
//	POST /queue/{verb}?domain=...     the same to all of a choice, or with everything=true
//	POST /backup?file=            write what the store holds into a new file
//	GET  /tls-reports?day=&domain=    how TLS with other domains fared
//	GET  /users                   who may submit mail
//	GET  /user?name=              one of them
//	PUT  /user                    store one: the body is a store.User
//	DELETE /user?name=            forget one
//	GET  /keys                    what signs our mail, private keys included
//	POST /keys                    store some of one domain: the body is a list of store.SigningKey
//	DELETE /key?domain=&selector= forget one
//	GET  /grants?kind=&recipient=&limit=&after_recipient=&after_author=   who may write to whom
//	GET  /grants/find?kind=&recipient=&peer=&author=   those that fit; recipient and author repeatable
//	PUT  /grant                   store one: the body is a GrantPut
//	DELETE /grant?kind=&recipient=&author=   forget one
//	GET  /contacts?owner=&limit=&after_owner=&after_address=&after_fingerprint=   keys that our recipients know
//	PUT  /contact                 store one: the body is a store.ContactKey
//	DELETE /contact?owner=&address=&fingerprint=   forget one, or all of the address
//
// Answers are JSON: store.Entry, store.Record, store.User with what is kept of
// the password, Count, Health, or Fault with a status of 400 and above. Whoever
// can open the socket may do everything; the file's mode is the whole access
// control. Every request, answer and wait is bounded.
package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// Bounds of a request.
const (
	requestTimeout = 30 * time.Second
	longTimeout    = time.Hour // of what goes over the whole store
	maxHeader      = 16 << 10
	maxBody        = 256 << 10
	maxList        = 10_000
	maxClients     = 32
)

// Store is what the verbs work on. Client fulfils it too, so that a verb does
// the same through the socket and on the store itself.
type Store interface {
	store.Queue
	store.Users
	// TLSDays returns what is known of how TLS fared on a day (store.TLSReports).
	TLSDays(ctx context.Context, day, domain string) ([]store.TLSDay, error)
	store.Signing
	Grants
	Contacts
}

// Health is the answer to GET /health.
type Health struct {
	Status string `json:"status"` // "ok", or "store" when the store does not answer
	PID    int    `json:"pid"`
	Uptime int64  `json:"uptime_s"`
}

// Count is the answer to the verbs that change deliveries.
type Count struct {
	Deliveries int `json:"deliveries"`
}

// Fault is the answer to a request that failed.
type Fault struct {
	Error      string `json:"error"`
	Deliveries int    `json:"deliveries,omitempty"` // that a verb had changed by then, which stay so
}

// Server answers requests. Make it with New.
type Server struct {
	store    Store
	log      *slog.Logger
	onChange func()
	counters func() map[string]any
	operator Operator
	began    time.Time
	slots    chan struct{}
	http     http.Server
}

// Operator is what the running gateway does at an operator's request beyond
// what a store can. Its functions are safe for concurrent use; nil: not here.
type Operator struct {
	// Fail ends open deliveries of a message, or the n-th one if n >= 0, with a
	// DSN of that text ("" for the gateway's own words), and says how many.
	Fail func(ctx context.Context, id mail.ID, n int, by, text string) (int, error)
	// Rekeyed is called after signing keys were stored or deleted.
	Rekeyed func()
	// Granted is called after grants were changed.
	Granted func()
	// Backup writes what the store holds into a new file.
	Backup func(ctx context.Context, file string) error
}

// New makes a server over a store. onChange is called, on the request's
// goroutine, after deliveries were made due.
func New(st Store, log *slog.Logger, onChange func()) *Server {
	s := &Server{store: st, log: log, onChange: onChange, began: time.Now(), slots: make(chan struct{}, maxClients)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", s.health)
	mux.HandleFunc("GET /counters", s.answer(s.count))
	mux.HandleFunc("GET /queue", s.answer(s.list))
	mux.HandleFunc("GET /queue/{id}", s.answer(s.show))
	mux.HandleFunc("GET /queue/totals", s.answer(s.totals))
	mux.HandleFunc("POST /queue/{verb}", s.answer(s.act))
	mux.HandleFunc("POST /queue/{id}/{verb}", s.answer(s.act))
	mux.HandleFunc("POST /backup", s.answer(s.backup))
	mux.HandleFunc("GET /tls-reports", s.answer(s.tlsDays))
	mux.HandleFunc("GET /users", s.answer(s.users))
	mux.HandleFunc("GET /user", s.answer(s.user))
	mux.HandleFunc("PUT /user", s.answer(s.putUser))
	mux.HandleFunc("DELETE /user", s.answer(s.deleteUser))
	mux.HandleFunc("GET /keys", s.answer(s.keys))
	mux.HandleFunc("POST /keys", s.answer(s.addKeys))
	mux.HandleFunc("DELETE /key", s.answer(s.deleteKey))
	mux.HandleFunc("GET /grants", s.answer(s.grants))
	mux.HandleFunc("GET /grants/find", s.answer(s.findGrants))
	mux.HandleFunc("PUT /grant", s.answer(s.putGrant))
	mux.HandleFunc("DELETE /grant", s.answer(s.deleteGrant))
	mux.HandleFunc("GET /contacts", s.answer(s.contacts))
	mux.HandleFunc("PUT /contact", s.answer(s.putContact))
	mux.HandleFunc("DELETE /contact", s.answer(s.deleteContacts))
	s.http = http.Server{
		Handler:           http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.bounded(mux, w, r) }),
		ReadHeaderTimeout: requestTimeout,
		ReadTimeout:       requestTimeout,
		WriteTimeout:      2 * requestTimeout,
		IdleTimeout:       requestTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	return s
}

// Allow says what the gateway does for operators. It is called before Serve.
func (s *Server) Allow(o Operator) { s.operator = o }

// ShowCounters says what GET /counters answers: for each part of the gateway an
// object of numbers. It is called before Serve.
func (s *Server) ShowCounters(counters func() map[string]any) { s.counters = counters }

func (s *Server) count(context.Context, *http.Request) (any, error) {
	if s.counters == nil {
		return map[string]any{}, nil
	}
	return s.counters(), nil
}

// Serve answers on ln until Shutdown.
func (s *Server) Serve(ln net.Listener) error {
	if err := s.http.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("admin socket: %w", err)
	}
	return nil
}

// Shutdown stops answering; requests in hand may finish until ctx ends.
func (s *Server) Shutdown(ctx context.Context) error {
	err := s.http.Shutdown(ctx)
	if err != nil {
		s.http.Close()
	}
	return err
}

// bounded lets a fixed number of requests work at a time, each for a fixed
// time and with a short body at most.
func (s *Server) bounded(next *http.ServeMux, w http.ResponseWriter, r *http.Request) {
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	default:
		write(w, http.StatusServiceUnavailable, Fault{Error: "too many requests at a time"})
		return
	}
	timeout := requestTimeout
	switch _, pattern := next.Handler(r); pattern {
	case "POST /queue/{verb}", "POST /backup":
		timeout = longTimeout
		// The server's own bounds would end the request under its handler's
		// hands: a read that times out cancels its context.
		conn := http.NewResponseController(w)
		if err := errors.Join(conn.SetReadDeadline(time.Time{}), conn.SetWriteDeadline(time.Now().Add(longTimeout))); err != nil {
			s.log.Warn("admin request cannot be given more time", "err", err)
		}
	}
	ctx, cancel := context.WithTimeout(r.Context(), timeout)
	defer cancel()
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	next.ServeHTTP(w, r.WithContext(ctx))
}

func (s *Server) health(w http.ResponseWriter, r *http.Request) {
	h := Health{Status: "ok", PID: os.Getpid(), Uptime: int64(time.Since(s.began).Seconds())}
	status := http.StatusOK
	if _, err := s.store.List(r.Context(), store.Filter{Limit: 1}); err != nil {
		s.log.Error("store does not answer", "err", err)
		h.Status, status = "store", http.StatusServiceUnavailable
	}
	write(w, status, h)
}

// answer turns what a verb returns into an HTTP answer.
func (s *Server) answer(verb func(context.Context, *http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		result, err := verb(r.Context(), r)
		bad, isBad := errors.AsType[badRequest](err)
		switch {
		case err == nil:
			write(w, http.StatusOK, result)
		case isBad:
			write(w, http.StatusBadRequest, Fault{Error: bad.why})
		case errors.Is(err, store.ErrNotFound):
			write(w, http.StatusNotFound, Fault{Error: err.Error()})
		default:
			s.log.Error("admin request failed", "path", r.URL.Path, "err", err)
			f := Fault{Error: err.Error()}
			if c, ok := result.(Count); ok {
				f.Deliveries = c.Deliveries
			}
			write(w, http.StatusInternalServerError, f)
		}
	}
}

func write(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v) // the client has gone if this fails
}

// badRequest is a request that makes no sense.
type badRequest struct{ why string }

func (b badRequest) Error() string { return b.why }

// deliveryOf reads which delivery a request names; n is -1 for all of a
// message.
func deliveryOf(r *http.Request) (id mail.ID, n int, err error) {
	if id, err = mail.ParseID(r.PathValue("id")); err != nil {
		return "", 0, badRequest{err.Error()}
	}
	text := r.URL.Query().Get("n")
	if text == "" {
		return id, -1, nil
	}
	if n, err = strconv.Atoi(text); err != nil || n < 0 {
		return "", 0, badRequest{"n is not the number of a delivery"}
	}
	return id, n, nil
}

func domainOf(q url.Values) (string, error) {
	text := q.Get("domain")
	if text == "" {
		return "", nil
	}
	d, err := mail.ParseDomain(text)
	if err != nil {
		return "", badRequest{err.Error()}
	}
	return d, nil
}
