package lease

import (
	"testing"

	"s3storage/internal/buckettest/localserver"
)

func TestALeaseInPostgres(t *testing.T) {
	t.Parallel()
	s, location := localserver.Postgres(t)
	conform(t, &system{
		open: func(t *testing.T, o Options) Lease {
			l, err := Open(t.Context(), location, o)
			if err != nil {
				t.Fatal(err)
			}
			return l
		},
		down: s.Stop, up: s.Start, lose: s.Restart,
		life: timeout,
	}, knowsDatabases)
}
