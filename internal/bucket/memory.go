package bucket

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"
)

// Memory is a bucket in memory, for tests and trials.
type Memory struct {
	mu struct {
		sync.RWMutex
		objects map[string][]byte // the slices are never written to
	}
}

// NewMemory returns an empty bucket.
func NewMemory() *Memory {
	m := &Memory{}
	m.mu.objects = map[string][]byte{}
	return m
}

var _ Bucket = (*Memory)(nil)

// Properties implements Bucket.
func (m *Memory) Properties() Properties {
	return Properties{Location: "memory:", Durable: false}
}

// PutIfAbsent implements Bucket.
func (m *Memory) PutIfAbsent(ctx context.Context, name string, data []byte) error {
	if err := begin(ctx, name); err != nil {
		return NewError(m, KindPutIfAbsent, name, err)
	}
	data = append([]byte{}, data...)
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.mu.objects[name]; ok {
		return NewError(m, KindPutIfAbsent, name, ErrExist)
	}
	m.mu.objects[name] = data
	return nil
}

// Put implements Bucket.
func (m *Memory) Put(ctx context.Context, name string, data []byte) error {
	if err := begin(ctx, name); err != nil {
		return NewError(m, KindPut, name, err)
	}
	data = append([]byte{}, data...)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mu.objects[name] = data
	return nil
}

// PutStream implements Bucket.
func (m *Memory) PutStream(ctx context.Context, name string, r io.Reader) error {
	err := begin(ctx, name)
	if err == nil {
		var data []byte
		if data, err = io.ReadAll(&source{ctx: ctx, r: r}); err == nil {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.mu.objects[name] = data
			return nil
		}
	}
	return NewError(m, KindPutStream, name, err)
}

func (m *Memory) get(ctx context.Context, name string) ([]byte, error) {
	if err := begin(ctx, name); err != nil {
		return nil, err
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	data, ok := m.mu.objects[name]
	if !ok {
		return nil, ErrNotExist
	}
	return data, nil
}

// Get implements Bucket.
func (m *Memory) Get(ctx context.Context, name string, limit int64) ([]byte, error) {
	data, err := m.get(ctx, name)
	if err == nil && int64(len(data)) > limit {
		err = tooLarge(int64(len(data)), limit)
	}
	if err != nil {
		return nil, NewError(m, KindGet, name, err)
	}
	return bytes.Clone(data), nil
}

// GetRange implements Bucket.
func (m *Memory) GetRange(ctx context.Context, name string, offset, n int64) ([]byte, error) {
	if err := CheckRange(offset, n); err != nil {
		return nil, NewError(m, KindGetRange, name, err)
	}
	data, err := m.get(ctx, name)
	if err != nil {
		return nil, NewError(m, KindGetRange, name, err)
	}
	data = data[min(offset, int64(len(data))):]
	return bytes.Clone(data[:min(n, int64(len(data)))]), nil
}

// List implements Bucket. It shows the objects of the moment it was called.
func (m *Memory) List(ctx context.Context, prefix, after string, fn func(Info) error) error {
	var found []Info
	m.mu.RLock()
	for name, data := range m.mu.objects {
		if strings.HasPrefix(name, prefix) && name > after {
			found = append(found, Info{Name: name, Size: int64(len(data))})
		}
	}
	m.mu.RUnlock()
	slices.SortFunc(found, func(a, b Info) int { return strings.Compare(a.Name, b.Name) })
	for _, info := range found {
		if err := ctx.Err(); err != nil {
			return NewError(m, KindList, "", err)
		}
		if err := fn(info); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return NewError(m, KindList, "", err)
	}
	return nil
}

// Delete implements Bucket.
func (m *Memory) Delete(ctx context.Context, name string) error {
	if err := begin(ctx, name); err != nil {
		return NewError(m, KindDelete, name, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.mu.objects, name)
	return nil
}

// Now implements Bucket.
func (m *Memory) Now(ctx context.Context) (time.Time, error) {
	if err := ctx.Err(); err != nil {
		return time.Time{}, NewError(m, KindNow, "", err)
	}
	return time.Now(), nil
}

// CleanUp implements Bucket. There is never anything to remove.
func (m *Memory) CleanUp(ctx context.Context, _ time.Duration) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, NewError(m, KindCleanUp, "", err)
	}
	return 0, nil
}

// begin is what every operation on one object asks first.
func begin(ctx context.Context, name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	return ctx.Err()
}

func tooLarge(size, limit int64) error {
	return fmt.Errorf("%w: %d bytes, limit %d", ErrTooLarge, size, limit)
}
