package txlog

import (
	"flag"
	"fmt"
	"hash/maphash"
	"math/bits"
	"slices"
	"strings"
	"testing"
)

// A model of the log's protocol (doc/design.md, section 4, "Checkpoints" and "Opening
// and taking over"), small enough that everything that can happen in it is tried. It is
// independent of the code: it says what the rules are; the simulation in sim_test.go
// shows that the code keeps them.
//
// The first of three processes leads, the others may want to; one that has lost the lead
// may want it back. Names in the bucket are (epoch, slot). An object of the log is one
// transaction that also has the log adopt a base of everything before it, so that any
// object that stands can become a checkpoint. What a process has put may land at any
// time later, also when that process leads no more, and again where the name was deleted
// meanwhile; the answer may come late or never. Any checkpoint that stands may be what
// the hint names, or none.
//
// A process that does nothing any more is one that has crashed, and one that has not
// begun yet is one that is started again. Deleting is not bound to a process: whatever a
// checkpoint that stands has made needless may be deleted at any time, in any order. That
// is more than the code does, which deletes only what the process itself has learnt of.
//
// The loss: a process leads, and has not seen a transaction that was acknowledged in an
// epoch before its own; or any has seen one that was reported as failed. It is judged in every state, so also where the acknowledgement
// comes after it began to lead.
type model struct {
	rules rules
	slots int
}

// rules are broken to see that the model finds what they are for.
type rules struct {
	deletesSeals     bool // I4
	noSecondLook     bool // I4
	deletesAdopted   bool // what the log has adopted a base for, before a checkpoint says so
	acknowledgesGaps bool // not only the contiguous run
	trustsPuts       bool // an unknown outcome counts as success
	takenIsSuccess   bool // whatever stands where it has put something counts as that
	failsUnlooked    bool // see TestModelMayReportAsFailedWhatIsInTheLog
	keepsCheckpoint  bool // who wants to lead again begins the second look at any checkpoint that it has heard of
}

const (
	modelNodes       = 3
	modelEpochs      = 3 // process 0 leads the first
	modelCheckpoints = 2
	modelAhead       = 2  // puts under way at a time
	modelAttempts    = 3  // to lead; the first one has succeeded
	maxNames         = 16 // that fit into a nameSet
)

type nameSet uint16 // bit n: the name n

func (s nameSet) has(n int) bool { return s>>n&1 != 0 }

// What stands under a name: nothing, a transaction of the epoch's leader, or the seal of
// one attempt to lead.
const (
	free = 0
	txn  = 1
	seal = 2 // and the attempt
)

type phase uint8

const (
	idle    phase = iota
	walking       // and sealing where the walk ends
	looking       // for a newer checkpoint, its seal having been met
	leading
	deposed // it knows, and what it knows stays true
)

// A process. Its attempts to lead are numbered over all processes.
type process struct {
	phase   phase
	attempt uint8
	at      uint8   // the name that it reads or writes next; a leader: that is not acknowledged yet
	next    uint8   // a leader: the name that it puts next
	learnt  nameSet // a leader: successes beyond at
	applied nameSet // transactions that it has seen, in the log or in a base
	known   uint8   // checkpoint: what lies before it was read from it; a leader: the newest that it knows
}

// A modelState has no pointers: it is compared and hashed as it is.
type modelState struct {
	stands   [maxNames]uint8
	puts     nameSet                   // transactions that were put
	landed   nameSet                   // of these, that have stood at some time
	seals    [modelAttempts]nameSet    // that each attempt has put
	bases    [maxNames]nameSet         // what the base accounts for that a transaction has adopted
	stand    [modelCheckpoints]int8    // checkpoints: the name that each says, or -1
	under    [modelCheckpoints]nameSet // puts of checkpoints
	nodes    [modelNodes]process
	attempts uint8
	acked    nameSet
	failed   nameSet // transactions that clients were told were not committed
}

func (m *model) name(epoch, slot int) int { return epoch*m.slots + slot }
func (m *model) epoch(name uint8) int     { return int(name) / m.slots }

// after returns the next name of the same epoch, if there is one in the model.
func (m *model) after(name uint8) (uint8, bool) {
	return name + 1, int(name+1)/m.slots == m.epoch(name)
}

// newest returns the number of the newest checkpoint that stands. Those before it do,
// too: they are put in order and never deleted.
func (s *modelState) newest() uint8 {
	n := uint8(0)
	for int(n) < modelCheckpoints && s.stand[n] >= 0 {
		n++
	}
	return n
}

// begin has a process read the log from a checkpoint on; 0 is none.
func (s *modelState) begin(p *process, checkpoint uint8) {
	p.phase, p.known, p.at, p.applied = walking, checkpoint, 0, 0
	if checkpoint > 0 {
		p.at = uint8(s.stand[checkpoint-1])
		p.applied = s.bases[p.at]
	}
}

// loss tells what is wrong in a state.
func (m *model) loss(s *modelState) string {
	for i := range s.nodes {
		p := &s.nodes[i]
		if both := s.failed & p.applied; both != 0 {
			return fmt.Sprintf("process %d has read %s, which was reported as failed", i, m.show(uint8(bits.TrailingZeros16(uint16(both)))))
		}
		if p.phase != leading {
			continue
		}
		before := nameSet(1)<<m.name(m.epoch(p.at), 0) - 1
		if lost := s.acked & before &^ p.applied; lost != 0 {
			return fmt.Sprintf("process %d leads epoch %d without the acknowledged transaction %s", i, m.epoch(p.at), m.show(uint8(bits.TrailingZeros16(uint16(lost)))))
		}
		for j := range s.nodes[:i] {
			if q := &s.nodes[j]; q.phase == leading && m.epoch(q.at) == m.epoch(p.at) {
				return fmt.Sprintf("processes %d and %d both lead epoch %d", j, i, m.epoch(p.at))
			}
		}
	}
	return ""
}

func (m *model) show(name uint8) string {
	return fmt.Sprintf("%d/%d", m.epoch(name), int(name)%m.slots)
}

// next calls yield with every state that can follow, and what has happened.
func (m *model) next(s *modelState, yield func(modelState, func() string)) {
	for i := range s.nodes {
		m.process(s, i, yield)
	}
	m.bucket(s, yield)
}

// process is what a process may do.
func (m *model) process(s *modelState, i int, yield func(modelState, func() string)) {
	to := *s
	p := &to.nodes[i]
	do := func(format string, args ...any) {
		yield(to, func() string { return fmt.Sprintf("process %d "+format, append([]any{i}, args...)...) })
		to = *s
	}
	if p.phase == idle || p.phase == deposed {
		// All processes are alike: the first ones begin in order.
		if int(s.attempts) < len(s.seals) && (i == 0 || s.nodes[i-1] != process{} || s.nodes[i] != process{}) {
			to.attempts++
			if p.phase == deposed { // it goes on from where it is
				p.phase, p.attempt, p.learnt, p.next = walking, s.attempts, 0, 0
				if p.known > 0 && s.stand[p.known-1] > int8(p.at) && !m.rules.keepsCheckpoint {
					p.known = 0 // where it is may have been deleted below that
				}
				do("wants to lead again, from %s", m.show(p.at))
			} else {
				for hint := range s.newest() + 1 {
					to.attempts = s.attempts + 1
					p.attempt = s.attempts
					to.begin(p, hint)
					do("opens the log from checkpoint %d, %s", hint, m.show(p.at))
				}
			}
			to = *s
		}
	}
	if p.phase == leading || p.phase == deposed {
		if p.known < s.newest() {
			p.known++
			do("reads checkpoint %d", p.known)
		}
		m.checkpoint(s, &to, p, do)
	}
	switch p.phase {
	case walking:
		m.walk(s, &to, p, do)
	case looking:
		newest := s.newest()
		if newest > p.known && !p.applied.has(int(s.stand[newest-1])) && !m.rules.noSecondLook {
			to.begin(p, newest)
			do("sees checkpoint %d, and begins anew from %s", newest, m.show(p.at))
		} else {
			p.phase, p.next, p.learnt = leading, p.at, 0
			do("leads epoch %d", m.epoch(p.at))
		}
	case leading:
		m.lead(s, &to, p, do)
	}
}

// walk reads the next object. At a free slot it puts its seal there or, in case that a
// leader is faster, further on.
func (m *model) walk(s, to *modelState, p *process, do func(string, ...any)) {
	at := p.at
	switch what := s.stands[at]; {
	case what == txn:
		next, ok := m.after(at)
		if !ok {
			return
		}
		p.applied |= 1 << at
		p.at = next
		do("reads %s", m.show(at))
	case what >= seal:
		if m.epoch(at)+1 == modelEpochs || int(at)%m.slots+1 == m.slots {
			return
		}
		p.at += uint8(m.slots) + 1
		if what-seal == p.attempt {
			p.phase = looking
		}
		do("reads the seal %s", m.show(at))
	default:
		for _, further := range []uint8{0, 1} {
			n := at + further
			if int(n)/m.slots != m.epoch(at) || s.seals[p.attempt].has(int(n)) {
				continue
			}
			to.seals[p.attempt] |= 1 << n
			do("puts its seal at %s", m.show(n))
		}
	}
}

// lead puts transactions and learns what became of them.
func (m *model) lead(s, to *modelState, p *process, do func(string, ...any)) {
	if int(p.next)/m.slots == m.epoch(p.at) && p.next-p.at < modelAhead {
		to.puts |= 1 << p.next
		to.bases[p.next] = p.applied
		for n := p.at; n < p.next; n++ {
			to.bases[p.next] |= 1 << n
		}
		p.next++
		do("puts %s", m.show(p.next-1))
	}
	// That it learns in another order makes no difference, if it acknowledges in order.
	for n := p.at; n < p.next; n++ {
		if p.learnt.has(int(n)) || n > p.at && !m.rules.acknowledgesGaps {
			continue
		}
		taken := s.stands[n] >= seal
		if s.landed.has(int(n)) || m.rules.trustsPuts || m.rules.takenIsSuccess && taken {
			p.learnt |= 1 << n
			if m.rules.acknowledgesGaps {
				to.acked |= 1 << n
			}
			for p.at < p.next && p.learnt.has(int(p.at)) {
				p.applied |= 1 << p.at
				to.acked |= 1 << p.at
				p.learnt &^= 1 << p.at
				p.at++
			}
			if int(p.at)/m.slots != m.epoch(n) { // there are no more names: it stops
				p.phase, p.at = deposed, n
			}
			do("learns that %s stands", m.show(n))
		}
		if taken { // also where its own has stood before, and the answer was lost
			p.phase = deposed
			if c := s.newest(); m.rules.failsUnlooked || c == 0 || uint8(s.stand[c-1]) <= n {
				for f := n; f < p.next; f++ {
					to.failed |= 1 << f
				}
			}
			do("learns that the seal of another stands at %s", m.show(n))
		}
	}
}

// checkpoint puts the next checkpoint, of the newest transaction that is known to be
// part of the log, if it is of a later one than the checkpoint before.
func (m *model) checkpoint(s, to *modelState, p *process, do func(string, ...any)) {
	if int(p.known) == modelCheckpoints || s.stand[p.known] >= 0 || p.applied == 0 {
		return
	}
	newest := bits.Len16(uint16(p.applied)) - 1
	if p.known > 0 && newest <= int(s.stand[p.known-1]) || s.under[p.known].has(newest) {
		return
	}
	to.under[p.known] |= 1 << newest
	do("puts checkpoint %d, of %s", p.known+1, m.show(uint8(newest)))
}

// bucket is what may happen to puts under way, and deletions.
func (m *model) bucket(s *modelState, yield func(modelState, func() string)) {
	to := *s
	do := func(format string, name int, more ...any) {
		yield(to, func() string { return fmt.Sprintf(format, append([]any{m.show(uint8(name))}, more...)...) })
		to = *s
	}
	var gone nameSet     // transactions that may be deleted
	position := int8(-1) // before which a checkpoint has everything
	for c, n := range s.stand {
		if n >= 0 {
			gone |= s.bases[n]
			position = max(position, n)
			continue
		}
		if c > 0 && s.stand[c-1] < 0 {
			continue
		}
		for under := s.under[c]; under != 0; under &= under - 1 {
			n := bits.TrailingZeros16(uint16(under))
			to.stand[c] = int8(n)
			do("of %s: checkpoint %d lands", n, c+1)
		}
	}
	if m.rules.deletesAdopted && s.acked != 0 {
		gone |= s.bases[bits.Len16(uint16(s.acked))-1]
	}
	for n := range modelEpochs * m.slots {
		switch {
		case s.stands[n] == free:
			if s.puts.has(n) {
				to.stands[n] = txn
				to.landed |= 1 << n
				do("%s lands", n)
			}
			for a := range s.attempts {
				if s.seals[a].has(n) {
					to.stands[n] = seal + a
					do("%s: the seal of attempt %d lands", n, a)
				}
			}
		case s.stands[n] == txn && gone.has(n):
			to.stands[n] = free
			do("%s is deleted", n)
		case s.stands[n] >= seal && m.rules.deletesSeals && n < int(position):
			to.stands[n] = free
			do("%s, a seal, is deleted", n)
		}
	}
}

// explore tries everything, the shortest ways first. It returns the first way to a
// loss, or none, and how many states there were. Two states count as one if they have
// the same 64-bit hash.
func (m *model) explore(most int) (way []string, states int) {
	seed := maphash.MakeSeed()
	first := modelState{}
	for c := range first.stand {
		first.stand[c] = -1
	}
	first.attempts, first.nodes[0].phase = 1, leading
	hash := func(s modelState) uint64 { return maphash.Comparable(seed, s) }
	from := map[uint64]uint64{hash(first): 0} // of each state, the one before
	loss, at := "", uint64(0)
	var following []modelState
	for front := []modelState{first}; len(front) > 0 && loss == "" && len(from) <= most; front, following = following, front[:0] {
		for i := range front {
			before := hash(front[i])
			m.next(&front[i], func(s modelState, _ func() string) {
				h := hash(s)
				if _, ok := from[h]; ok || loss != "" {
					return
				}
				from[h] = before
				following = append(following, s)
				loss, at = m.loss(&s), h
			})
			if loss != "" {
				break
			}
		}
	}
	if loss == "" {
		return nil, len(from)
	}
	var hashes []uint64
	for ; at != hash(first); at = from[at] {
		hashes = append(hashes, at)
	}
	state := first
	for _, want := range slices.Backward(hashes) {
		found := false
		m.next(&state, func(s modelState, what func() string) {
			if !found && hash(s) == want {
				found, following = true, append(following[:0], s)
				way = append(way, what())
			}
		})
		state = following[0]
	}
	return append(way, loss), len(from)
}

var modelSlotsFlag = flag.Int("model.slots", 3, "how many slots each epoch has in the model of the log, up to 5")

func modelSlots(t *testing.T) int {
	if n := *modelSlotsFlag; n > 0 && n*modelEpochs <= maxNames {
		return n
	}
	t.Fatalf("-model.slots is from 1 to %d", maxNames/modelEpochs)
	return 0
}

func TestModelLosesNothing(t *testing.T) {
	m := &model{slots: modelSlots(t)}
	way, states := m.explore(200_000_000)
	t.Logf("%d states", states)
	if way != nil {
		t.Errorf("a loss:\n%s", strings.Join(way, "\n"))
	}
}

// The model knows no grace period: what a checkpoint has made needless goes at once, and
// seals come at any time. So a leader that slept until what it had put, and not heard
// of, was read and deleted by the next one may find a stale seal in its place, and take
// the transaction for failed. A look for a newer checkpoint would tell; the code does
// without, for it deletes nothing before a quarter of an hour is over, and by then the
// client is gone.
func TestModelMayReportAsFailedWhatIsInTheLog(t *testing.T) {
	m := &model{rules: rules{failsUnlooked: true}, slots: modelSlots(t)}
	way, states := m.explore(200_000_000)
	t.Logf("%d states:\n%s", states, strings.Join(way, "\n"))
	if way == nil {
		t.Error("it was not found: the limit in doc/testing.md and this test can go")
	}
}

func TestModelFindsWhatEachRuleIsFor(t *testing.T) {
	for name, broken := range map[string]rules{
		"seals are deleted":               {deletesSeals: true},
		"no second look":                  {noSecondLook: true},
		"deleted before a checkpoint":     {deletesAdopted: true},
		"gaps are acknowledged":           {acknowledgesGaps: true},
		"an unknown outcome is a success": {trustsPuts: true},
		"412 is a success":                {takenIsSuccess: true},
		"a checkpoint beyond":             {keepsCheckpoint: true},
	} {
		t.Run(name, func(t *testing.T) {
			m := &model{rules: broken, slots: modelSlots(t)}
			way, states := m.explore(200_000_000)
			t.Logf("%d states:\n%s", states, strings.Join(way, "\n"))
			if way == nil {
				t.Error("no loss was found")
			}
		})
	}
}
