package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"s3storage/internal/bucket"
	"s3storage/internal/catalog"
	"s3storage/internal/txlog"
)

// stores open buckets, and close what has to be closed of them. They are part of
// every subcommand that opens one.
type stores struct {
	Catalog string `placeholder:"postgres://USER@HOST/DATABASE" env:"S3STORAGE_CATALOG" help:"A database in PostgreSQL that lists the objects of buckets whose stores know no put-if-absent, or show writes late. A database that is made with it needs it from then on. See doc/catalog.md."`

	propagation *grace                            // nil: as the catalog has it
	disturb     func(bucket.Bucket) bucket.Bucket // nil: nothing
	catalog     *catalog.Catalog                  // nil: not connected
	opened      []*catalog.Bucket
}

// openListed opens the bucket that a location names, by the catalog if there is one
// that knows it, or if create is set and there is no database yet.
func (s *stores) openListed(ctx context.Context, location string, create bool) (bucket.Bucket, error) {
	store, err := openAlone(ctx, location, create)
	if err != nil {
		return nil, err
	}
	if s.disturb != nil {
		store = s.disturb(store)
	}
	if s.Catalog == "" {
		return store, nil
	}
	name, err := canonical(location)
	if err != nil {
		return nil, fmt.Errorf("--catalog: %w", err)
	}
	if err := s.connect(ctx); err != nil {
		return nil, err
	}
	// The store is asked only where the catalog does not know it: it may show late
	// what is in it.
	b, err := s.catalog.Open(ctx, store, name)
	if errors.Is(err, catalog.ErrUnknown) {
		b, err = s.openUnknown(ctx, store, location, name, create)
	}
	if err != nil {
		return nil, err
	}
	if b == nil {
		return store, nil
	}
	s.opened = append(s.opened, b)
	if s.propagation != nil {
		err = b.SetPropagation(ctx, time.Duration(*s.propagation))
	}
	return b, err
}

// connect connects to the catalog, once.
func (s *stores) connect(ctx context.Context) (err error) {
	if s.catalog == nil {
		s.catalog, err = catalog.Connect(ctx, s.Catalog)
	}
	return err
}

// openUnknown opens a store that the catalog does not know by the name that is made
// of its location. It returns nil if the database there is in no catalog, or there is
// none and it is not to be made.
func (s *stores) openUnknown(ctx context.Context, store bucket.Bucket, location, name string, create bool) (*catalog.Bucket, error) {
	known, err := txlog.CatalogName(ctx, store)
	switch {
	case errors.Is(err, txlog.ErrNoDatabase) && create:
		return s.catalog.Create(ctx, store, name, time.Duration(0))
	case errors.Is(err, txlog.ErrNoDatabase) || errors.Is(err, txlog.ErrTaken) && !create:
		return nil, nil
	case err != nil:
		return nil, err
	case known == "" && create:
		return nil, fmt.Errorf("the database in %s is in no catalog: leave out --catalog; "+
			"or export the database and import it into an empty bucket with --catalog", location)
	case known == "":
		return nil, nil
	}
	b, err := s.catalog.Open(ctx, store, known) // it was made under another spelling of its location
	if errors.Is(err, catalog.ErrUnknown) {
		err = fmt.Errorf("the database in %s is in a catalog that knows it as %s, and this one does not: give --catalog the right one; "+
			"if that is lost, see doc/catalog.md", location, known)
	}
	return b, err
}

// closeTime is how long the end of the program waits for copies to the store.
const closeTime = 30 * time.Second

// close closes what was opened, when what was written has reached its store. Its
// error becomes that of the subcommand, unless that has one.
func (s *stores) close(result *error) {
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	for _, b := range s.opened {
		if err := b.Close(ctx); err != nil && *result == nil {
			*result = fmt.Errorf("not all that was written is in %s yet, it is safe in the catalog, and the next server goes on with it: %w",
				b.Properties().Location, err)
		}
	}
	if s.catalog != nil {
		s.catalog.Close()
	}
}
