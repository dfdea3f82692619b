package s3storage

import (
	"errors"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "s3storage/"

// A layer is one package and what it may import. Names in imports are
// directories of this tree; names in modules are third-party import paths, with
// all that lies below them. The standard library is open to all.
type layer struct {
	dir     string
	imports string
	modules string
	tests   string // what its tests may import besides: directories or third-party paths
	testing bool   // only for tests: product code may not import it, but for exceptions
}

// layers is the house from the ground up. A package may import only such as
// stand above it in this table, so that imports run downward in the house. To
// add a package, put it where it belongs.
var layers = []layer{
	{dir: "."},
	{dir: "internal/zodb", tests: "pgregory.net/rapid"},
	{dir: "internal/filestorage", imports: "internal/zodb"},
	{dir: "internal/pickle"},
	{dir: "internal/pydata", imports: "internal/zodb internal/pickle"},
	{dir: "internal/bucket", tests: "pgregory.net/rapid"},
	{dir: "internal/s3bucket", imports: "internal/bucket",
		modules: "github.com/aws/aws-sdk-go-v2 github.com/aws/smithy-go golang.org/x/sync"},
	{dir: "internal/fileformat", imports: "internal/zodb", tests: "pgregory.net/rapid"},
	{dir: "internal/lease", imports: "internal/zodb internal/bucket internal/fileformat",
		modules: "github.com/jackc/pgx/v5 github.com/bradfitz/gomemcache/memcache github.com/aws/aws-sdk-go-v2 github.com/aws/smithy-go", tests: "internal/buckettest/faults"},
	{dir: "internal/cache", modules: "github.com/maypok86/otter/v2"},
	{dir: "internal/index", imports: "internal/zodb internal/fileformat", tests: "pgregory.net/rapid"},
	{dir: "internal/blob", imports: "internal/zodb internal/bucket internal/cache"},
	{dir: "internal/segment", imports: "internal/zodb internal/fileformat internal/blob",
		modules: "github.com/klauspost/compress/zstd", tests: "pgregory.net/rapid"},
	{dir: "internal/txlog", imports: "internal/zodb internal/fileformat internal/bucket internal/blob", modules: "golang.org/x/sync"},
	{dir: "internal/base", imports: "internal/zodb internal/fileformat internal/bucket internal/cache internal/index internal/blob internal/segment internal/txlog"},
	{dir: "internal/extsort"},
	{dir: "internal/check", imports: "internal/zodb internal/pydata internal/bucket internal/cache internal/index internal/blob internal/segment internal/txlog internal/base internal/extsort"},
	{dir: "internal/engine", tests: "internal/check", imports: "internal/zodb internal/fileformat internal/pydata internal/bucket internal/cache internal/index internal/blob internal/segment internal/txlog internal/base internal/extsort",
		modules: "golang.org/x/sync"},
	// The protocol knows storages by their interface, so that it can be tested
	// on one in memory.
	{dir: "internal/zeo", imports: "internal/zodb internal/pickle", modules: "github.com/tinylib/msgp"},
	{dir: "internal/node", tests: "internal/storagetest", imports: "internal/zodb internal/bucket internal/blob internal/txlog internal/engine internal/zeo"},
	{dir: "internal/web", imports: "internal/zodb internal/bucket internal/cache internal/engine internal/node", modules: "github.com/prometheus/client_golang", tests: "internal/txlog"},
	{dir: "internal/bench", imports: "internal/zodb internal/filestorage internal/zeo"},

	{dir: "internal/buckettest", imports: "internal/bucket", testing: true},
	{dir: "internal/buckettest/faults", imports: "internal/bucket", testing: true},
	{dir: "internal/buckettest/s3server", testing: true},
	{dir: "internal/storagetest", imports: "internal/zodb", testing: true},

	{dir: "internal/simulation", testing: true, tests: "internal/zodb internal/bucket internal/txlog internal/engine internal/zeo internal/node"},

	{dir: "cmd/s3storage", imports: "everything", modules: "github.com/alecthomas/kong github.com/youmark/pkcs8"},
}

// exceptions are the imports of testing packages by product code.
var exceptions = map[[2]string]string{
	{"cmd/s3storage", "internal/buckettest/faults"}: "the hidden flag --inject, for crash tests of the real program",
}

func TestImportsRunDownwardOnly(t *testing.T) {
	known := map[string]int{}
	for i, l := range layers {
		if _, twice := known[l.dir]; twice {
			t.Errorf("%s stands in the table twice", l.dir)
		}
		known[l.dir] = i
		for _, dir := range strings.Fields(l.imports) {
			if _, above := known[dir]; !above && dir != "everything" {
				t.Errorf("the table lets %s import %s, which does not stand above it", l.dir, dir)
			}
		}
	}
	packages := sources(t)
	for dir := range packages {
		if _, ok := known[dir]; !ok {
			t.Errorf("%s is not in the table of layers_test.go: put it where it belongs, and into the map in doc.go", dir)
		}
	}
	for _, l := range layers {
		files, there := packages[l.dir]
		if !there {
			t.Errorf("%s stands in the table, but there is no such package", l.dir)
		}
		for _, f := range files {
			for _, imported := range f.imports {
				if why := l.forbids(imported, f.test, known); why != "" {
					t.Errorf("%s imports %s: %s", f.name, imported, why)
				}
			}
		}
	}
}

// forbids says why a file of the package may not import a path, or nothing if
// it may.
func (l layer) forbids(imported string, test bool, known map[string]int) string {
	may := func(list string) bool {
		return slices.ContainsFunc(strings.Fields(list), func(p string) bool {
			return imported == p || strings.HasPrefix(imported, p+"/")
		})
	}
	first, _, _ := strings.Cut(imported, "/")
	dir, ours := strings.CutPrefix(imported, module)
	switch {
	case !ours && !strings.Contains(first, "."):
		return "" // the standard library
	case !ours:
		if may(l.modules) || test && may(l.tests) {
			return ""
		}
		return "the table does not allow this third-party package there"
	case test && dir == l.dir:
		return "" // an external test of the package itself
	}
	i, ok := known[dir]
	switch {
	case !ok:
		return "it is not in the table"
	case layers[i].testing:
		_, excepted := exceptions[[2]string{l.dir, dir}]
		if test || excepted || slices.Contains(strings.Fields(l.imports), dir) {
			return ""
		}
		return "it is for tests only"
	case l.imports == "everything",
		slices.Contains(strings.Fields(l.imports), dir),
		test && slices.Contains(strings.Fields(l.tests), dir):
		return ""
	}
	return "the table does not allow it"
}

func TestForbiddenImportsAreFound(t *testing.T) {
	known := map[string]int{}
	for i, l := range layers {
		known[l.dir] = i
	}
	for _, c := range []struct {
		dir, imported string
		test, allowed bool
	}{
		{"internal/zeo", "s3storage/internal/zodb", false, true},
		{"internal/zeo", "s3storage/internal/engine", false, false},
		{"internal/zeo", "s3storage/internal/engine", true, false},
		{"internal/zeo", "s3storage/internal/storagetest", true, true},
		{"internal/zeo", "s3storage/internal/storagetest", false, false},
		{"internal/zodb", "s3storage/internal/bucket", false, false},
		{"internal/s3bucket", "github.com/aws/aws-sdk-go-v2/service/s3", false, true},
		{"internal/engine", "github.com/aws/aws-sdk-go-v2/service/s3", false, false},
		{"internal/s3bucket", "github.com/aws/aws-sdk-go-v2extra", false, false},
		{"internal/bucket", "pgregory.net/rapid", true, true},
		{"internal/bucket", "pgregory.net/rapid", false, false},
		{"internal/engine", "s3storage/internal/buckettest/faults", false, false},
		{"cmd/s3storage", "s3storage/internal/buckettest/faults", false, true},
		{"cmd/s3storage", "s3storage/internal/buckettest", false, false},
		{"cmd/s3storage", "s3storage/internal/nowhere", false, false},
		{"internal/txlog", "crypto/sha256", false, true},
	} {
		if why := layers[known[c.dir]].forbids(c.imported, c.test, known); (why == "") != c.allowed {
			t.Errorf("%s, test %v: %s: allowed %v (%q), want %v", c.dir, c.test, c.imported, why == "", why, c.allowed)
		}
	}
}

func TestTheMapNamesEveryPackage(t *testing.T) {
	text, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range layers {
		if l.dir != "." && !strings.Contains(string(text), "//\t"+l.dir+" ") {
			t.Errorf("doc.go does not say what belongs into %s", l.dir)
		}
	}
}

// The README says by which tests each promise is kept.
func TestTheTestsThatTheREADMENamesExist(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, dir := range []string{"internal", "cmd", "test"} {
		err := fs.WalkDir(os.DirFS(dir), ".", func(name string, d fs.DirEntry, err error) error {
			if err == nil && (strings.HasSuffix(name, "_test.go") || strings.HasSuffix(name, ".py")) {
				text, readErr := os.ReadFile(filepath.Join(dir, name))
				all.WriteString(path.Base(name) + " ")
				all.Write(text)
				err = readErr
			}
			if errors.Is(err, fs.ErrNotExist) {
				return nil // somebody's temporary file
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	names := regexp.MustCompile("`((?:Test|test_)\\w+(?:\\.py)?)`").FindAllStringSubmatch(string(readme), -1)
	if len(names) == 0 {
		t.Error("README.md names no tests")
	}
	for _, name := range names {
		if n := name[1]; !regexp.MustCompile(`\b` + regexp.QuoteMeta(n) + `\b`).MatchString(all.String()) {
			t.Errorf("README.md names the test %s, which does not exist", n)
		}
	}
}

// A source is a Go file and what it imports.
type source struct {
	name    string
	imports []string
	test    bool
}

// sources reads every Go file of this module, whatever it is built for, by
// directory.
func sources(t *testing.T) map[string][]source {
	t.Helper()
	packages := map[string][]source{}
	err := fs.WalkDir(os.DirFS("."), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // somebody's temporary file
			}
			return err
		}
		if d.IsDir() {
			_, err := os.Stat(filepath.Join(name, "go.mod"))
			base := d.Name()
			if name != "." && (err == nil || base == "testdata" || base[0] == '.' || base[0] == '_' ||
				slices.Contains([]string{"bin", "data"}, name)) { // what .gitignore names: no sources
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		s := source{name: name, test: strings.HasSuffix(name, "_test.go")}
		for _, spec := range parsed.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			s.imports = append(s.imports, imported)
		}
		packages[path.Dir(name)] = append(packages[path.Dir(name)], s)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return packages
}
