// Package s3storage holds no code. This is the map of the tree.
//
// A storage server for ZODB: clients speak ZEO 5 to it, the database is a log
// of objects in a bucket. README.md says what it does, doc/design.md why it is
// built so, doc/format.md what the bytes in a bucket are, CONTRIBUTING.md in
// which order to read.
//
// Imports run downward only: a package knows only such as stand below it here.
// layers_test.go says which, and go test enforces it.
//
//	cmd/s3storage                  the program: flags and wiring, a file for each subcommand
//
//	internal/bench                 drives any ZEO server as a client and measures it
//	internal/web                   health, readiness, metrics and profiles over HTTP
//	internal/zeo                   the ZEO 5 protocol: codec, server, client; knows a storage as zodb.Storage
//	internal/engine                a zodb.Storage on a bucket: loads, votes, undo, iteration; flush, merge, pack, and what to delete
//	internal/check                 looks for damage in the bucket of a database
//	internal/base                  what is not in the log any more: the lists of segments and tables, and reading them
//	internal/txlog                 the log: bytes of its objects, slots, epochs, seals, group commit, replay
//	internal/blob                  the bytes of blobs: upload as a stream, read as one, checked
//	internal/segment               the file of records: compressed blocks, and how to find one; no I/O of its own
//	internal/index                 from oid and tid to the place of a record: in memory, and in the files of the tables
//	internal/cache                 what was read from a bucket, in memory and on local disk, bounded
//	internal/extsort               sorts more than fits into memory
//	internal/node                  a zodb.Storage that many nodes serve: who leads, following it, passing writes on
//	internal/lease                 who may lead: leases from the bucket, PostgreSQL, memcached, Amazon SQS
//	internal/fileformat            what all files in a bucket have in common
//	internal/catalog               a bucket of a store that is none by itself: its names are in PostgreSQL
//	internal/s3bucket              a bucket in S3; the only package that knows S3's SDK
//	internal/bucket                what a bucket is, one in memory, one in a directory, the probe, decorators
//	internal/pydata                what a data record tells: its class, the objects that it refers to
//	internal/pickle                pickles taken apart into opcodes
//	internal/filestorage           FileStorage's files and directories of blobs: reads and writes them
//	internal/zodb                  the words of all others: Oid, Tid, Storage, Transaction, the errors
//
// For tests only:
//
//	internal/storagetest           what a zodb.Storage promises, as a suite; a storage in memory
//	internal/buckettest            what a bucket promises, as a suite
//	internal/buckettest/faults     a bucket with faults: lost answers, late writes, damaged reads
//	internal/simulation            whole nodes in virtual time, through schedules that are drawn from seeds
//	internal/buckettest/weakstore   weak stores with a catalog
//	internal/buckettest/localserver  programs that are servers, PostgreSQL for one, on the loopback interface
//	internal/buckettest/s3server   a real S3 server on the loopback interface
//
// Not Go packages of this module:
//
//	doc                            design, format, performance, operations, how it was tested
//	deploy                         servers in Kubernetes; alerts and a dashboard for Prometheus and Grafana
//	test/interop                   the server against the real ZODB and ZEO packages, in Python
//	test/bench                     the figures of doc/performance.md
//	test/crash                     servers killed, paused and cut off under load, and the proof that nothing was lost
//	test/site                      a real Zope and a real Plone on the server
//	tools                          modules of their own: the programs that tests start; what Prometheus says of deploy
package s3storage
