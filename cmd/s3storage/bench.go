package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"s3storage/internal/bench"
)

// benchCmd measures a ZEO server, any ZEO 5 server, from the outside.
type benchCmd struct {
	Workload string `arg:"" enum:"fill,commit,load,mixed,upload,download" default:"commit" help:"What the clients do: fill writes new objects; commit writes each client's own objects over and over; load reads random objects; mixed loads some objects and then commits, as a request does that writes; upload commits new blobs; download reads one."`

	Address string `default:"127.0.0.1:8100" placeholder:"HOST:PORT" help:"The server to measure: host:port, or the path of a socket. Default: ${default}."`
	Storage string `default:"1" help:"Name of the storage there. Default: ${default}."`
	VS      string `name:"vs" placeholder:"HOST:PORT" help:"A second server, to be measured by turns with the first. The answer is the ratio of the two, in short rounds, so that noise on the machine hits both alike."`

	Clients     int  `short:"c" default:"1" help:"Connections that work at the same time. Default: ${default}."`
	Pipeline    int  `default:"1" help:"load, mixed: loads under way at once on each connection. Default: ${default}."`
	Objects     int  `short:"n" default:"3" help:"Objects in a transaction. Default: ${default}."`
	Size        int  `default:"1000" help:"Bytes of an object, or of a blob. Default: ${default}."`
	Reads       int  `default:"10" help:"mixed: loads before each commit. Default: ${default}."`
	WorkingSet  int  `default:"1000" help:"Objects to load from, or that the commits of all clients go round. Default: ${default}."`
	Conflicting bool `help:"commit, mixed: one object of each transaction is the same for all clients, so that they conflict and have to try again."`
	Writers     int  `help:"load: so many other clients change what is loaded at the same time, store blobs and undo."`
	Undone      int  `help:"load, mixed: how often what is loaded was changed, undone and done again before."`
	Existing    bool `help:"load: read the first objects of the database, instead of some written for the purpose. Writes nothing."`

	Duration     time.Duration `short:"d" default:"10s" help:"How long to measure each server. Default: ${default}."`
	Transactions int64         `help:"Stop after so many commits, or loads, if that is earlier."`
	Warmup       time.Duration `default:"1s" help:"Work that is done first and not counted. Default: ${default}."`
	Slice        time.Duration `default:"2s" help:"With --vs: how long a server's turn takes. Default: ${default}."`
	JSON         bool          `name:"json" help:"Print JSON."`
}

// Help shows what the command is for.
func (c *benchCmd) Help() string {
	return `The server can be any that speaks ZEO 5, ZEO's own among them. All but
"load --existing" write to the database; what they write hangs from nothing, and
the next pack that collects garbage removes it.

How many transactions of three objects does one client get committed in a
second, and how many do 32?

    s3storage bench commit --address 127.0.0.1:8100
    s3storage bench commit --address 127.0.0.1:8100 --clients 32

How fast are objects read by a client that asks for 64 at a time?

    s3storage bench load --pipeline 64

Is this server faster than ZEO's own? Start both, then

    runzeo -a 127.0.0.1:8200 -f Data.fs
    s3storage bench commit --clients 32 --address 127.0.0.1:8100 --vs 127.0.0.1:8200

The same while others write, and how fast are blobs of 100 MB stored?

    s3storage bench load --pipeline 64 --writers 8 --undone 3
    s3storage bench upload --size 100000000

Read the database that is there, and change nothing:

    s3storage bench load --existing --clients 8

For scripts:

    s3storage bench mixed --clients 8 --json | jq .server.figures.commits.p99_ms

Ctrl-C ends the benchmark early and prints what there is.
`
}

// Run measures and prints.
func (c *benchCmd) Run() error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	report, err := bench.Measure(ctx, bench.Plan{
		Address: c.Address,
		Versus:  c.VS,
		Options: bench.Options{
			Workload:    bench.Workload(c.Workload),
			Storage:     c.Storage,
			Clients:     c.Clients,
			Pipeline:    c.Pipeline,
			Objects:     c.Objects,
			Reads:       c.Reads,
			Size:        c.Size,
			WorkingSet:  c.WorkingSet,
			Conflicting: c.Conflicting,
			Existing:    c.Existing,
			Writers:     c.Writers,
			Undone:      c.Undone,
		},
		Duration: c.Duration,
		Count:    c.Transactions,
		Warmup:   c.Warmup,
		Slice:    c.Slice,
	})
	if report == nil {
		return err
	}
	if c.JSON {
		text, jsonErr := json.MarshalIndent(report, "", "  ")
		if jsonErr != nil {
			return errors.Join(err, jsonErr)
		}
		fmt.Println(string(text))
		return err
	}
	return errors.Join(err, report.WriteText(os.Stdout))
}
