package s3bucket

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"s3storage/internal/bucket"
)

// translate puts the sentinel of package bucket in front of an SDK error, if
// one fits. Of a write's errors, only those get one that mean that the server
// has refused it. A 404 that does not say what is missing, as from a proxy, says
// nothing about an object.
func translate(ctx context.Context, k bucket.Kind, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	code, status := "", 0
	var api smithy.APIError
	if errors.As(err, &api) {
		code = api.ErrorCode()
	}
	var response *smithyhttp.ResponseError
	if errors.As(err, &response) {
		status = response.HTTPStatusCode()
	}
	switch code {
	case "NoSuchKey":
		return bucket.ErrNotExist
	case "NoSuchBucket":
		return fmt.Errorf("%w: %w", bucket.ErrNoBucket, err)
	case "InvalidAccessKeyId", "SignatureDoesNotMatch", "XAdminUserNotFound": // the last is versitygw's
		return fmt.Errorf("%w, because the credentials are not known there: %s (%w)", bucket.ErrDenied, credentialsAdvice, err)
	case "RequestTimeTooSkewed":
		return fmt.Errorf("%w, because this machine's clock is wrong (%w)", bucket.ErrDenied, err)
	}
	switch {
	case code == "NotImplemented" && k == bucket.KindPutIfAbsent:
		return fmt.Errorf("%w: %w", bucket.ErrNoConditionalPut, err)
	case status == http.StatusNotFound && k == bucket.KindNow: // the answer to HEAD has no code
		return fmt.Errorf("%w: %w", bucket.ErrNoBucket, err)
	case status == http.StatusPreconditionFailed && k == bucket.KindPutIfAbsent:
		return bucket.ErrExist
	case status == http.StatusForbidden, status == http.StatusUnauthorized:
		return fmt.Errorf("%w: %w", bucket.ErrDenied, err)
	case code == "AuthorizationHeaderMalformed", status == http.StatusMovedPermanently, status == http.StatusTemporaryRedirect:
		return fmt.Errorf("the bucket is in another region: set AWS_REGION, or add ?region=... to its URL (%w)", err)
	}
	return err
}

// pastTheEnd reports that a range begins where the object has ended.
func pastTheEnd(err error) bool {
	var response *smithyhttp.ResponseError
	return errors.As(err, &response) && response.HTTPStatusCode() == http.StatusRequestedRangeNotSatisfiable
}
