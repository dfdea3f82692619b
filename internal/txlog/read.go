package txlog

import (
	"context"
	"fmt"

	"s3storage/internal/bucket"
	"s3storage/internal/zodb"
)

// ReadRecord reads the data of a record of kind RecordData from the object in
// which it lies. An error of the class zodb.ErrCorrupt names the place.
func ReadRecord(ctx context.Context, b bucket.Bucket, name string, span Span, oid zodb.Oid) (data []byte, err error) {
	err = bucket.Rereading(ctx, func() error {
		raw, err := readSpan(ctx, b, name, span)
		if err != nil {
			return err
		}
		data, err = DecodeRecord(name, span, raw, oid)
		return err
	})
	return data, err
}

// ReadHead reads the head of a transaction from the log object in which it
// lies.
func ReadHead(ctx context.Context, b bucket.Bucket, name string, span Span) (t *Transaction, err error) {
	err = bucket.Rereading(ctx, func() error {
		raw, err := readSpan(ctx, b, name, span)
		if err != nil {
			return err
		}
		t, err = DecodeHead(name, span, raw)
		return err
	})
	return t, err
}

func readSpan(ctx context.Context, b bucket.Bucket, name string, span Span) ([]byte, error) {
	raw, err := b.GetRange(ctx, name, int64(span.Offset), int64(span.Size))
	if err == nil && uint32(len(raw)) != span.Size {
		err = fmt.Errorf("%s in %s is %w: %d bytes expected at offset %d, %d are there",
			name, b.Properties().Location, zodb.ErrCorrupt, span.Size, span.Offset, len(raw))
	}
	return raw, err
}

// WritePayload puts a payload object, again and again until it is there.
func WritePayload(ctx context.Context, b bucket.Bucket, id PayloadID, data []byte) error {
	// The name is random: whatever stands there is an earlier try of this.
	return bucket.Retrying(ctx, func() error { return b.Put(ctx, id.Name(), data) })
}
