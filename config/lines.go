package config

import (
	"bytes"
	"fmt"

	"github.com/pelletier/go-toml/v2/unstable"
)

// indexLines finds the line of every table, key and list item of a document
// that has parsed without error, under paths such as "domain[0].name" and
// "dns.servers[1]".
func indexLines(data []byte) map[string]int {
	x := &lineIndex{lines: map[string]int{}, tables: map[string]int{}}
	x.parser.Reset(data)
	for x.parser.NextExpression() {
		node := x.parser.Expression()
		switch node.Kind {
		case unstable.Table:
			x.prefix = x.enter(keyParts(node), false)
			x.mark(x.prefix, firstKey(node))
		case unstable.ArrayTable:
			x.prefix = x.enter(keyParts(node), true)
			x.mark(x.prefix, firstKey(node))
		case unstable.KeyValue:
			x.keyValue(x.prefix, node)
		}
	}
	return x.lines
}

type lineIndex struct {
	parser unstable.Parser
	lines  map[string]int
	tables map[string]int // array tables seen, by path: the index of the last
	prefix string         // of the current table
}

// enter turns the key of a table header into a path, in which every array of
// tables on the way stands for its latest element.
func (x *lineIndex) enter(parts []string, array bool) string {
	path := ""
	for i, part := range parts {
		path = join(path, part)
		n, seen := x.tables[path]
		if array && i == len(parts)-1 {
			if seen {
				n++
			}
			x.tables[path] = n
			seen = true
		}
		if seen {
			path = fmt.Sprintf("%s[%d]", path, n)
		}
	}
	return path
}

func (x *lineIndex) keyValue(prefix string, node *unstable.Node) {
	path := prefix
	for _, part := range keyParts(node) {
		path = join(path, part)
	}
	x.mark(path, firstKey(node))
	x.value(path, node.Value())
}

func (x *lineIndex) value(path string, node *unstable.Node) {
	switch node.Kind {
	case unstable.InlineTable:
		for children := node.Children(); children.Next(); {
			x.keyValue(path, children.Node())
		}
	case unstable.Array:
		i := 0
		for children := node.Children(); children.Next(); {
			child := children.Node()
			if child.Kind == unstable.Comment {
				continue
			}
			item := fmt.Sprintf("%s[%d]", path, i)
			if child.Raw.Length > 0 {
				x.mark(item, child.Raw)
			}
			x.value(item, child)
			i++
		}
	}
}

// mark notes the line of the first mention of path.
func (x *lineIndex) mark(path string, at unstable.Range) {
	if _, ok := x.lines[path]; !ok {
		x.lines[path] = 1 + bytes.Count(x.parser.Data()[:at.Offset], []byte("\n"))
	}
}

func keyParts(node *unstable.Node) []string {
	var parts []string
	for key := node.Key(); key.Next(); {
		parts = append(parts, string(key.Node().Data))
	}
	return parts
}

func firstKey(node *unstable.Node) unstable.Range {
	key := node.Key()
	key.Next()
	return key.Node().Raw
}
