package zeo

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"s3storage/internal/zodb"
)

// A call is one call being answered.
type call struct {
	name   string
	id     ID
	oneWay bool
	args   Tuple
	owned  bool // the arguments may be kept; else they last until the answer
}

// A method answers a call, or says errLater and answers by itself.
type method struct {
	min, max int // arguments
	answer   func(c *conn, k *call) (any, error)
}

var errLater = errors.New("the answer comes later")

var errReadOnlyConnection = &Error{classReadOnly, Tuple{}}

// methods are all that may be called after register.
var methods = map[string]method{
	"get_info":                        {0, 0, (*conn).getInfo},
	"lastTransaction":                 {0, 0, (*conn).lastTransaction},
	"getInvalidations":                {1, 1, (*conn).getInvalidations},
	"loadBefore":                      {2, 2, (*conn).loadBefore},
	"loadSerial":                      {2, 2, (*conn).loadSerial},
	"getTid":                          {1, 1, (*conn).getTid},
	"history":                         {1, 2, (*conn).history},
	"new_oids":                        {0, 1, (*conn).newOids},
	"tpc_begin":                       {4, 6, (*conn).tpcBegin},
	"storea":                          {4, 4, (*conn).storea},
	"checkCurrentSerialInTransaction": {3, 3, (*conn).checkCurrent},
	"vote":                            {1, 1, (*conn).vote},
	"tpc_finish":                      {1, 1, (*conn).tpcFinish},
	"tpc_abort":                       {1, 1, (*conn).tpcAbort},
	"ping":                            {0, 0, func(*conn, *call) (any, error) { return nil, nil }},
	"server_status":                   {0, 0, (*conn).serverStatus},
	"set_client_label":                {1, 1, (*conn).setLabel},

	"pack":                  {1, 2, (*conn).pack},
	"undoLog":               {2, 2, (*conn).undoLog},
	"undoInfo":              {2, 3, (*conn).undoInfo},
	"record_iternext":       {0, 1, (*conn).recordIternext},
	"iterator_start":        {2, 2, (*conn).iteratorStart},
	"iterator_next":         {1, 1, (*conn).iteratorNext},
	"iterator_record_start": {2, 2, (*conn).iteratorRecordStart},
	"iterator_record_next":  {1, 1, (*conn).iteratorRecordNext},
	"iterator_gc":           {1, 1, (*conn).iteratorGC},
	"sendBlob":              {2, 2, (*conn).sendBlob},

	"undoa":           {2, 2, (*conn).undoa},
	"restorea":        {5, 5, (*conn).restorea},
	"deleteObject":    {3, 3, (*conn).deleteObject},
	"storeBlobStart":  {0, 0, (*conn).storeBlobStart},
	"storeBlobChunk":  {1, 1, (*conn).storeBlobChunk},
	"storeBlobEnd":    {4, 4, (*conn).storeBlobEnd},
	"storeBlobShared": {5, 5, (*conn).storeBlobShared},
}

// call answers one call. An error ends the connection.
func (c *conn) call(m *Message, owned bool) error {
	args, ok := m.Args.(Tuple)
	if !ok || m.IsReply() {
		return violation("a client sends no replies")
	}
	k := &call{name: m.Name, id: m.ID, oneWay: m.Flag != 0, args: args, owned: owned}
	var answer func(*conn, *call) (any, error)
	meth, known := methods[m.Name]
	if !known {
		meth, known = nodeMethods[m.Name]
	}
	switch {
	case m.Name == "register" && c.storage == nil:
		meth, answer = method{min: 2, max: 2}, (*conn).register
	case m.Name == "s3_register" && c.storage == nil:
		meth, answer = method{min: 3, max: 3}, (*conn).registerNode
	case m.Name == "register", m.Name == "s3_register":
		return violation("register was called twice")
	case !known:
		return violation("there is no method %.100q", m.Name)
	case c.storage == nil:
		return violation("%s was called before register", m.Name)
	case (m.Name == "pack" || m.Name == "s3_pack") && c.mayOnlyRead != "":
		answer = func(c *conn, _ *call) (any, error) { return nil, c.onlyReads() }
	default:
		answer = meth.answer
	}
	var v any
	err := k.count(meth.min, meth.max)
	if err == nil {
		v, err = answer(c, k)
	}
	var bad *protocolError
	switch {
	case errors.Is(err, errLater):
	case errors.As(err, &bad):
		return err
	case err != nil && k.oneWay: // nobody could be told
		return violation("%s: %w", k.name, err)
	case k.oneWay:
	case err != nil:
		c.fail(k.id, err)
	default:
		c.reply(k.id, v)
	}
	return nil
}

// later answers a call from a task. What f uses must not lie in the frame.
func (c *conn) later(k *call, f func(ctx context.Context) (any, error)) (any, error) {
	id, oneWay := slices.Clone(k.id), k.oneWay
	err := c.task(func() {
		v, err := f(c.ctx)
		switch {
		case oneWay:
		case err != nil:
			c.fail(id, err)
		default:
			c.reply(id, v)
		}
	})
	if err != nil {
		return nil, &protocolError{err}
	}
	return nil, errLater
}

// register(storage, read only) -> last tid
func (c *conn) register(k *call) (any, error) {
	readOnly, ok := truth(k.args[1])
	if !ok {
		return nil, k.wrong(1, "read_only", "bool")
	}
	name, storage, err := c.wanted(k, readOnly)
	if err != nil {
		return nil, err
	}
	if s, ok := storage.(zodb.Synced); ok {
		// The client may come from a node that was ahead.
		if err := s.Sync(c.ctx); err != nil {
			return nil, err
		}
	}
	c.out.hold()
	c.enterStorage(name, storage, readOnly)
	tid := storage.Subscribe(c)
	var frame []byte
	if !k.oneWay {
		frame, _ = c.enc.AppendReply(nil, k.id, tid) // the id came in this encoding
	}
	c.out.release(frame)
	c.log.Info("registered", "storage", name, "read-only", readOnly, "encoding", c.enc.String())
	return nil, errLater
}

// wanted returns the storage that the first argument names, unless it may not be used.
func (c *conn) wanted(k *call, readOnly bool) (name string, storage zodb.Storage, err error) {
	name, ok := k.args[0].(string)
	if !ok {
		return "", nil, k.wrong(0, "storage", "str")
	}
	storage, ok = c.srv.storages[name]
	if !ok {
		return "", nil, &Error{classValue, Tuple{fmt.Sprintf("unknown storage: %.100s", name)}}
	}
	if c.mayOnlyRead != "" && !readOnly {
		return "", nil, c.onlyReads()
	}
	if err := storage.ReadOnly(); err != nil && !readOnly {
		return "", nil, err
	}
	return name, storage, nil
}

// enterStorage has further calls be about a storage.
func (c *conn) enterStorage(name string, storage zodb.Storage, readOnly bool) {
	c.name, c.readOnly, c.news = name, readOnly, c.srv.news[name]
	c.cached, _ = storage.(zodb.CachedLoader)
	c.frames.Max = c.srv.opts.MaxFrame
	c.registered.Store(&name) // others may send info from now on
	c.storage = storage
}

// get_info() -> dict
func (c *conn) getInfo(*call) (any, error) {
	info := c.storage.Info()
	return Dict{
		{"length", info.Objects},
		{"size", info.Size},
		{"name", info.Name},
		{"supportsUndo", true},
		{"supports_record_iternext", true},
		{"interfaces", interfaces},
	}, nil
}

// interfaces are those of a FileStorage with blobs, in the order in which the
// reference server lists them.
var interfaces = Tuple{
	Tuple{"ZODB.interfaces", "IBlobStorageRestoreable"},
	Tuple{"ZODB.interfaces", "IBlobStorage"},
	Tuple{"ZODB.interfaces", "IStorageRestoreable"},
	Tuple{"ZODB.interfaces", "IStorageIteration"},
	Tuple{"ZODB.interfaces", "IStorageUndoable"},
	Tuple{"ZODB.interfaces", "IStorageCurrentRecordIteration"},
	Tuple{"ZODB.interfaces", "IExternalGC"},
	Tuple{"ZODB.interfaces", "IStorage"},
	Tuple{"zope.interface", "Interface"},
}

func (c *conn) lastTransaction(*call) (any, error) { return c.storage.LastTransaction(), nil }

// maxInvalidated is how many oids getInvalidations lists. A client that missed
// more is better off without what it cached.
const maxInvalidated = 500_000

// getInvalidations(tid) -> (last tid, [oid]) or None
func (c *conn) getInvalidations(k *call) (any, error) {
	tid, err := k.tid(0)
	if err != nil {
		return nil, err
	}
	last, oids, ok := c.storage.Invalidations(c.ctx, tid)
	if !ok || len(oids) > maxInvalidated {
		return nil, nil
	}
	return Tuple{last, oids}, nil
}

// loadBefore(oid, tid) -> (data, serial, end or None) or None, in any shape but
// the one that load is called for.
func (c *conn) loadBefore(k *call) (any, error) {
	oid, err := k.oid()
	if err != nil {
		return nil, err
	}
	tid, err := k.tid(1)
	if err != nil {
		return nil, err
	}
	if k.oneWay {
		return nil, nil
	}
	if err := c.load(k.id, oid, tid); err != nil {
		return nil, &protocolError{err}
	}
	return nil, errLater
}

// loadSerial(oid, tid) -> data
func (c *conn) loadSerial(k *call) (any, error) {
	oid, err := k.oid()
	if err != nil {
		return nil, err
	}
	tid, err := k.tid(1)
	if err != nil {
		return nil, err
	}
	return c.later(k, func(ctx context.Context) (any, error) { return c.storage.LoadSerial(ctx, oid, tid) })
}

// getTid(oid) -> tid
func (c *conn) getTid(k *call) (any, error) {
	oid, err := k.oid()
	if err != nil {
		return nil, err
	}
	return c.later(k, func(ctx context.Context) (any, error) { return c.storage.GetTid(ctx, oid) })
}

const maxNewOids = 100 // in one call

// new_oids(n=100) -> [oid]
func (c *conn) newOids(k *call) (any, error) {
	n := int64(maxNewOids)
	if len(k.args) > 0 {
		var ok bool
		if n, ok = k.args[0].(int64); !ok {
			return nil, k.wrong(0, "n", "int")
		}
	}
	if c.readOnly {
		return nil, errReadOnlyConnection
	}
	n = min(max(n, 1), maxNewOids)
	return c.later(k, func(ctx context.Context) (any, error) {
		return c.storage.NewOids(ctx, int(n))
	})
}

// set_client_label(text)
func (c *conn) setLabel(k *call) (any, error) {
	label, ok := k.args[0].(string)
	if !ok {
		return nil, k.wrong(0, "label", "str")
	}
	c.label = label[:min(len(label), maxLabel)]
	c.log.Debug("labelled", "label", c.label)
	return nil, nil
}
