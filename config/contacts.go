package config

// Contacts is about the keys that recipients know of the people who write to
// them.
type Contacts struct {
	Learn      []string `toml:"learn"`       // LearnWKD, LearnAutocrypt
	Learnt     string   `toml:"learnt"`      // LearntShow, LearntPermit
	MaxMessage Size     `toml:"max_message"` // of which signatures are checked
}

// Values of Contacts.Learn and Contacts.Learnt.
const (
	LearnWKD       = "wkd"
	LearnAutocrypt = "autocrypt"
	LearntShow     = "show"   // what a learnt key has signed is shown as such
	LearntPermit   = "permit" // and permitted, as with an imported key
)

func (s *Contacts) defaults() {
	s.Learnt = LearntShow
	s.MaxMessage = 64 << 20
}

// Learns reports whether keys are learnt from there.
func (s Contacts) Learns(from string) bool {
	for _, l := range s.Learn {
		if l == from {
			return true
		}
	}
	return false
}

func (c *checker) contacts(s *Contacts) {
	seen := map[string]bool{}
	for i, from := range s.Learn {
		at := item("contacts.learn", i)
		c.oneOf(at, from, LearnWKD, LearnAutocrypt)
		if seen[from] {
			c.add(at, "%q is there twice", clip(from))
		}
		seen[from] = true
	}
	c.oneOf("contacts.learnt", s.Learnt, LearntShow, LearntPermit)
	if s.MaxMessage < 1<<20 {
		c.add("contacts.max_message", "less than 1MiB")
	}
}
