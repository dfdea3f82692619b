package web

import "s3storage/internal/bucket"

// Prices of requests in US dollars: the list prices of S3 Standard in us-east-1, as
// https://aws.amazon.com/s3/pricing/ had them in 2025. Deletions are free.
const (
	usdPerWrite = 0.005 / 1000  // PUT, COPY, POST, LIST
	usdPerRead  = 0.0004 / 1000 // GET, HEAD and all others
)

const (
	listPage   = 1000    // objects in one answer to LIST, at most
	streamPart = 8 << 20 // bytes in one part of a long stream, at least
)

// price returns about what the requests of one kind would have cost, in US dollars. What
// the client library tried again is not in it, nor are storage and transfer.
func price(k bucket.Kind, s bucket.KindStats) float64 {
	switch k {
	case bucket.KindPutIfAbsent, bucket.KindPut, bucket.KindCleanUp:
		return usdPerWrite * float64(s.Count)
	case bucket.KindPutStream:
		return usdPerWrite * float64(s.Count+s.Bytes/streamPart)
	case bucket.KindList:
		return usdPerWrite * float64(s.Count+s.Bytes/listPage)
	case bucket.KindGet, bucket.KindGetRange, bucket.KindNow:
		return usdPerRead * float64(s.Count)
	}
	return 0
}
