package zeo

import (
	"context"
	"errors"
	"fmt"
	"io"

	"s3storage/internal/zodb"
)

// maxIterators is how many iterators a connection may have open. Stock clients
// let go of those that they have not taken to the end only when they end a
// transaction.
const maxIterators = 100_000

// An iterator is one that a client goes through, over transactions or over the
// records of one. Its calls take turns, in the order in which they came.
type iterator struct {
	turn chan struct{} // closed when the last call is answered; of the reading goroutine

	// For whose turn it is.
	txns    zodb.TxnIterator
	current zodb.Tid // the transaction that was given last, NoTid before the first
	records zodb.RecordIterator
	ended   bool
}

// inTurn answers a call about the iterator that the first argument names.
func (c *conn) inTurn(k *call, f func(ctx context.Context, iid int64, it *iterator) (any, error)) (any, error) {
	iid, ok := k.args[0].(int64)
	if !ok {
		return nil, k.wrong(0, "iid", "int")
	}
	c.mu.Lock()
	it := c.mu.iterators[iid]
	c.mu.Unlock()
	if it == nil {
		return nil, noIterator(iid)
	}
	before, mine := it.turn, make(chan struct{})
	it.turn = mine
	return c.later(k, func(ctx context.Context) (any, error) {
		defer close(mine)
		if before != nil {
			<-before
		}
		if it.ended {
			return nil, noIterator(iid)
		}
		return f(ctx, iid, it)
	})
}

func noIterator(iid int64) error { return &Error{classKey, Tuple{iid}} }

// openIterator gives the iterator an id.
func (c *conn) openIterator(it *iterator) (any, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.mu.iterators) >= maxIterators {
		return nil, &Error{classStorage, Tuple{fmt.Sprintf(
			"this client has %d iterators open, which is the limit: take them to their ends, or finish or abort a transaction to let go of them", maxIterators)}}
	}
	if c.mu.iterators == nil {
		c.mu.iterators = map[int64]*iterator{}
	}
	iid := c.mu.nextIterator
	c.mu.nextIterator++
	c.mu.iterators[iid] = it
	return iid, nil
}

// endIterator forgets an iterator that is at its end.
func (c *conn) endIterator(iid int64, it *iterator) {
	it.ended = true
	c.mu.Lock()
	delete(c.mu.iterators, iid)
	c.mu.Unlock()
}

// iterator_start(start or None, stop or None) -> id
func (c *conn) iteratorStart(k *call) (any, error) {
	start, err := k.serial(0)
	if err != nil {
		return nil, err
	}
	stop := zodb.MaxTid
	if k.args[1] != nil {
		if stop, err = k.tid(1); err != nil {
			return nil, err
		}
	}
	return c.openIterator(&iterator{txns: c.storage.Iterate(start, stop)})
}

// iterator_next(id) -> (tid, status, user, description, extension) or None
func (c *conn) iteratorNext(k *call) (any, error) {
	return c.inTurn(k, func(ctx context.Context, iid int64, it *iterator) (any, error) {
		if it.txns == nil {
			return nil, noIterator(iid)
		}
		info, err := it.txns.Next(ctx)
		if errors.Is(err, io.EOF) {
			c.endIterator(iid, it)
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		it.current = info.Tid
		ext := c.extension(&info)
		if ext == nil {
			ext = Dict{}
		}
		return Tuple{info.Tid, string(rune(info.Meta.Status)), info.Meta.User, info.Meta.Description, ext}, nil
	})
}

// iterator_record_start(id, tid) -> id, for the transaction that was given last
func (c *conn) iteratorRecordStart(k *call) (any, error) {
	tid, err := k.tid(1)
	if err != nil {
		return nil, err
	}
	return c.inTurn(k, func(_ context.Context, iid int64, it *iterator) (any, error) {
		if it.current == zodb.NoTid {
			return nil, noIterator(iid)
		}
		if tid != it.current {
			return nil, &Error{classException, Tuple{fmt.Sprintf(
				"iterator %d is at transaction %s: the records of %s cannot be had any more, or not yet", iid, it.current, tid)}}
		}
		return c.openIterator(&iterator{records: it.txns.Records()})
	})
}

// iterator_record_next(id) -> (oid, tid, data or None, tid of the source or None)
// or None
func (c *conn) iteratorRecordNext(k *call) (any, error) {
	return c.inTurn(k, func(ctx context.Context, iid int64, it *iterator) (any, error) {
		if it.records == nil {
			return nil, noIterator(iid)
		}
		rec, err := it.records.Next(ctx)
		if errors.Is(err, io.EOF) {
			c.endIterator(iid, it)
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		var data, source any
		if rec.Data != nil {
			data = rec.Data
		}
		if rec.DataTxn != zodb.NoTid {
			source = rec.DataTxn
		}
		return Tuple{rec.Oid, rec.Tid, data, source}, nil
	})
}

// iterator_gc([id])
func (c *conn) iteratorGC(k *call) (any, error) {
	var iids []any
	switch v := k.args[0].(type) {
	case List:
		iids = v
	case Tuple:
		iids = v
	default:
		return nil, k.wrong(0, "iids", "list")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, v := range iids {
		if iid, ok := v.(int64); ok {
			delete(c.mu.iterators, iid)
		}
	}
	return nil, nil
}

// record_iternext(next oid or None) -> (oid, tid, data, next oid or None)
func (c *conn) recordIternext(k *call) (any, error) {
	oid := zodb.Oid(0)
	if len(k.args) > 0 && k.args[0] != nil {
		var err error
		if oid, err = k.oid(); err != nil {
			return nil, err
		}
	}
	return c.later(k, func(ctx context.Context) (any, error) {
		o, ok, err := c.storage.NextObject(ctx, oid)
		if err != nil {
			return nil, err
		}
		if !ok { // what the reference's index says
			return nil, &Error{classValue, Tuple{fmt.Sprintf("there is no object at or after %s", oid)}}
		}
		var next any
		if o.Next != 0 {
			next = o.Next
		}
		return Tuple{o.Oid, o.Serial, o.Data, next}, nil
	})
}
