package zeo

import (
	"testing"

	"s3storage/internal/zodb"
)

func TestSlowLoadIsNotRepeatedForCommitsOfOtherObjects(t *testing.T) {
	m := newMemory()
	loads := 0
	pause := func() {}
	s := serve(t, slowStorage{m, func() { loads++; pause() }}, Options{})
	reader, writer := s.client(Z5), s.client(Z5)
	writer.commit(1, zodb.NoTid, "wanted")
	other := writer.commit(2, zodb.NoTid, "other")
	pause = func() { other = writer.commit(2, other, "other") } // during every load
	reader.send(Z5.AppendLoadBefore(nil, 1, zodb.MaxTid))
	for {
		if r, ok := Z5.DecodeLoadBeforeReply(reader.frame()); ok {
			if string(r.Rev.Data) != "wanted" || r.Rev.Next != zodb.NoTid {
				t.Errorf("%+v", r)
			}
			break
		}
	}
	if loads != 1 {
		t.Errorf("the storage was asked %d times", loads)
	}
}
