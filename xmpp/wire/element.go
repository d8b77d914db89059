package wire

// Name is an expanded name (Namespaces in XML 1.0 section 2.1).
type Name struct{ Space, Local string }

// Attr is an attribute; Name.Space is empty for one without a prefix.
// Namespace declarations are not kept as attributes.
type Attr struct {
	Name  Name
	Value string // unescaped and normalised
}

// Element is a stanza or a child of one.
type Element struct {
	Name     Name
	Attrs    []Attr
	Children []*Element
	Text     []byte // all character data directly inside, unescaped; see Parser.DecodeInPlace
	Size     int    // octets of a whole top-level element as received; 0 for a child

	decoded bool // Text is what the character data stands for in base64
}

// Attr returns the value of the attribute without a namespace, "" if absent.
func (e *Element) Attr(local string) string {
	v, _ := e.find(local)
	return v
}

// HasAttr reports whether the attribute without a namespace is there.
func (e *Element) HasAttr(local string) bool {
	_, ok := e.find(local)
	return ok
}

func (e *Element) find(local string) (string, bool) {
	for i := range e.Attrs {
		if a := &e.Attrs[i]; a.Name.Local == local && a.Name.Space == "" {
			return a.Value, true
		}
	}
	return "", false
}

// Child returns the first child of that name, nil if there is none.
func (e *Element) Child(space, local string) *Element {
	for _, c := range e.Children {
		if c.Name.Local == local && c.Name.Space == space {
			return c
		}
	}
	return nil
}

// Is reports whether e has that name. A nil element has none.
func (e *Element) Is(space, local string) bool {
	return e != nil && e.Name.Local == local && e.Name.Space == space
}
