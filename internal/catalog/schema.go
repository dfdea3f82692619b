package catalog

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// version is that of the tables.
const version = 1

// schemaLock is the key of an advisory lock: two servers that make the same table
// at the same time can fail.
const schemaLock = 0x7333_7374_6f72_6167

const schema = `
CREATE TABLE IF NOT EXISTS s3storage_bucket (
	id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	name        text NOT NULL UNIQUE,
	version     integer NOT NULL,
	propagation interval NOT NULL
);
CREATE TABLE IF NOT EXISTS s3storage_object (
	bucket bigint NOT NULL REFERENCES s3storage_bucket,
	name   text COLLATE "C" NOT NULL,
	size   bigint,
	data   bytea,
	stored timestamptz,
	begun  timestamptz NOT NULL DEFAULT clock_timestamp(),
	PRIMARY KEY (bucket, name)
);
ALTER TABLE s3storage_object ALTER COLUMN data SET STORAGE EXTERNAL;
CREATE INDEX IF NOT EXISTS s3storage_object_copy ON s3storage_object (bucket, begun)
	WHERE stored IS NULL;
CREATE INDEX IF NOT EXISTS s3storage_object_forget ON s3storage_object (bucket, stored)
	WHERE data IS NOT NULL;
`

// prepare makes the tables if they are missing.
func (c *Catalog) prepare(ctx context.Context) error {
	var there bool
	err := c.pool.QueryRow(ctx, `SELECT to_regclass('s3storage_object_forget') IS NOT NULL`).Scan(&there)
	if err != nil || there {
		return err
	}
	return pgx.BeginFunc(ctx, c.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock($1)`, int64(schemaLock)); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, schema); err != nil {
			return fmt.Errorf("making the tables s3storage_bucket and s3storage_object: %w", err)
		}
		return nil
	})
}
