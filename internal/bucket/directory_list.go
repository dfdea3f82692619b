package bucket

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
)

// List implements Bucket. It reads one directory after another, so objects
// that are written meanwhile may or may not be shown.
func (d *Directory) List(ctx context.Context, prefix, after string, fn func(Info) error) error {
	base := prefix[:strings.LastIndexByte(prefix, '/')+1]
	if base != "" && CheckName(base[:len(base)-1]) != nil {
		base, prefix = "", "/" // no object's name begins so, and no directory may be left
	}
	l := listing{d: d, ctx: ctx, prefix: prefix, after: after, fn: fn}
	err := l.walk(base)
	if err != nil && !l.stopped {
		return NewError(d, KindList, "", err)
	}
	return err
}

type listing struct {
	d             *Directory
	ctx           context.Context
	prefix, after string
	fn            func(Info) error
	stopped       bool // fn returned an error
}

// walk lists the directory dir, which is "" or ends with a slash, and those
// below it. The names below a directory all begin with its own and a slash:
// sorting its entries by names so completed gives the byte order of full
// names, in which "a-b" and "a.b" come before "a/b", and "a0" after.
func (l *listing) walk(dir string) error {
	entries, err := l.read(dir)
	if err != nil {
		return err
	}
	settled := false
	for _, e := range entries {
		if err := l.ctx.Err(); err != nil {
			return err
		}
		if strings.HasSuffix(e.key, "/") {
			if err := l.walk(e.key); err != nil {
				return err
			}
			continue
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return l.d.refusal(err)
		}
		if !settled && unsettled(info) {
			if err := l.d.settle(path.Clean(dir)); err != nil {
				return err
			}
			settled = true
		}
		if err := l.fn(Info{Name: e.key, Size: info.Size()}); err != nil {
			l.stopped = true
			return err
		}
	}
	return l.ctx.Err()
}

type listed struct {
	fs.DirEntry
	key string // full name; ends with a slash if a directory
}

// read returns those entries of a directory that are asked for, or lie on the
// way there, in order. What has no name for an object is none.
func (l *listing) read(dir string) ([]listed, error) {
	if err := l.ctx.Err(); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(l.d.file(dir), os.O_RDONLY|syscall.O_DIRECTORY, 0)
	if err != nil {
		if err := l.d.absence(err); !errors.Is(err, ErrNotExist) {
			return nil, err
		}
		return nil, nil
	}
	defer f.Close()
	all, err := f.ReadDir(-1)
	if err != nil {
		return nil, l.d.refusal(err)
	}
	var entries []listed
	for _, e := range all {
		key := dir + e.Name()
		if CheckName(key) != nil {
			continue
		}
		switch {
		case e.Type().IsRegular():
			if key > l.after && strings.HasPrefix(key, l.prefix) {
				entries = append(entries, listed{e, key})
			}
		case e.IsDir():
			key += "/"
			if (key > l.after || strings.HasPrefix(l.after, key)) &&
				(strings.HasPrefix(key, l.prefix) || strings.HasPrefix(l.prefix, key)) {
				entries = append(entries, listed{e, key})
			}
		}
	}
	slices.SortFunc(entries, func(a, b listed) int { return strings.Compare(a.key, b.key) })
	return entries, nil
}
