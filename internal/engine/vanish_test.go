package engine

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"s3storage/internal/bucket"
	"s3storage/internal/index"
	"s3storage/internal/zodb"
)

// A vanishing is a bucket in which something happens before the first read of an
// index table.
type vanishing struct {
	bucket.Bucket
	first atomic.Pointer[func()]
}

func (b *vanishing) GetRange(ctx context.Context, name string, offset, n int64) ([]byte, error) {
	if strings.HasPrefix(name, index.Prefix) {
		if first := b.first.Swap(nil); first != nil {
			(*first)()
		}
	}
	return b.Bucket.GetRange(ctx, name, offset, n)
}

// Without a grace period a pack deletes files under the hands of those who read them.
func TestWhoReadsFilesThatAPackDeletesMeanwhileLooksAgain(t *testing.T) {
	for name, read := range map[string]func(e *Engine, last zodb.Tid) error{
		"LoadBefore": func(e *Engine, _ zodb.Tid) error {
			_, _, err := e.LoadBefore(t.Context(), 1, zodb.MaxTid)
			return err
		},
		"LoadSerial": func(e *Engine, last zodb.Tid) error {
			_, err := e.LoadSerial(t.Context(), 1, last)
			return err
		},
		"GetTid": func(e *Engine, _ zodb.Tid) error {
			_, err := e.GetTid(t.Context(), 1)
			return err
		},
		"NextObject": func(e *Engine, _ zodb.Tid) error {
			o, ok, err := e.NextObject(t.Context(), 1)
			if err == nil && (!ok || o.Oid != 1 || o.Next != 2) {
				err = fmt.Errorf("%v, %+v", ok, o)
			}
			return err
		},
		"History": func(e *Engine, last zodb.Tid) error {
			h, err := e.History(t.Context(), 1, 10)
			if err == nil && (len(h) == 0 || h[0].Tid != last) {
				err = fmt.Errorf("%+v", h)
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := &vanishing{Bucket: bucket.NewMemory()}
				e := openEngine(t, b)
				commit(t, e, stored{0, 0, record("root", 1, 2)})
				commit(t, e, stored{2, 0, record("another")})
				serial := zodb.NoTid
				for i := range 3 {
					serial = commit(t, e, stored{1, serial, record(fmt.Sprint("state ", i))})
				}
				closeEngine(t, e)
				e = openEngine(t, b)
				pack := func() {
					if err := e.Pack(t.Context(), serial); err != nil {
						t.Error(err)
					}
					time.Sleep(time.Hour) // what it replaced is deleted
				}
				b.first.Store(&pack)
				if err := read(e, serial); err != nil {
					t.Error(err)
				}
				if b.first.Load() != nil {
					t.Error("it read no index table")
				}
			})
		})
	}
}
