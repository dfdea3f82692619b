package segment

import (
	"flag"
	"os"
	"reflect"
	"testing"
)

var update = flag.Bool("update", false, "write the golden file anew")

const golden = "testdata/segment.golden"

// goldenInfo is what Close returned for the golden file.
var goldenInfo = Info{ID: ID{7}, Size: 378, Tail: 115, Scan: 107, Txns: 3, Records: 5, DataBytes: 21, First: 50, Last: 1<<63 - 1}

// TestFormatIsThatOfTheGoldenFile compares what blocks are before compression:
// another version of the compressor may make other bytes of them.
func TestFormatIsThatOfTheGoldenFile(t *testing.T) {
	written, d := write(t, ID{7}, sample())
	if *update {
		if err := os.WriteFile(golden, written, 0o644); err != nil {
			t.Fatal(err)
		}
		t.Logf("goldenInfo is to be %+v", d.Info())
	}
	file, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	old, err := ReadDirectory(database, goldenInfo, tailOf(file, goldenInfo))
	if err != nil {
		t.Fatal(err)
	}
	if err := old.Check(t.Context(), fetchFrom(file)); err != nil {
		t.Error(err)
	}
	if got, _ := scanAll(t, file, old, WithReferences|WithData); !reflect.DeepEqual(got, expected(sample(), WithReferences|WithData)) {
		t.Errorf("got  %+v\nwant %+v", got, sample())
	}
	if got, want := rawParts(t, written, d), rawParts(t, file, old); !reflect.DeepEqual(got, want) {
		t.Errorf("the parts are, before compression\n%q\nin %s\n%q", got, golden, want)
	}
}

// rawParts returns the start and the blocks, decompressed.
func rawParts(t *testing.T, file []byte, d *Directory) (parts []string) {
	parts = append(parts, string(file[:startSize]))
	for _, blocks := range [][]Block{d.Data(), d.headers, d.references, {d.classes}} {
		for _, b := range blocks {
			r, err := d.open(b, stored(file, b), nil)
			if err != nil {
				t.Fatal(err)
			}
			parts = append(parts, string(r.Rest()))
		}
	}
	return parts
}
