package bucket

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

func TestRetriesEndWhereTheyCannotHelp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		unknown := errors.New("no answer")
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		for _, test := range []struct {
			what     string
			retry    func(try func() error) error
			err      func(n int) error
			attempts int
			want     error
		}{
			{"a success", func(f func() error) error { return Rereading(ctx, f) },
				func(int) error { return nil }, 1, nil},
			{"a late success", func(f func() error) error { return Retrying(ctx, f) },
				func(n int) error {
					if n < 100 {
						return unknown
					}
					return nil
				}, 100, nil},
			{"a last attempt", func(f func() error) error { return Retry(ctx, 3, f) },
				func(int) error { return unknown }, 3, unknown},
			{"a last read", func(f func() error) error { return Rereading(ctx, f) },
				func(int) error { return unknown }, readAttempts, unknown},
			{"a refusal", func(f func() error) error { return Retrying(ctx, f) },
				func(int) error { return fmt.Errorf("put: %w", ErrDenied) }, 1, ErrDenied},
			{"an answer", func(f func() error) error { return Rereading(ctx, f) },
				func(int) error { return ErrNotExist }, 1, ErrNotExist},
			{"the end of the context", func(f func() error) error { return Retrying(ctx, f) },
				func(n int) error {
					if n == 50 {
						cancel()
					}
					return unknown
				}, 50, unknown},
		} {
			n := 0
			err := test.retry(func() error { n++; return test.err(n) })
			if n != test.attempts || !errors.Is(err, test.want) {
				t.Errorf("%s: %d attempts, want %d; error %v", test.what, n, test.attempts, err)
			}
		}
	})
}
