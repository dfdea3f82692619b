package zeo

import (
	"context"
	"errors"
	"math"
	"testing"

	"s3storage/internal/storagetest"
	"s3storage/internal/zodb"
)

func TestPackDropsAndTellsTheSize(t *testing.T) {
	eachEncoding(t, func(t *testing.T, s *testServer, enc Encoding) {
		p, other, reader := s.client(enc), s.client(enc), s.shake(enc)
		reader.want("register", "1", true)
		t1 := p.commit(0, zodb.NoTid, string(storagetest.Record("long before")))
		t2 := p.commit(0, t1, string(storagetest.Record("now")))
		wantValue(t, reader.want("pack", seconds(t2)+1, true), nil)
		size := int64(len(storagetest.Record("now")))
		for _, x := range []*peer{p, other} {
			for x.told = nil; len(x.told) == 0 || x.told[len(x.told)-1].Name != "info"; {
				x.told = append(x.told, x.message()) // by itself
			}
			wantValue(t, x.told[len(x.told)-1].Args, Tuple{Dict{{"length", int64(1)}, {"size", size}}})
		}
		p.wantError(classPOSKey, "loadSerial", zodb.Oid(0), t1)
		wantValue(t, p.want("undoLog", 0, -20), Tuple{})

		t3 := p.commit(0, t2, string(storagetest.Record("later")))
		wantValue(t, p.want("pack", int64(1)<<32, false), nil)
		eventually(t, "the pack is done", func() bool {
			_, err := s.storage.LoadSerial(t.Context(), 0, t2)
			return err != nil
		})
		wantValue(t, p.want("loadBefore", zodb.Oid(0), zodb.MaxTid).(Tuple)[1], t3.Bytes())
		for _, bad := range []any{math.NaN(), math.Inf(1), -1e300, 1e300} {
			p.wantError(classValue, "pack", bad, true)
		}
		p.wantError(classType, "pack", "now", true)
	})
}

// What persistent.TimeStamp of the Python package persistent 6.9 gives for
// TimeStamp(*time.gmtime(t)[:5] + (t % 60,)).
func TestThePackTimeIsReckonedAsPythonDoes(t *testing.T) {
	for at, want := range map[float64]zodb.Tid{
		0.0:                0x023c2b0000000000,
		1000000000.0:       0x033f2eeaaaaaaaaa,
		1795381466.0825624: 0x040d31d06f491d11,
		1795381467.4485865: 0x040d31d0751d2d11,
		951868799.999999:   0x0332b37fffffffbb,
		1732492800.5:       0x03fce4c002222222,
		4294967296.0:       0x0694a0a444444444,
		59.9999999:         0x023c2b00fffffff8,
		60.0:               0x023c2b0100000000,
		1795381466.0636792: 0x040d31d06f347cee,
		-86399.25:          0x023c256003333333,
	} {
		k := &call{name: "pack", args: Tuple{at}}
		if got, err := k.packTid(); err != nil || got != want {
			t.Errorf("%f: %s %v, want %s", at, got, err, want)
		}
	}
}

// packStorage packs when it is told to.
type packStorage struct {
	zodb.Storage
	begun, release chan struct{}
}

func (s packStorage) Pack(ctx context.Context, _ zodb.Tid) error {
	s.begun <- struct{}{}
	select {
	case <-s.release:
		return errors.New("the disk is full")
	case <-ctx.Done():
		return ctx.Err()
	}
}

func TestAPackBelongsToTheServer(t *testing.T) {
	storage := packStorage{newMemory(), make(chan struct{}), make(chan struct{})}
	s := serve(t, storage, Options{})
	p := s.client(Z5)
	id := p.ask("pack", 1e9, true)
	<-storage.begun
	p.want("lastTransaction") // it holds nobody up
	close(storage.release)
	_, err := p.answer(id)
	if own := new(Error); !errors.As(err, &own) || own.Class != classStorage {
		t.Errorf("%v", err)
	}
	s.logged.waitFor(t, "the disk is full")

	storage.release = make(chan struct{})
	s = serve(t, storage, Options{})
	p = s.client(Z5)
	p.ask("pack", 1e9, true)
	<-storage.begun
	p.nc.Close()
	s.logged.waitFor(t, "disconnected")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := s.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	s.logged.waitFor(t, "context canceled")
}
