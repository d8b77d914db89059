package wire

// Limits bound what a peer can make the parser hold or do. Each is the
// largest value that is still accepted.
type Limits struct {
	StanzaBytes    int // octets of a top-level element, tags included
	Depth          int // levels of a top-level element
	Elements       int // elements in a top-level element, itself included
	Attributes     int // attributes and namespace declarations of one element
	Namespaces     int // namespace declarations in scope at once
	NameBytes      int // octets of a name with its prefix
	AttributeBytes int // octets of one attribute value as sent
	Whitespace     int // octets of white space between two top-level elements
}

// Default are limits for an authenticated stream.
func Default() Limits {
	return Limits{
		StanzaBytes: 512 << 10, Depth: 32, Elements: 8192, Attributes: 32, Namespaces: 64,
		NameBytes: 256, AttributeBytes: 8 << 10, Whitespace: 64 << 10,
	}
}

// PreAuth are limits for a peer that has not proven anything: RFC 6120
// section 13.12 asks for 10,000 octets at least.
func PreAuth() Limits {
	return Limits{
		StanzaBytes: 10000, Depth: 16, Elements: 256, Attributes: 16, Namespaces: 32,
		NameBytes: 128, AttributeBytes: 3072, Whitespace: 1024,
	}
}

// withDefaults fills in what is zero.
func (l Limits) withDefaults() Limits {
	d := Default()
	for _, f := range []struct{ have, otherwise *int }{
		{&l.StanzaBytes, &d.StanzaBytes}, {&l.Depth, &d.Depth}, {&l.Elements, &d.Elements},
		{&l.Attributes, &d.Attributes}, {&l.Namespaces, &d.Namespaces}, {&l.NameBytes, &d.NameBytes},
		{&l.AttributeBytes, &d.AttributeBytes}, {&l.Whitespace, &d.Whitespace},
	} {
		if *f.have <= 0 {
			*f.have = *f.otherwise
		}
	}
	return l
}
