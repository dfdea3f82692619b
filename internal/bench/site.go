package bench

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"s3storage/internal/filestorage"
	"s3storage/internal/zodb"
)

// A Site describes a database as a content management system fills it: objects
// with text, in folders, each with two revisions.
type Site struct {
	Objects int
	Garbage bool // folders forget one of twenty objects in the end
}

const (
	siteSeed      = 20
	folderObjects = 1000
	txnRecords    = 100
	siteSync      = 20000 // transactions
	siteTids      = 1 << 24
)

// A siteWriter writes a Site as a Data.fs. Its memory is that of the Writer's
// index.
type siteWriter struct {
	Site
	w       *filestorage.Writer
	tid     zodb.Tid
	open    int // records of the open transaction
	written int // transactions
	p       pickler
	words   []string
	zipf    []uint16 // words as often as they come
}

// Write writes the site into a new file. The same Site is the same file.
func (s Site) Write(ctx context.Context, name string) (err error) {
	w, err := filestorage.Create(name)
	if err != nil {
		return err
	}
	words := vocabulary()
	sw := &siteWriter{Site: s, w: w, tid: 0x03d0000000000000, words: words, zipf: frequencies(len(words))}
	err = sw.write(ctx)
	if closeErr := w.Close(); err == nil {
		err = closeErr
	}
	return err
}

func (s *siteWriter) folders() int { return (s.Objects + folderObjects - 1) / folderObjects }

// Oid 0 is the root, 1 the site, then come the folders, then the objects.
func (s *siteWriter) folder(i int) zodb.Oid { return zodb.Oid(2 + i) }
func (s *siteWriter) object(i int) zodb.Oid { return zodb.Oid(2 + s.folders() + i) }

func (s *siteWriter) write(ctx context.Context) error {
	s.mapping(func(p *pickler) { p.dict(1, func(int) { p.text("site"); p.reference(1) }) })
	if err := s.put(ctx, 0); err != nil {
		return err
	}
	s.mapping(func(p *pickler) {
		p.dict(s.folders(), func(i int) { p.text(fmt.Sprintf("folder-%d", i)); p.reference(s.folder(i)) })
	})
	if err := s.put(ctx, 1); err != nil {
		return err
	}
	for i := range s.Objects {
		if err := s.putObject(ctx, i, 0); err != nil {
			return err
		}
		if i%folderObjects == folderObjects-1 || i == s.Objects-1 {
			if err := s.putFolder(ctx, i/folderObjects, false); err != nil {
				return err
			}
		}
	}
	// In an order in which neighbours are far apart, as editors work.
	step := 7919
	for gcd(step, s.Objects) != 1 {
		step += 2
	}
	for i := range s.Objects {
		if err := s.putObject(ctx, i*step%s.Objects, 1); err != nil {
			return err
		}
	}
	if s.Garbage {
		for i := range s.folders() {
			if err := s.putFolder(ctx, i, true); err != nil {
				return err
			}
		}
	}
	if s.open > 0 {
		if err := s.w.End(); err != nil {
			return err
		}
	}
	return s.w.Sync()
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// put writes the record that was pickled last.
func (s *siteWriter) put(ctx context.Context, oid zodb.Oid) error {
	if s.open == 0 {
		s.tid += siteTids
		meta := zodb.TxnMeta{User: []byte("/site editor"), Description: []byte("/site/folder/edit"), Status: ' '}
		if err := s.w.Begin(s.tid, meta); err != nil {
			return err
		}
	}
	if err := s.w.Record(oid, s.p.buf, zodb.NoTid); err != nil {
		return err
	}
	if s.open++; s.open < txnRecords {
		return nil
	}
	s.open = 0
	if err := s.w.End(); err != nil {
		return err
	}
	if s.written++; s.written%siteSync == 0 {
		if err := s.w.Sync(); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func (s *siteWriter) putFolder(ctx context.Context, i int, forget bool) error {
	first, end := i*folderObjects, min((i+1)*folderObjects, s.Objects)
	var members []int
	for o := first; o < end; o++ {
		if !forget || o%20 != 7 {
			members = append(members, o)
		}
	}
	s.mapping(func(p *pickler) {
		p.dict(len(members), func(k int) { p.text(fmt.Sprintf("page-%d", members[k])); p.reference(s.object(members[k])) })
	})
	return s.put(ctx, s.folder(i))
}

// putObject writes a revision of an object; in the second one, a few words differ.
func (s *siteWriter) putObject(ctx context.Context, i, revision int) error {
	r := rand.New(rand.NewPCG(siteSeed, uint64(i)))
	title, description := s.prose(r, 20+r.IntN(30)), s.prose(r, 60+r.IntN(80))
	body := s.prose(r, 300+r.IntN(300))
	created := time.Date(2015, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(r.IntN(86400*3000)) * time.Second)
	modified := created
	owner := fmt.Sprintf("editor%d", r.IntN(50))
	if revision > 0 {
		for range 3 {
			if at := r.IntN(len(body)); strings.Contains(body[at:], " ") {
				at += strings.Index(body[at:], " ")
				body = body[:at+1] + s.word(r) + body[at:]
			}
		}
		modified = created.Add(time.Duration(r.IntN(86400*300)) * time.Second)
	}
	s.mapping(func(p *pickler) {
		p.dict(6, func(k int) {
			p.text([]string{"title", "description", "body", "created", "modified", "owner"}[k])
			switch k {
			case 0:
				p.text(title)
			case 1:
				p.text(description)
			case 2:
				p.text(body)
			case 3:
				p.date(created)
			case 4:
				p.date(modified)
			case 5:
				p.text(owner)
			}
		})
	})
	return s.put(ctx, s.object(i))
}

func (s *siteWriter) word(r *rand.Rand) string { return s.words[s.zipf[r.IntN(len(s.zipf))]] }

// prose returns about n bytes of words.
func (s *siteWriter) prose(r *rand.Rand, n int) string {
	var b strings.Builder
	for b.Len() < n {
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(s.word(r))
		if r.IntN(12) == 0 {
			b.WriteByte('.')
		}
	}
	return b.String()
}

const commonWords = "the of and to in a is that for it as was with be by on not he his but at are this have from or had an they " +
	"which one you were her all she there would their we him been has when who will more no if out so said what up its about " +
	"into than them can only other new some could time these two may then do first any my now such like our over man me even " +
	"most made after also did many before must through back years where much your way well down should because each just those " +
	"people how too little state good very make world still own see men work long get here between both life being under never"

// vocabulary returns words, the most frequent first.
func vocabulary() []string {
	words := strings.Fields(commonWords)
	r := rand.New(rand.NewPCG(siteSeed, 0))
	syllables := strings.Fields("con ter pro ment tion er in re al ly ing ed de com per sta lin mar ver tan por gra di su ca lo ne mi fa ro ti ve")
	for len(words) < 12000 {
		var w strings.Builder
		for range 2 + r.IntN(3) {
			w.WriteString(syllables[r.IntN(len(syllables))])
		}
		words = append(words, w.String())
	}
	return words
}

func frequencies(n int) []uint16 {
	z := rand.NewZipf(rand.New(rand.NewPCG(siteSeed, 1)), 1.07, 4, uint64(n-1))
	out := make([]uint16, 1<<18)
	for i := range out {
		out[i] = uint16(z.Uint64())
	}
	return out
}

// mapping pickles a PersistentMapping.
func (s *siteWriter) mapping(data func(*pickler)) {
	p := &s.p
	p.buf = append(p.buf[:0], "\x80\x03cpersistent.mapping\nPersistentMapping\nq\x00.\x80\x03"...)
	p.memo, p.dates = 1, 0
	p.dict(1, func(int) { p.text("data"); data(p) })
	p.buf = append(p.buf, '.')
}

// A pickler writes what Python's pickle does, protocol 3.
type pickler struct {
	buf   []byte
	memo  uint32 // what is remembered next; 0 is the class of the record
	dates uint32 // where the class of dates is remembered, or 0
}

func (p *pickler) put() {
	if p.memo < 256 {
		p.buf = append(p.buf, 'q', byte(p.memo))
	} else {
		p.buf = binary.LittleEndian.AppendUint32(append(p.buf, 'r'), p.memo)
	}
	p.memo++
}

// dict writes a dictionary; item writes a key and a value.
func (p *pickler) dict(n int, item func(i int)) {
	p.buf = append(p.buf, '}')
	p.put()
	if n == 1 {
		item(0)
		p.buf = append(p.buf, 's')
		return
	}
	for from := 0; from < n; from += 1000 {
		p.buf = append(p.buf, '(')
		for i := from; i < min(from+1000, n); i++ {
			item(i)
		}
		p.buf = append(p.buf, 'u')
	}
}

func (p *pickler) text(s string) {
	p.buf = binary.LittleEndian.AppendUint32(append(p.buf, 'X'), uint32(len(s)))
	p.buf = append(p.buf, s...)
	p.put()
}

// reference writes a reference to another PersistentMapping.
func (p *pickler) reference(oid zodb.Oid) {
	p.buf = binary.BigEndian.AppendUint64(append(p.buf, 'C', 8), uint64(oid))
	p.put()
	p.buf = append(p.buf, "h\x00\x86"...)
	p.put()
	p.buf = append(p.buf, 'Q')
}

func (p *pickler) date(t time.Time) {
	if p.dates == 0 {
		p.buf = append(p.buf, "cdatetime\ndatetime\n"...)
		p.dates = p.memo
		p.put()
	} else {
		p.buf = append(p.buf, 'h', byte(p.dates))
	}
	p.buf = append(p.buf, 'C', 10, byte(t.Year()>>8), byte(t.Year()), byte(t.Month()), byte(t.Day()),
		byte(t.Hour()), byte(t.Minute()), byte(t.Second()), 0, 0, 0)
	p.put()
	p.buf = append(p.buf, '\x85')
	p.put()
	p.buf = append(p.buf, 'R')
	p.put()
}
