package catalog

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"s3storage/internal/bucket"
)

// Rebuild makes a bucket known to a catalog by a name, with all objects that its
// store lists, for one whose catalog was lost. It returns how many there are. Who
// calls it sees to it that nobody writes, and that Tp is over since the last write.
// If the catalog knows the bucket already, nothing is done, and that is an error.
func (c *Catalog) Rebuild(ctx context.Context, store bucket.Bucket, name string, propagation time.Duration) (n int, err error) {
	var all []bucket.Info
	err = store.List(ctx, "", "", func(info bucket.Info) error {
		if bucket.CheckName(info.Name) == nil {
			all = append(all, info)
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	err = pgx.BeginFunc(ctx, c.pool, func(tx pgx.Tx) error {
		var id int64
		err := tx.QueryRow(ctx, `INSERT INTO s3storage_bucket (name, version, propagation) VALUES ($1, $2, $3)
			ON CONFLICT DO NOTHING RETURNING id`, name, version, propagation).Scan(&id)
		if errors.Is(err, pgx.ErrNoRows) {
			return fmt.Errorf("it knows it already; only if that is of a rebuild that was broken off, have it forgotten first, with psql: "+
				"DELETE FROM s3storage_object WHERE bucket = (SELECT id FROM s3storage_bucket WHERE name = '%s'); "+
				"DELETE FROM s3storage_bucket WHERE name = '%s'", name, name)
		}
		if err != nil {
			return err
		}
		now := time.Now() // nothing rests on it: the bytes are not here
		_, err = tx.CopyFrom(ctx, pgx.Identifier{"s3storage_object"}, []string{"bucket", "name", "size", "stored"},
			pgx.CopyFromSlice(len(all), func(i int) ([]any, error) { return []any{id, all[i].Name, all[i].Size, now}, nil }))
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("make %s known to the catalog: %w", name, err)
	}
	return len(all), nil
}
