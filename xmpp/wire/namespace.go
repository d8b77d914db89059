package wire

const (
	xmlNS   = "http://www.w3.org/XML/1998/namespace"
	xmlnsNS = "http://www.w3.org/2000/xmlns/"
)

// qname is a name as written, split at its colon.
type qname struct{ raw, prefix, local string }

// isDeclaration reports whether the attribute declares a namespace.
func (q qname) isDeclaration() bool {
	return q.prefix == "xmlns" || q.prefix == "" && q.local == "xmlns"
}

type rawAttr struct {
	name  qname
	value string
}

type binding struct{ prefix, space string }

// scope holds the namespace declarations in force, the innermost last.
type scope []binding

// resolve finds the namespace of a prefix; "" is the default namespace.
func (s scope) resolve(prefix string) (string, error) {
	if prefix == "xml" {
		return xmlNS, nil
	}
	for i := len(s) - 1; i >= 0; i-- {
		if s[i].prefix == prefix {
			return s[i].space, nil
		}
	}
	if prefix == "" {
		return "", nil
	}
	// RFC 6120 section 11.3: not namespace-well-formed is not-well-formed.
	return "", refuse(NotWellFormed, "undeclared namespace prefix")
}

// declaration judges a namespace declaration (Namespaces in XML 1.0 sections
// 2.2 and 3). keep is false for the one of "xml", which is always in force.
func declaration(a rawAttr) (b binding, keep bool, err error) {
	if a.name.prefix == "" {
		if a.value == xmlNS || a.value == xmlnsNS {
			return b, false, refuse(NotWellFormed, "reserved namespace as the default one")
		}
		return binding{"", a.value}, true, nil
	}
	prefix := a.name.local
	switch {
	case prefix == "xmlns", a.value == xmlnsNS:
		return b, false, refuse(NotWellFormed, "declaration of xmlns")
	case (prefix == "xml") != (a.value == xmlNS):
		return b, false, refuse(NotWellFormed, "wrong declaration of xml")
	case prefix == "xml":
		return b, false, nil
	case a.value == "":
		return b, false, refuse(NotWellFormed, "prefix bound to no namespace")
	}
	return binding{prefix, a.value}, true, nil
}

// expand puts the declarations among attrs in force and returns the element's
// name and its other attributes. Attributes are compared by expanded name
// (Namespaces in XML 1.0 section 6.3).
func (p *Parser) expand(name qname, attrs []rawAttr) (Name, []Attr, error) {
	declared := 0
	for i, a := range attrs {
		for _, b := range attrs[:i] {
			if a.name.raw == b.name.raw {
				return Name{}, nil, refuse(NotWellFormed, "duplicate attribute")
			}
		}
		if !a.name.isDeclaration() {
			continue
		}
		declared++
		b, keep, err := declaration(a)
		if err != nil {
			return Name{}, nil, err
		}
		if keep {
			if len(p.scope) >= p.limits.Namespaces {
				return Name{}, nil, refuse(PolicyViolation, "too many namespace declarations")
			}
			p.scope = append(p.scope, binding{b.prefix, p.names.keep(b.space)})
		}
	}
	if name.prefix == "xmlns" {
		return Name{}, nil, refuse(NotWellFormed, "element with the prefix xmlns")
	}
	space, err := p.scope.resolve(name.prefix)
	if err != nil {
		return Name{}, nil, err
	}
	if len(attrs) == declared {
		return Name{space, name.local}, nil, nil
	}
	out := make([]Attr, 0, len(attrs)-declared)
	for _, a := range attrs {
		if a.name.isDeclaration() {
			continue
		}
		n := Name{Local: a.name.local}
		if a.name.prefix != "" { // the default namespace is not for attributes
			if n.Space, err = p.scope.resolve(a.name.prefix); err != nil {
				return Name{}, nil, err
			}
			for _, b := range out {
				if b.Name == n {
					return Name{}, nil, refuse(NotWellFormed, "duplicate attribute")
				}
			}
		}
		out = append(out, Attr{n, a.value})
	}
	return Name{space, name.local}, out, nil
}

// names keeps one copy of the names that a stream uses again and again. What
// does not fit is simply not kept.
type names struct {
	tags   map[string]qname
	spaces map[string]string
}

const (
	maxKept     = 256
	maxKeptSize = 64
)

func (n *names) keep(s string) string {
	if k, ok := n.spaces[s]; ok {
		return k
	}
	if len(n.spaces) < maxKept && len(s) <= maxKeptSize {
		n.spaces[s] = s
	}
	return s
}
