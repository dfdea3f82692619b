package segment

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"s3storage/internal/blob"
	"s3storage/internal/zodb"
)

// many has so many blocks of all kinds that several are under way at once, and
// records that are alone in a large block.
func many(t testing.TB) []Txn {
	txns, _ := site(t, 3<<20)
	last := txns[len(txns)-1].Tid
	for n := range zodb.Tid(40) {
		txn := Txn{Tid: last + n + 1, Meta: zodb.TxnMeta{Status: ' ', Description: bytes.Repeat([]byte{byte(n)}, 9000)}, Committed: 40}
		for k := range uint32(40) {
			rec := Record{K: k, Oid: zodb.Oid(k), Data: bytes.Repeat([]byte{byte(k), byte(n)}, int(k)*60), RefsKnown: true}
			for i := range zodb.Oid(200) {
				rec.Refs = append(rec.Refs, i*i*zodb.Oid(k))
			}
			if n%16 == 3 && k == 9 {
				rec.Data = bytes.Repeat([]byte("long "), 200_000)
			}
			if k == 7 {
				rec.Blob = &blob.Ref{Size: int64(n)}
			}
			txn.Records = append(txn.Records, rec)
		}
		txns = append(txns, txn)
	}
	return txns
}

func TestTheBytesAreTheSameHoweverManyBlocksAreCompressedAtATime(t *testing.T) {
	txns := many(t)
	var want bytes.Buffer
	info := writeAll(t, &want, txns, 0)
	d, err := ReadDirectory(database, info, tailOf(want.Bytes(), info))
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Check(context.Background(), fetchFrom(want.Bytes())); err != nil {
		t.Fatal(err)
	}
	if len(d.Data()) < 20 || len(d.headers) < 3 || len(d.references) < 3 {
		t.Fatalf("only %d, %d and %d blocks", len(d.Data()), len(d.headers), len(d.references))
	}
	for _, ahead := range []int{1, 2, 3, 16} {
		var got bytes.Buffer
		if again := writeAll(t, &got, txns, ahead); again != info {
			t.Errorf("with %d blocks at a time: %+v, not %+v", ahead, again, info)
		}
		if !bytes.Equal(got.Bytes(), want.Bytes()) {
			t.Errorf("with %d blocks at a time there are other bytes", ahead)
		}
	}
}

func TestNothingIsUnderWayOfAWriterThatFailedOrWasGivenUp(t *testing.T) {
	txns := many(t)
	for left := 0; left < 200_000; left += 20_000 {
		f := &full{left, errors.New("full")}
		w := NewWriter(f, database, ID{7}, 8)
		for _, txn := range txns[:len(txns)-1] {
			_ = w.Begin(txn.Tid, txn.Meta, txn.Committed)
			for i := range txn.Records {
				_ = w.Add(&txn.Records[i])
			}
		}
		if left%40_000 == 0 {
			w.Abort()
		}
		if _, err := w.Close(); err == nil {
			t.Errorf("closed after %d bytes", left)
		}
		if n := len(w.packer.queue); n > 0 {
			t.Errorf("%d blocks are under way", n)
		}
	}
}
