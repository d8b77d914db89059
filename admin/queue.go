package admin

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
)

func (s *Server) list(ctx context.Context, r *http.Request) (any, error) {
	f, err := filterOf(r.URL.Query())
	if err != nil {
		return nil, err
	}
	entries, err := s.store.List(ctx, f)
	if entries == nil {
		entries = []store.Entry{}
	}
	return entries, err
}

func (s *Server) totals(ctx context.Context, r *http.Request) (any, error) {
	q := r.URL.Query()
	f, err := filterOf(q)
	if err != nil {
		return nil, err
	}
	top, err := strconv.Atoi(cmp.Or(q.Get("top"), "20"))
	if err != nil || top < 0 || top > maxList {
		return nil, badRequest{fmt.Sprintf("top is not a number from 0 to %d", maxList)}
	}
	return s.store.Totals(ctx, f, top)
}

func (s *Server) show(ctx context.Context, r *http.Request) (any, error) {
	id, err := mail.ParseID(r.PathValue("id"))
	if err != nil {
		return nil, badRequest{err.Error()}
	}
	return s.store.Show(ctx, id)
}

// act does one of the verbs that change deliveries.
func (s *Server) act(ctx context.Context, r *http.Request) (any, error) {
	sel, err := selectionOf(r)
	if err != nil {
		return nil, err
	}
	verb := r.PathValue("verb")
	do, makesDue := s.store.Retry, true
	switch verb {
	case "retry":
	case "unhold":
		do = s.store.Unhold
	case "restore":
		do = s.store.Restore
	case "redirect":
		do = func(ctx context.Context, sel store.Selection) (int, error) {
			return s.store.Redirect(ctx, sel, r.URL.Query().Get("next"))
		}
	case "hold":
		do, makesDue = s.store.Hold, false
	case "drop":
		do, makesDue = s.store.Drop, false
	case "fail":
		if sel.ID == "" || s.operator.Fail == nil {
			return nil, badRequest{"fail is for one message at a time, of a gateway that runs"}
		}
		do, makesDue = func(ctx context.Context, sel store.Selection) (int, error) {
			return s.operator.Fail(ctx, sel.ID, sel.N, sel.By, mail.Sanitise(r.URL.Query().Get("text")))
		}, false
	default:
		return nil, badRequest{fmt.Sprintf("no such verb: %q", mail.Sanitise(verb))}
	}
	count, err := do(ctx, sel)
	if count > 0 { // with an error that is how far it came
		s.log.Info("operator changed the queue", "verb", verb, "id", sel.ID, "n", sel.N, "by", sel.By, "deliveries", count)
		if makesDue {
			s.onChange()
		}
	}
	return Count{count}, err
}

// selectionOf reads what a verb is for: a message or delivery by the path, or
// a choice, which must be made.
func selectionOf(r *http.Request) (sel store.Selection, err error) {
	q := r.URL.Query()
	sel.By = mail.Sanitise(q.Get("by"))
	if r.PathValue("id") != "" {
		sel.ID, sel.N, err = deliveryOf(r)
		return sel, err
	}
	if sel.Filter, err = filterOf(q); err != nil {
		return sel, err
	}
	f := sel.Filter
	if f.Domain == "" && f.Sender == "" && f.Text == "" && f.States == nil && f.Older == 0 && f.Younger == 0 && q.Get("everything") != "true" {
		return sel, badRequest{"no choice of deliveries: everything=true takes all"}
	}
	return sel, nil
}

// filterOf reads the choice of deliveries.
func filterOf(q url.Values) (f store.Filter, err error) {
	f = store.Filter{Closed: q.Get("all") == "true", Sender: q.Get("from"), Text: q.Get("text")}
	if f.Domain, err = domainOf(q); err != nil {
		return f, err
	}
	for _, s := range q["state"] {
		f.States = append(f.States, store.State(s))
	}
	for name, into := range map[string]*time.Duration{"older": &f.Older, "younger": &f.Younger} {
		if text := q.Get(name); text != "" {
			if *into, err = time.ParseDuration(text); err != nil || *into <= 0 {
				return f, badRequest{name + " is not a positive duration such as 90m"}
			}
		}
	}
	if text := q.Get("limit"); text != "" {
		if f.Limit, err = strconv.Atoi(text); err != nil || f.Limit < 1 || f.Limit > maxList {
			return f, badRequest{fmt.Sprintf("limit is not a number from 1 to %d", maxList)}
		}
	}
	if text := q.Get("after"); text != "" {
		if f.After, err = mail.ParseID(text); err == nil {
			f.AfterN, err = strconv.Atoi(cmp.Or(q.Get("after_n"), "0"))
		}
		if err != nil {
			return f, badRequest{"after and after_n are not a delivery"}
		}
	}
	return f, nil
}

// valuesOf writes what filterOf reads.
func valuesOf(f store.Filter) url.Values {
	q := url.Values{}
	set := func(name, value string, given bool) {
		if given {
			q.Set(name, value)
		}
	}
	set("all", "true", f.Closed)
	set("domain", f.Domain, f.Domain != "")
	set("from", f.Sender, f.Sender != "")
	set("text", f.Text, f.Text != "")
	set("older", f.Older.String(), f.Older > 0)
	set("younger", f.Younger.String(), f.Younger > 0)
	set("limit", strconv.Itoa(f.Limit), f.Limit > 0)
	set("after", string(f.After), f.After != "")
	set("after_n", strconv.Itoa(f.AfterN), f.After != "")
	for _, s := range f.States {
		q.Add("state", string(s))
	}
	return q
}
