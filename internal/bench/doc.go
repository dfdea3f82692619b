// Package bench drives ZEO 5 servers, whichever they are, and measures them.
//
// A Session is a set of connections to one server with the objects that they
// load and store. Session.Run lets them work for a time and returns Figures.
// Compare runs the sessions of two servers by turns, in slices so short that
// whatever else the machine does hits both alike, and tells the ratio of each
// round rather than two numbers from different minutes.
//
// Workloads:
//
//	fill    each client writes new objects, some per transaction
//	commit  each client writes its own objects over and over; no two clients
//	        write the same object, unless Options.Conflicting is set
//	load    each client keeps some loads of random objects under way, while
//	        Options.Writers other clients change them, store blobs and undo
//	mixed   each client loads some objects, then commits, as a web
//	        application does for a request that writes
//	upload  each client stores a new blob in each transaction
//	download
//	        each client reads the same blob over and over
//
// The objects are persistent mappings with a text in them, in pickles that ZODB
// itself could read. Nothing refers to them: the next pack that collects garbage
// takes them away.
package bench
