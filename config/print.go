package config

import (
	"net/url"

	"github.com/pelletier/go-toml/v2"
)

// Redacted returns a copy that can be shown: without the passwords in URLs.
// Route passwords hide themselves.
func (c *Config) Redacted() *Config {
	out := *c
	out.Store.URL = redactURL(c.Store.URL)
	return &out
}

// redactURL hides the password of a URL, also where it stands in the query, as
// libpq allows.
func redactURL(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		return redacted
	}
	if _, set := u.User.Password(); set {
		u.User = url.User(u.User.Username())
	}
	q := u.Query()
	for _, key := range []string{"password", "sslpassword"} {
		q.Del(key)
	}
	if u.RawQuery != "" {
		u.RawQuery = q.Encode()
	}
	return u.String()
}

// TOML returns the configuration as a file, defaults included and secrets
// hidden.
func (c *Config) TOML() ([]byte, error) {
	out := c.Redacted()
	if out.Store.URLFile != "" || out.Store.URLEnv != "" {
		out.Store.URL = "" // a file gives one source only
	}
	return toml.Marshal(out)
}
