package crash

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestEveryPointIsKilled fails when the code has a stop point that no kill
// reaches. That a kill reaches its point is checked by TestKill.
func TestEveryPointIsKilled(t *testing.T) {
	points := sourcePoints(t)
	if len(points) < 20 {
		t.Fatalf("only %d stop points found in the code", len(points))
	}
	for p, file := range points {
		// Those of a move are none of a gateway's: lab/move kills there.
		if !strings.HasPrefix(p, "move.") && !slices.ContainsFunc(kills, func(k kill) bool { return k.point == p }) {
			t.Errorf("stop point %s in %s is killed by no test", p, file)
		}
	}
	for _, k := range kills {
		if _, ok := points[k.point]; !ok && k.point != "" {
			t.Errorf("stop point %s is in no file", k.point)
		}
	}
}

// sourcePoints finds the stop points of the module, with a file of each.
func sourcePoints(t *testing.T) map[string]string {
	t.Helper()
	points := map[string]string{}
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			for _, name := range pointNames(n, strings.Contains(path, "/store/")) {
				points[name] = path
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return points
}

// storeName matches the names that the stores put together at run time, with
// or without the ending that says on which side of the commit they are.
var storeName = regexp.MustCompile(`^store\.[a-z]+(\.before-commit|\.after-commit)?$`)

// pointNames reads the names of points from a call of faults.Point or, in the
// stores, from any string that looks like one.
func pointNames(n ast.Node, inStore bool) []string {
	if call, ok := n.(*ast.CallExpr); ok && isPoint(call) {
		if name, ok := text(call.Args[0]); ok {
			return []string{name}
		}
		return nil
	}
	name, ok := text(n)
	m := storeName.FindStringSubmatch(name)
	switch {
	case !ok || !inStore || m == nil:
		return nil
	case m[1] != "":
		return []string{name}
	}
	return []string{name + ".before-commit", name + ".after-commit"}
}

func isPoint(call *ast.CallExpr) bool {
	sel, ok := call.Fun.(*ast.SelectorExpr)
	return ok && sel.Sel.Name == "Point" && fmt.Sprint(sel.X) == "faults"
}

// text is the value of a string literal.
func text(n ast.Node) (string, bool) {
	lit, ok := n.(*ast.BasicLit)
	if !ok || lit.Kind != token.STRING {
		return "", false
	}
	s, err := strconv.Unquote(lit.Value)
	return s, err == nil
}
