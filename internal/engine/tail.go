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

	log          []int64 // bytes of each of its log objects, the newest last
	logBytes     int64   // of all these: about what it takes up in memory
	payloadBytes int64
	blobBytes    int64
	live         int64 // how many more objects exist than before
}

// inTail says which record of the log a revision is.
type inTail struct {
	txn *txlog.Transaction
	k   uint32
}

func newTail(end txlog.Position) *tail {
	return &tail{index: index.NewMemory[inTail](), end: end}
}

// bytes returns how many the log objects and their payload objects have.
func (t *tail) bytes() int64 { return t.logBytes + t.payloadBytes }

// extend takes note of a log object of that many bytes, and where it ends.
func (t *tail) extend(size int64, end txlog.Position) {
	t.log = append(t.log, size)
	t.logBytes += size
	t.end = end
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
			t.payloadBytes += int64(rec.Span.Size)
		}
		if rec.Blob != nil && rec.Kind != txlog.RecordShared {
			t.blobBytes += rec.Blob.Size
		}
	}
}

// after returns what of the tail comes after a position, which lies in it or before.
func (t *tail) after(p txlog.Position) *tail {
	rest := newTail(t.end)
	i, _ := slices.BinarySearchFunc(t.txns, p.LastTid+1, byTid)
	for _, txn := range t.txns[i:] {
		rest.add(txn)
	}
	// The slots of log objects follow one another.
	behind := t.end.Slot - min(p.Slot, t.end.Slot)
	for _, size := range t.log[len(t.log)-int(min(behind, txlog.Slot(len(t.log)))):] {
		rest.extend(size, t.end)
	}
	return rest
}

// byTid orders transactions for a binary search.
func byTid(t *txlog.Transaction, tid zodb.Tid) int { return cmp.Compare(t.Tid, tid) }
