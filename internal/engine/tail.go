package engine

import (
	"cmp"
	"slices"

	"s3storage/internal/index"
	"s3storage/internal/txlog"
	"s3storage/internal/zodb"
)

// A tail holds transactions that the log has settled and no segment has yet, with
// their data but for what lies in payload objects.
type tail struct {
	index *index.Memory[inTail]
	txns  []*txlog.Transaction
	end   txlog.Position // behind the newest log object in it

	objects   int   // log objects
	bytes     int64 // of these and of payload objects
	blobBytes int64
	live      int64 // how many more objects exist than before
}

// inTail says which record of the log a revision is.
type inTail struct {
	txn *txlog.Transaction
	k   uint32
}

func newTail(end txlog.Position) *tail {
	return &tail{index: index.NewMemory[inTail](), end: end}
}

// add takes in a transaction.
func (t *tail) add(txn *txlog.Transaction) {
	t.txns = append(t.txns, txn)
	for k := range txn.Records {
		rec := &txn.Records[k]
		deleted := rec.Kind == txlog.RecordDeletion
		t.index.Add(rec.Oid, index.Revision[inTail]{Serial: txn.Tid, Deleted: deleted, Value: inTail{txn, uint32(k)}})
		if !deleted {
			t.live++
		}
		if rec.Existed {
			t.live--
		}
		if rec.Kind == txlog.RecordPayload {
			t.bytes += int64(rec.Span.Size)
		}
		if rec.Blob != nil && rec.Kind != txlog.RecordShared {
			t.blobBytes += rec.Blob.Size
		}
	}
}

// after returns what of the tail comes after a transaction.
func (t *tail) after(tid zodb.Tid) *tail {
	rest := newTail(t.end)
	i, _ := slices.BinarySearchFunc(t.txns, tid+1, byTid)
	for _, txn := range t.txns[i:] {
		rest.add(txn)
	}
	rest.objects, rest.bytes = t.objects, t.bytes
	return rest
}

// byTid orders transactions for a binary search.
func byTid(t *txlog.Transaction, tid zodb.Tid) int { return cmp.Compare(t.Tid, tid) }
