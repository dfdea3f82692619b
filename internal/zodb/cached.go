package zodb

// A CachedLoader is a role that a Storage may play besides: it tells, without
// waiting for anything but a short lock, what it has at hand.
type CachedLoader interface {
	// LoadBeforeCached answers as LoadBefore does where it can do so without
	// input or output. Where hit is false it says nothing, and LoadBefore is
	// to be asked.
	LoadBeforeCached(oid Oid, tid Tid) (rev Revision, ok, hit bool, err error)
}
