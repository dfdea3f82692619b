package catalog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"s3storage/internal/bucket"
)

// A Bucket is one whose names are in a catalog. Its location is that of the store.
type Bucket struct {
	catalog *Catalog
	store   bucket.Bucket
	name    string
	id      int64
	background
}

var _ bucket.Bucket = (*Bucket)(nil)

// Properties implements bucket.Bucket.
func (b *Bucket) Properties() bucket.Properties {
	p := b.store.Properties()
	p.Catalog = b.name
	return p
}

// refused is what every operation on one object asks first.
func (b *Bucket) refused(ctx context.Context, k bucket.Kind, name string) error {
	err := bucket.CheckName(name)
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return bucket.NewError(b, k, name, err)
	}
	return nil
}

// PutIfAbsent implements bucket.Bucket. A row without a size is of a stream that
// failed, or is under way.
func (b *Bucket) PutIfAbsent(ctx context.Context, name string, data []byte) error {
	if err := b.refused(ctx, bucket.KindPutIfAbsent, name); err != nil {
		return err
	}
	tag, err := b.catalog.pool.Exec(ctx, `INSERT INTO s3storage_object AS o (bucket, name, size, data) VALUES ($1, $2, $3, $4)
		ON CONFLICT (bucket, name) DO UPDATE SET size = excluded.size, data = excluded.data, stored = NULL, begun = excluded.begun
		WHERE o.size IS NULL`, b.id, name, len(data), some(data))
	if err != nil {
		return b.failure(bucket.KindPutIfAbsent, name, err)
	}
	if tag.RowsAffected() == 0 {
		return bucket.NewError(b, bucket.KindPutIfAbsent, name, bucket.ErrExist)
	}
	b.wake()
	return nil
}

// some returns data, and no null where there are none.
func some(data []byte) []byte {
	if data == nil {
		return []byte{}
	}
	return data
}

// Put implements bucket.Bucket.
func (b *Bucket) Put(ctx context.Context, name string, data []byte) error {
	return b.insert(ctx, bucket.KindPut, name, data)
}

// insert writes an object here, over an older one if there is one.
func (b *Bucket) insert(ctx context.Context, k bucket.Kind, name string, data []byte) error {
	if err := b.refused(ctx, k, name); err != nil {
		return err
	}
	_, err := b.catalog.pool.Exec(ctx, `INSERT INTO s3storage_object (bucket, name, size, data) VALUES ($1, $2, $3, $4)
		ON CONFLICT (bucket, name) DO UPDATE SET size = excluded.size, data = excluded.data, stored = NULL, begun = excluded.begun`,
		b.id, name, len(data), some(data))
	if err != nil {
		return b.failure(k, name, err)
	}
	b.wake()
	return nil
}

// short is how long a stream may be that is inserted with its bytes.
const short = 256 << 10

// PutStream implements bucket.Bucket.
func (b *Bucket) PutStream(ctx context.Context, name string, r io.Reader) error {
	if err := b.refused(ctx, bucket.KindPutStream, name); err != nil {
		return err
	}
	r = &untilDone{ctx: ctx, r: r}
	var start bytes.Buffer
	if _, err := io.CopyN(&start, r, short+1); errors.Is(err, io.EOF) {
		return b.insert(ctx, bucket.KindPutStream, name, start.Bytes())
	} else if err != nil {
		return bucket.NewError(b, bucket.KindPutStream, name, err)
	}
	count := &counted{r: io.MultiReader(&start, r)}
	// What is there until then can be read from here, and is not copied any more.
	_, err := b.catalog.pool.Exec(ctx, `INSERT INTO s3storage_object AS o (bucket, name) VALUES ($1, $2)
		ON CONFLICT (bucket, name) DO UPDATE SET stored = 'infinity' WHERE o.data IS NOT NULL`, b.id, name)
	if err != nil {
		return b.failure(bucket.KindPutStream, name, err)
	}
	if err := b.store.PutStream(ctx, name, count); err != nil {
		b.giveUp(ctx, name, count.ended)
		return err
	}
	propagation, err := b.propagation(ctx)
	if err == nil {
		err = bucket.Sleep(ctx, propagation)
	}
	if err == nil {
		var tag pgconn.CommandTag
		tag, err = b.catalog.pool.Exec(ctx, `UPDATE s3storage_object SET size = $3, data = NULL, stored = clock_timestamp()
			WHERE bucket = $1 AND name = $2`, b.id, name, count.n)
		if err == nil && tag.RowsAffected() == 0 {
			err = errors.New("it was deleted while it was written")
		}
	}
	if err != nil {
		b.giveUp(ctx, name, true)
		return b.failure(bucket.KindPutStream, name, err)
	}
	return nil
}

// An untilDone is a reader that ends with ctx.
type untilDone struct {
	ctx context.Context
	r   io.Reader
}

// Read implements io.Reader.
func (u *untilDone) Read(p []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.r.Read(p)
}

// A counted reader counts what was read, and knows whether that was all.
type counted struct {
	r     io.Reader
	n     int64
	ended bool
}

// Read implements io.Reader.
func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	c.ended = c.ended || errors.Is(err, io.EOF)
	return n, err
}

// propagation returns Tp as it is now.
func (b *Bucket) propagation(ctx context.Context) (tp time.Duration, err error) {
	err = b.catalog.pool.QueryRow(ctx, `SELECT propagation FROM s3storage_bucket WHERE id = $1`, b.id).Scan(&tp)
	return tp, err
}

// giveUp has the object before a stream that failed copied again. What the stream may
// have left in the store, where it had come to its end, CleanUp finds: were it deleted
// at once, and that late, it might be what the next attempt has written.
func (b *Bucket) giveUp(ctx context.Context, name string, ended bool) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), giveUpTime)
	defer cancel()
	_, _ = b.catalog.pool.Exec(ctx, `UPDATE s3storage_object SET stored = NULL
		WHERE bucket = $1 AND name = $2 AND stored = 'infinity' AND data IS NOT NULL`, b.id, name)
	if !ended {
		_, _ = b.catalog.pool.Exec(ctx, `DELETE FROM s3storage_object WHERE bucket = $1 AND name = $2 AND size IS NULL AND stored IS NULL`, b.id, name)
	}
}

const giveUpTime = 5 * time.Second

// lookUp finds out where an object is. data are the bytes from the offset on, n at
// most, if they are here and there are not more than limit, else nil.
func (b *Bucket) lookUp(ctx context.Context, k bucket.Kind, name string, offset, n, limit int64) (data []byte, err error) {
	const largest = 1 << 30 // of a value in PostgreSQL
	var size int64
	err = b.catalog.pool.QueryRow(ctx, `SELECT size, CASE WHEN size <= $5 THEN substring(data FROM $3::int FOR $4::int) END
		FROM s3storage_object WHERE bucket = $1 AND name = $2 AND size IS NOT NULL`,
		b.id, name, min(offset, largest)+1, min(n, largest), limit).Scan(&size, &data)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		err = bucket.NewError(b, k, name, bucket.ErrNotExist)
	case err != nil:
		err = b.failure(k, name, err)
	case size > limit:
		err = bucket.NewError(b, k, name, fmt.Errorf("%w: %d bytes, limit %d", bucket.ErrTooLarge, size, limit))
	}
	return data, err
}

// read reads an object from here or, where only that has it, from the store.
func (b *Bucket) read(ctx context.Context, k bucket.Kind, name string, offset, n, limit int64, fromStore func() ([]byte, error)) ([]byte, error) {
	if err := b.refused(ctx, k, name); err != nil {
		return nil, err
	}
	data, err := b.lookUp(ctx, k, name, offset, n, limit)
	if err != nil || data != nil {
		return data, err
	}
	data, missing := fromStore()
	if !errors.Is(missing, bucket.ErrNotExist) {
		return data, missing
	}
	// It may have been deleted, or replaced, in the meantime.
	if data, err = b.lookUp(ctx, k, name, offset, n, limit); err != nil || data != nil {
		return data, err
	}
	return nil, bucket.NewError(b, k, name, bucket.ErrLost)
}

const unlimited = 1 << 62

// Get implements bucket.Bucket.
func (b *Bucket) Get(ctx context.Context, name string, limit int64) ([]byte, error) {
	return b.read(ctx, bucket.KindGet, name, 0, unlimited, limit, func() ([]byte, error) {
		return b.store.Get(ctx, name, limit)
	})
}

// GetRange implements bucket.Bucket.
func (b *Bucket) GetRange(ctx context.Context, name string, offset, n int64) ([]byte, error) {
	if err := bucket.CheckRange(offset, n); err != nil {
		return nil, bucket.NewError(b, bucket.KindGetRange, name, err)
	}
	return b.read(ctx, bucket.KindGetRange, name, offset, n, unlimited, func() ([]byte, error) {
		return b.store.GetRange(ctx, name, offset, n)
	})
}

// page is how many names are listed at a time.
const page = 1000

// behind comes after every name that begins with what it stands behind.
const behind = "\x7f"

// List implements bucket.Bucket.
func (b *Bucket) List(ctx context.Context, prefix, after string, fn func(bucket.Info) error) error {
	if err := ctx.Err(); err != nil {
		return bucket.NewError(b, bucket.KindList, "", err)
	}
	if strings.ContainsRune(prefix, 0) || !utf8.ValidString(prefix) {
		return nil // no name begins so
	}
	for {
		rows, err := b.catalog.pool.Query(ctx, `SELECT name, size FROM s3storage_object
			WHERE bucket = $1 AND size IS NOT NULL AND name >= $2 AND name < $3 AND name > $4 ORDER BY name LIMIT $5`,
			b.id, prefix, prefix+behind, after, page)
		var found []bucket.Info
		if err == nil {
			found, err = pgx.CollectRows(rows, pgx.RowToStructByPos[bucket.Info])
		}
		if err != nil {
			return b.failure(bucket.KindList, "", err)
		}
		for _, info := range found {
			if err := fn(info); err != nil {
				return err
			}
			after = info.Name
		}
		if len(found) < page {
			return nil
		}
	}
}

// Delete implements bucket.Bucket. First it is no object any more, then it goes: one
// of which only the row is left would be a lost one.
func (b *Bucket) Delete(ctx context.Context, name string) error {
	if err := b.refused(ctx, bucket.KindDelete, name); err != nil {
		return err
	}
	_, err := b.catalog.pool.Exec(ctx, `UPDATE s3storage_object SET size = NULL, data = NULL, stored = 'infinity'
		WHERE bucket = $1 AND name = $2 AND size IS NOT NULL`, b.id, name)
	if err == nil {
		_, err = b.remove(ctx, name)
	}
	if err != nil {
		return b.failure(bucket.KindDelete, name, err)
	}
	return nil
}

// remove deletes what is under a name from the store, and the row, if that is not
// of an object. It tells whether it did.
func (b *Bucket) remove(ctx context.Context, name string) (removed bool, err error) {
	err = pgx.BeginFunc(ctx, b.catalog.writes, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `SELECT FROM s3storage_object WHERE bucket = $1 AND name = $2 AND size IS NULL FOR UPDATE`, b.id, name)
		if err != nil || tag.RowsAffected() == 0 {
			return err
		}
		if err := b.store.Delete(ctx, name); err != nil {
			return err
		}
		removed = true
		_, err = tx.Exec(ctx, `DELETE FROM s3storage_object WHERE bucket = $1 AND name = $2`, b.id, name)
		return err
	})
	return removed, err
}

// Now implements bucket.Bucket. It is the time of PostgreSQL.
func (b *Bucket) Now(ctx context.Context) (now time.Time, err error) {
	if err = b.catalog.pool.QueryRow(ctx, `SELECT clock_timestamp()`).Scan(&now); err != nil {
		err = b.failure(bucket.KindNow, "", err)
	}
	return now, err
}

// CleanUp implements bucket.Bucket. It removes the streams that became no object,
// and cleans the store.
func (b *Bucket) CleanUp(ctx context.Context, olderThan time.Duration) (int, error) {
	rows, err := b.catalog.pool.Query(ctx, `SELECT name FROM s3storage_object
		WHERE bucket = $1 AND size IS NULL AND begun < clock_timestamp() - $2::interval`, b.id, olderThan)
	var names []string
	if err == nil {
		names, err = pgx.CollectRows(rows, pgx.RowTo[string])
	}
	n := 0
	for _, name := range names {
		var removed bool
		if removed, err = b.remove(ctx, name); err != nil {
			break
		}
		if removed {
			n++
		}
	}
	if err != nil {
		return n, b.failure(bucket.KindCleanUp, "", err)
	}
	m, err := b.store.CleanUp(ctx, olderThan)
	return n + m, err
}
