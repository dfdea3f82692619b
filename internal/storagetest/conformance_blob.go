package storagetest

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"sync"

	"s3storage/internal/zodb"
)

// randomBytes are always the same n bytes for a seed.
func randomBytes(seed byte, n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// upload writes a blob in several pieces.
func (h *harness) upload(data []byte) zodb.BlobUpload {
	h.Helper()
	up, err := h.s.NewBlob(h.Context())
	h.must(err)
	for len(data) > 0 {
		n := min(len(data), 59_000)
		chunk := bytes.Clone(data[:n])
		_, err := up.Write(chunk)
		h.must(err)
		clear(chunk) // Write must not keep it
		data = data[n:]
	}
	return up
}

func (h *harness) commitBlob(oid zodb.Oid, serial zodb.Tid, data string, blob []byte) zodb.Tid {
	h.Helper()
	txn := h.begin()
	h.must(txn.StoreBlob(oid, serial, []byte(data), h.upload(blob)))
	h.vote(txn)
	return h.finish(txn).Tid
}

func (h *harness) wantBlob(oid zodb.Oid, serial zodb.Tid, want []byte) {
	h.Helper()
	r, err := h.s.LoadBlob(h.Context(), oid, serial)
	h.must(err)
	got, err := io.ReadAll(r)
	h.must(err)
	h.must(r.Close())
	if !bytes.Equal(got, want) {
		h.Errorf("blob %s %s: %d bytes, not the %d that were stored", oid, serial, len(got), len(want))
	}
}

func (h *harness) wantNoBlob(oid zodb.Oid, serial zodb.Tid) {
	h.Helper()
	r, err := h.s.LoadBlob(h.Context(), oid, serial)
	if err == nil {
		r.Close()
		h.Errorf("there is a blob %s %s", oid, serial)
		return
	}
	h.wantKeyError(err, oid)
}

func blobsComeBack(h *harness) {
	large := randomBytes(1, 5<<20+321)
	t1 := h.commitBlob(1, 0, "large", large)
	t2 := h.commitBlob(2, 0, "empty", nil)
	t3 := h.commitBlob(1, t1, "small", []byte("small"))
	h.wantBlob(1, t1, large)
	h.wantBlob(1, t3, []byte("small"))
	h.wantBlob(2, t2, nil)
	h.wantRevision(1, zodb.MaxTid, "small", t3, zodb.NoTid)

	t4 := h.commit(change{3, 0, "no blob"})
	h.wantNoBlob(3, t4)
	h.wantNoBlob(1, t2)
	h.wantNoBlob(9, t1)

	ctx, cancel := context.WithCancel(h.Context())
	r, err := h.s.LoadBlob(ctx, 1, t1)
	h.must(err)
	_, err = io.ReadFull(r, make([]byte, 100))
	h.must(err)
	cancel()
	if _, err := io.Copy(io.Discard, r); err == nil {
		h.Error("a blob can be read to the end after its context was done")
	}
	h.must(r.Close())

	ctx, cancel = context.WithCancel(h.Context())
	up, err := h.s.NewBlob(ctx)
	h.must(err)
	_, err = up.Write([]byte("begun"))
	h.must(err)
	cancel()
	for err == nil { // what was on its way may still be taken
		_, err = up.Write([]byte("more"))
	}
	up.Abort()
}

func severalBlobsAtOnce(h *harness) {
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			txn, err := h.s.Begin(zodb.TxnMeta{Status: ' '}, zodb.NoTid, nil)
			if err != nil {
				h.Error(err)
				return
			}
			for j := range 3 {
				up, err := h.s.NewBlob(h.Context())
				if err == nil {
					_, err = up.Write(randomBytes(byte(10*i+j), 100_000))
				}
				if err == nil {
					err = txn.StoreBlob(zodb.Oid(10*i+j+1), zodb.NoTid, []byte("blob"), up)
				}
				if err != nil {
					h.Error(err)
					return
				}
			}
			if _, err := txn.Vote(h.Context()); err != nil {
				h.Error(err)
				return
			}
			c, err := await(txn)
			if err != nil {
				h.Error(err)
				return
			}
			for j := range 3 {
				h.wantBlob(zodb.Oid(10*i+j+1), c.Tid, randomBytes(byte(10*i+j), 100_000))
			}
		})
	}
	wg.Wait()
}

func blobsThroughUndo(h *harness) {
	t1 := h.commitBlob(1, 0, "a", []byte("blob a"))
	t2 := h.commitBlob(1, t1, "b", []byte("blob b"))
	t3 := h.undo([]zodb.Oid{1}, t2)
	h.wantBlob(1, t3, []byte("blob a"))
	h.wantBlob(1, t2, []byte("blob b"))
	t4 := h.undo([]zodb.Oid{1}, t3)
	h.wantBlob(1, t4, []byte("blob b"))
	t5 := h.delete(1, t4)
	h.wantNoBlob(1, t5)
	t6 := h.undo([]zodb.Oid{1}, t5)
	h.wantBlob(1, t6, []byte("blob b"))
}

func blobKeptInConflict(h *harness) {
	t1 := h.commitBlob(1, 0, "a", []byte("blob a"))
	t2 := h.commitBlob(1, t1, "b", []byte("blob b"))
	txn := h.begin()
	h.must(txn.StoreBlob(1, t1, []byte("c"), h.upload([]byte("blob c"))))
	ballot, err := txn.Vote(h.Context())
	h.wantConflict(ballot.Conflicts, err, zodb.Conflict{Oid: 1, Committed: t2, Read: t1, Data: []byte("c")})
	h.must(txn.Store(1, t2, []byte("merged")))
	h.vote(txn)
	t3 := h.finish(txn).Tid
	h.wantRevision(1, zodb.MaxTid, "merged", t3, zodb.NoTid)
	h.wantBlob(1, t3, []byte("blob c"))
	h.wantBlob(1, t2, []byte("blob b"))
}

// blobAfterStore stores as stock clients do, which send the record twice.
func blobAfterStore(h *harness) {
	txn := h.beginWith(change{1, 0, "a"})
	h.must(txn.StoreBlob(1, 0, []byte("a"), h.upload([]byte("blob"))))
	h.must(txn.StoreBlob(2, 0, []byte("b"), h.upload([]byte("first"))))
	h.must(txn.StoreBlob(2, 0, []byte("c"), h.upload([]byte("second"))))
	h.vote(txn)
	t1 := h.finish(txn).Tid
	h.wantRevision(1, zodb.MaxTid, "a", t1, zodb.NoTid)
	h.wantBlob(1, t1, []byte("blob"))
	h.wantRevision(2, zodb.MaxTid, "c", t1, zodb.NoTid)
	h.wantBlob(2, t1, []byte("second"))
}

func abortedBlobs(h *harness) {
	txn := h.begin()
	up := h.upload(randomBytes(5, 100_000))
	h.must(txn.StoreBlob(1, 0, []byte("a"), up))
	h.vote(txn)
	txn.Abort()
	up.Abort() // not the caller's any more
	h.wantNoBlob(1, zodb.NoTid)
	if last := h.s.LastTransaction(); last != zodb.NoTid {
		h.Errorf("last transaction %s", last)
	}
	h.upload([]byte("nobody's")).Abort()

	txn = h.begin()
	up = h.upload([]byte("blob"))
	h.must(txn.StoreBlob(1, 0, []byte("a"), up))
	up.Abort() // does nothing
	h.vote(txn)
	t1 := h.finish(txn).Tid
	h.wantBlob(1, t1, []byte("blob"))
}
