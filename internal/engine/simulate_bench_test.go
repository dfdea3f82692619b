package engine

import (
	"context"
	"encoding/binary"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"s3storage/internal/bucket"
	"s3storage/internal/txlog"
	"s3storage/internal/zodb"
)

// A database of as many objects as BENCH_OBJECTS says, with two revisions each, in the
// new directory BENCH_SIMULATE: see doc/performance.md. Transactions, their order, and
// the lengths of records are about those of bench.Site, and the import is the real one;
// so there are as many index entries, segments and blocks as such a site has. But each
// text is one letter again and again, which compresses to next to nothing: so
// tens of millions of objects fit on a disk. Segments are cut where those of a site are
// full, and are not merged, as full ones are not; tables are.
func BenchmarkSimulatedImport(b *testing.B) {
	dir := os.Getenv("BENCH_SIMULATE")
	if dir == "" {
		b.Skip("BENCH_SIMULATE names no directory")
	}
	objects, err := strconv.Atoi(os.Getenv("BENCH_OBJECTS"))
	if err != nil {
		b.Fatal(err)
	}
	d, err := bucket.OpenDirectory(dir, true)
	if err != nil {
		b.Fatal(err)
	}
	e, err := Open(b.Context(), d, Options{Node: b.Name(), Creator: "test", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	im, err := e.Import(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	defer im.Close()
	const (
		siteRecord  = 1833 // bytes of a record
		siteSegment = 395_000
		txnRecords  = 100
		step        = 15485863 // a prime number: see Site.write
	)
	im.perFile = siteSegment
	e.packing <- struct{}{} // so the engine merges nothing
	data := make([][]byte, txnRecords)
	for i := range data {
		data[i] = append([]byte("\x80\x03cpersistent.mapping\nPersistentMapping\nq\x00.\x80\x03X"), 0, 0, 0, 0)
		text := siteRecord - len(data[i]) - 1
		binary.LittleEndian.PutUint32(data[i][len(data[i])-4:], uint32(text))
		data[i] = append(data[i], strings.Repeat(string(rune('A'+i%26)), text)+"."...)
	}
	tid := zodb.Tid(0x03d0000000000000)
	records := make([]ImportRecord, 0, txnRecords)
	for n := range 2 * objects {
		oid := n
		if n >= objects {
			oid = n % objects * step % objects
		}
		records = append(records, ImportRecord{Oid: zodb.Oid(oid), Data: data[n%txnRecords]})
		if len(records) == txnRecords || n == 2*objects-1 {
			tid += 1 << 24
			if err := im.Add(b.Context(), tid, zodb.TxnMeta{User: []byte("/site editor"), Description: []byte("/site/folder/edit"), Status: ' '}, records); err != nil {
				b.Fatal(err)
			}
			records = records[:0]
		}
		if n%(importTables*siteSegment) == 0 || n == 2*objects-1 {
			if err := im.Flush(b.Context()); err != nil {
				b.Fatal(err)
			}
			if err := mergeTables(b.Context(), e); err != nil {
				b.Fatal(err)
			}
		}
	}
	if err := e.Close(context.Background()); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(2*float64(objects)/b.Elapsed().Seconds(), "records/s")
}

func mergeTables(ctx context.Context, e *Engine) error {
	for {
		v := e.present()
		first := tablesToMerge(v.Tables)
		if first < 0 {
			return nil
		}
		table, err := e.writeTable(ctx, v.Entries(ctx, first))
		if err != nil {
			return err
		}
		let, err := e.hold(ctx)
		if err != nil {
			return err
		}
		b := e.successor()
		b.Tables = append(slices.Clone(v.Tables[:first]), table)
		_, err = e.adopt(ctx, b, txlog.BaseMerge, nil, nil)
		let()
		e.uploads.remove(table.ID.Name())
		if err != nil {
			return err
		}
	}
}
