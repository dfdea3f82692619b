package txlog

import (
	"context"
	"errors"
	"fmt"

	"s3storage/internal/bucket"
)

// CatalogName returns the name that a store has in the catalog that lists the
// objects of the database in it, if there is one, else nothing. The error is
// ErrNoDatabase where there is no database, as far as the store shows it, and
// ErrTaken where there is something else.
func CatalogName(ctx context.Context, store bucket.Bucket) (string, error) {
	f, err := readFormat(ctx, store, FormatName)
	switch {
	case err == nil:
		return f.Catalog, nil
	case errors.Is(err, ErrNoDatabase):
		nothing := func(string) bool { return false }
		if taken := refuseOthers(ctx, store, nothing); taken != nil {
			return "", taken
		}
	}
	return "", err
}

func needsCatalog(location string, f *Format) error {
	return fmt.Errorf("what objects database %s in %s has is in a catalog in PostgreSQL, which knows it as %s: "+
		"say where that is with --catalog postgres://USER@HOST/DATABASE, or in the environment, S3STORAGE_CATALOG", f.Database, location, f.Catalog)
}
