package engine

import (
	"sync"
	"time"

	"s3storage/internal/bucket"
	"s3storage/internal/cache"
)

// A Stage is a part of the time that a commit takes.
type Stage int

// The stages, in the order in which a transaction comes by them. One that this node
// passes on to the leader has the last two only.
const (
	StageRoom         Stage = iota // a vote waits until what was committed is written out as segments, see MaxUnflushed
	StageBlobs                     // a vote waits until the blobs of its transaction stand
	StageLocks                     // a vote waits for other transactions
	StageJudge                     // the vote is taken: the bucket is read for what is not in memory, the data of large ones written
	StageClient                    // the client has the answer to its vote, and has not finished yet
	StageQueue                     // the transaction waits to be put into the log
	StagePut                       // it is put, and those before it
	StageApply                     // it is made visible and announced
	StageLeaderVote                // another node, which leads, takes the vote
	StageLeaderFinish              // the leader commits, and this node learns of it from the log
	NumStages
)

var stageNames = [NumStages]string{"room", "blobs", "locks", "judge", "client", "queue", "put", "apply", "leader-vote", "leader-finish"}

func (s Stage) String() string { return stageNames[s] }

// A StageTime tells how long one stage took.
type StageTime struct {
	Time    time.Duration // total
	Latency bucket.Histogram
}

// Work tells what an engine has done and has to do, for those who run it.
type Work struct {
	Stages    [NumStages]StageTime // by Stage
	Finishing int                  // transactions that were finished and are not in the log yet

	Unflushed    int64 // bytes of the log that are not in segments yet
	MaxUnflushed int64 // up to which votes do not wait for that

	Memory, Disk cache.Stats
}

// Work returns the numbers of this moment.
func (e *Engine) Work() Work {
	w := Work{Stages: e.stages.read(), MaxUnflushed: int64(e.opts.MaxUnflushed), Memory: e.cache.Stats(), Disk: e.disk.Stats()}
	e.seq.Lock()
	w.Finishing = len(e.seq.finishing)
	e.seq.Unlock()
	e.state.RLock()
	w.Unflushed = e.heldLocked()
	e.state.RUnlock()
	return w
}

// Took counts what a stage took. It waits for nothing.
func (e *Engine) Took(s Stage, d time.Duration) { e.stages.add(s, d) }

// stages is how long each stage took.
type stages struct {
	mu struct {
		sync.Mutex
		all [NumStages]StageTime
	}
}

func (s *stages) add(stage Stage, d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := &s.mu.all[stage]
	t.Time += d
	t.Latency.Add(d)
}

func (s *stages) read() [NumStages]StageTime {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.all
}
