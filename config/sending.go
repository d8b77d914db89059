package config

// DKIM is about signing the mail of our own domains (RFC 6376).
type DKIM struct {
	Sign      string   `toml:"sign"`      // SignPublished, SignAlways, SignNever
	Listeners []string `toml:"listeners"` // kinds: whose mail of ours is signed
}

// Values of DKIM.Sign.
const (
	SignPublished = "when-published" // a key signs once DNS shows its record
	SignAlways    = "always"
	SignNever     = "never" // and no keys are made
)

func (d *DKIM) defaults() {
	d.Sign = SignPublished
	d.Listeners = []string{ListenSubmission}
}

// Signs reports whether mail of ours that comes in by a listener of this kind is
// signed.
func (d DKIM) Signs(kind string) bool {
	for _, k := range d.Listeners {
		if k == kind && d.Sign != SignNever {
			return true
		}
	}
	return false
}

func (c *checker) dkim(d *DKIM) {
	c.oneOf("dkim.sign", d.Sign, SignPublished, SignAlways, SignNever)
	seen := map[string]bool{}
	for i, kind := range d.Listeners {
		at := item("dkim.listeners", i)
		c.oneOf(at, kind, ListenSubmission, ListenRelay, ListenLMTP)
		if seen[kind] {
			c.add(at, "%q is there twice", clip(kind))
		}
		seen[kind] = true
	}
}
