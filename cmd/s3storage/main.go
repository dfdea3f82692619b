// Command s3storage serves ZODB databases that live in object-store buckets.
package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/alecthomas/kong"
)

// version is set by the build: -ldflags "-X main.version=...".
var version = "0.1.0-dev"

type cli struct {
	Serve    serveCmd         `cmd:"" help:"Serve databases to ZODB clients."`
	Info     infoCmd          `cmd:"" help:"Show what is in a bucket."`
	Status   statusCmd        `cmd:"" help:"Show which server leads a database, and which follow."`
	Check    checkCmd         `cmd:"" help:"Look for damage in a bucket."`
	Pack     packCmd          `cmd:"" help:"Drop old revisions and garbage."`
	Import   importCmd        `cmd:"" help:"Take the transactions of a FileStorage into a bucket."`
	Export   exportCmd        `cmd:"" help:"Write a database as a FileStorage."`
	Snapshot snapshotCmd      `cmd:"" help:"Keep states of a database."`
	Branch   branchCmd        `cmd:"" help:"Make a database that begins as what another one is or was."`
	Restore  restoreCmd       `cmd:"" help:"Take a database back to what it was."`
	Log      logCmd           `cmd:"" help:"List transactions."`
	Ls       lsCmd            `cmd:"" help:"List the classes of objects, and what they take up."`
	Show     showCmd          `cmd:"" help:"Show what an object is, as text."`
	History  historyCmd       `cmd:"" help:"List the revisions of an object."`
	Rebuild  rebuildCmd       `cmd:"" name:"rebuild-catalog" help:"Make a catalog that was lost again of what is in the store."`
	Bench    benchGroup       `cmd:"" help:"Measure a server, or two of them by turns."`
	Version  kong.VersionFlag `help:"Print the version and exit."`
}

const description = `A storage server for ZODB that keeps the database in a bucket.

  s3storage serve                                  serve ./data on 127.0.0.1:8100
  s3storage serve --bucket s3://my-bucket/site     the same from Amazon S3
  s3storage info ./data                            what is in a database
  s3storage check --full ./data                    whether all of it can be read
  s3storage import Data.fs ./data                  the history of a FileStorage
  s3storage export ./data Data.fs                  and back
  s3storage pack --server 127.0.0.1:8100 --days 7  drop what is older than a week
  s3storage bench commit --clients 32              measure a server

A BUCKET is one of

  PATH or file://PATH      a local directory
  s3://BUCKET/PREFIX       Amazon S3 and what speaks its protocol. Credentials and
                           region come from where the AWS tools look for them, such
                           as AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION.
                           ?endpoint=URL&region=NAME&path-style=true may follow.
  mem://                   memory: gone when the server stops`

func main() {
	var c cli
	ctx := kong.Parse(&c,
		kong.Name("s3storage"),
		kong.Description(description),
		kong.ShortUsageOnError(),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.Vars{"version": version},
	)
	err := ctx.Run()
	var status exitStatus
	if errors.As(err, &status) {
		os.Exit(int(status))
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "s3storage: %v\n", err)
		os.Exit(1)
	}
}
