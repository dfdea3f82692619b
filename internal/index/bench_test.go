package index

import (
	"io"
	"math/rand"
	"sync"
	"testing"

	"s3storage/internal/zodb"
)

// generated makes up a database of n objects, written in transactions of 100
// records, 100 a second: all of them in the order of oids, then all once
// more in another order.
func generated(n int) []Entry {
	all := make([]Entry, 0, 2*n)
	tick := zodb.Tid(1<<32) / 60 / 100
	start := zodb.Tid(0x0407_1234_0000_0000)
	tid := func(i int) zodb.Tid { return start + zodb.Tid(i/100)*tick + zodb.Tid(i/100*7919%1000) }
	for i, j := range rand.New(rand.NewSource(1)).Perm(n) { //nolint:gosec // data for a benchmark
		all = append(all, Entry{zodb.Oid(i), tid(i), uint32(i % 100), false},
			Entry{zodb.Oid(i), tid(n + j), uint32(j % 100), false})
	}
	return all
}

var million = sync.OnceValue(func() []Entry { return generated(1_000_000) })

// A table takes 4.3 bytes a revision of 1 million or 20 million such objects, 4.8
// if they were written in the course of a year. Looked at for that: with all
// tids of a leaf in a sorted list of deltas, and entries that are packed bits
// with indexes into it, it is 4.4, 4.9 and 5.2, and slower to search; with plain
// varints for tids, 6.7, 7.2 and 8.5. The list wins for small tables alone
// (10,000 objects: 2.4 against 3.8), which do not count.
func BenchmarkBuild(b *testing.B) {
	all := million()
	b.ReportAllocs()
	b.ResetTimer()
	for done := 0; done < b.N; done += len(all) {
		w := NewWriter(io.Discard, testDB, testID)
		for _, e := range all[:min(len(all), b.N-done)] {
			if err := w.Add(e); err != nil {
				b.Fatal(err)
			}
		}
		info, err := w.Close()
		if err != nil {
			b.Fatal(err)
		}
		if done == 0 {
			b.ReportMetric(float64(info.Size)/float64(info.Entries), "bytes/revision")
			b.ReportMetric(float64(info.Tail)/float64(info.Entries)*1e8, "directory-bytes/100M")
		}
	}
}

func BenchmarkScan(b *testing.B) {
	file, info := write(b, million())
	d, err := ReadDirectory(testDB, info, tail(file, info))
	if err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	for done := 0; done < b.N; {
		for _, err := range d.Scan(b.Context(), fetchFrom(file), 0) {
			if err != nil {
				b.Fatal(err)
			}
			if done++; done == b.N {
				break
			}
		}
	}
}

func BenchmarkMergeOfFour(b *testing.B) {
	parts := make([][]Entry, 4)
	for i, e := range million() {
		parts[i/2*7919%31%4] = append(parts[i/2*7919%31%4], e)
	}
	b.ResetTimer()
	for done := 0; done < b.N; {
		for range Merge(source(parts[0]), source(parts[1]), source(parts[2]), source(parts[3])) {
			if done++; done == b.N {
				break
			}
		}
	}
}

func BenchmarkOpenLeaf(b *testing.B) {
	file, info := write(b, million())
	d, err := ReadDirectory(testDB, info, tail(file, info))
	if err != nil {
		b.Fatal(err)
	}
	i := 0
	for b.Loop() {
		i = (i + 1) % d.Leaves()
		where := d.Leaf(i)
		if _, err := d.Open(i, file[where.Offset:][:where.Size]); err != nil {
			b.Fatal(err)
		}
	}
}

// A lookup of the current revision of any object, in leaves that are open.
func BenchmarkLookup(b *testing.B) {
	all := million()
	file, info := write(b, all)
	d, leaves, err := open(file, info)
	if err != nil {
		b.Fatal(err)
	}
	order := rand.New(rand.NewSource(2)).Perm(len(all) / 2) //nolint:gosec // data for a benchmark
	b.ResetTimer()
	for i := range b.N {
		oid := zodb.Oid(order[i%len(order)])
		if e, ok, _ := before(d, leaves, oid, zodb.MaxTid); !ok || e.Oid != oid {
			b.Fatal(e)
		}
	}
}
