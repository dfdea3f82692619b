package lease

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/bradfitz/gomemcache/memcache"

	"s3storage/internal/zodb"
)

// inMemcached is an item of a memcached server that expires. Its value is a
// record, as in a bucket. The holder writes it again every third of the
// timeout, by compare-and-swap.
//
// memcached expires items on whole seconds of a clock of its own: an item that
// is to live for n seconds lives between n-1 and n. So n is the timeout rounded
// up, and one more.
//
// When the server is down, the holder goes on, and nobody takes the lease. When
// it was flushed or restarted, or has dropped the item to have room, whoever
// comes first adds it again, the holder or a candidate.
type inMemcached struct {
	Options
	server string // of those of the location, the one for this database
	key    string
	client *memcache.Client
	held   *record
}

const (
	memcachedScheme = "memcached://"
	memcachedPort   = "11211" // where a location names none
)

func newInMemcached(location string, o Options) (*keeper, error) {
	var servers []string
	for server := range strings.SplitSeq(strings.TrimSuffix(strings.TrimPrefix(location, memcachedScheme), "/"), ",") {
		host, port, err := net.SplitHostPort(server)
		if err != nil {
			host, port = strings.Trim(server, "[]"), memcachedPort
		}
		if host == "" || port == "" || strings.ContainsAny(host, "/@ ") {
			return nil, fmt.Errorf("open the lease: %w; one in memcached has the form memcached://host:port,host:port", ErrLocation)
		}
		servers = append(servers, net.JoinHostPort(host, port))
	}
	slices.Sort(servers) // so that their order is the same for all nodes
	hash := fnv.New32a()
	_, _ = hash.Write(o.Database[:])
	server := servers[hash.Sum32()%uint32(len(servers))]

	client := memcache.NewFromSelector(address(server))
	client.Timeout = o.Timeout / 5
	return &keeper{
		Options: o,
		granter: &inMemcached{Options: o, server: server, key: fmt.Sprintf("s3storage-lease-%x", o.Database), client: client},
		poll:    func() time.Duration { return o.Timeout / 10 },
		look:    o.Timeout / 3,
	}, nil
}

// An address is the one server that a client speaks to. Its name is looked up
// anew for each connection.
type address string

func (a address) Network() string                     { return "tcp" }
func (a address) String() string                      { return string(a) }
func (a address) PickServer(string) (net.Addr, error) { return a, nil }
func (a address) Each(f func(net.Addr) error) error   { return f(a) }

func (l *inMemcached) String() string {
	return fmt.Sprintf("item %s in memcached at %s", l.key, l.server)
}

// read returns what stands, decoded if that is possible. Both are nil if there
// is nothing.
func (l *inMemcached) read() (*memcache.Item, *record, error) {
	item, err := l.client.Get(l.key)
	if errors.Is(err, memcache.ErrCacheMiss) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	r, err := decodeRecord(item.Value)
	if errors.Is(err, zodb.ErrNewerFormat) {
		return nil, nil, err
	}
	if err != nil || r.Database != l.Database {
		r = &record{} // written by nobody who keeps to the rules
	}
	return item, r, nil
}

func (l *inMemcached) life() int32 { return int32((l.Timeout+time.Second-1)/time.Second) + 1 }

// write writes r, for so many seconds, in place of item, or where there is none
// if that is nil. It tells whether nobody came in between.
func (l *inMemcached) write(item *memcache.Item, r *record, seconds int32) (done bool, err error) {
	write := l.client.CompareAndSwap
	if item == nil {
		item, write = &memcache.Item{Key: l.key}, l.client.Add
	}
	item.Value, item.Expiration = r.encode(), seconds
	err = write(item)
	for _, between := range []error{memcache.ErrNotStored, memcache.ErrCASConflict, memcache.ErrCacheMiss} {
		if errors.Is(err, between) {
			return false, nil
		}
	}
	return err == nil, err
}

// take takes a lease that is free, damaged, or was this node's own before it
// was started again.
func (l *inMemcached) take(context.Context) (got bool, err error) {
	item, r, err := l.read()
	if err != nil || r != nil && r.Term != [16]byte{} && !l.is(r.Holder) {
		return false, err
	}
	mine := &record{Database: l.Database, Term: nonce(), Holder: Holder{l.Node, l.Address, time.Now()}}
	if got, err = l.write(item, mine, l.life()); got {
		l.held = mine
	}
	return got, err
}

func (l *inMemcached) renew(context.Context) (lost bool, err error) {
	item, r, err := l.read()
	if err != nil || r != nil && r.Term != [16]byte{} && r.Term != l.held.Term {
		return err == nil, err
	}
	_, err = l.write(item, l.held, l.life())
	return false, err
}

// free has the item expire now: memcached cannot delete by compare-and-swap.
func (l *inMemcached) free(context.Context) error {
	item, r, err := l.read()
	if err == nil && r != nil && r.Term == l.held.Term {
		_, err = l.write(item, r, -1)
	}
	return err
}

func (l *inMemcached) drop() { _ = l.client.Close() }

func (l *inMemcached) holder(context.Context) (Holder, error) {
	_, r, err := l.read()
	if err != nil || r == nil {
		return Holder{}, err
	}
	return r.Holder, nil
}

func (l *inMemcached) hopeless(err error) bool { return errors.Is(err, zodb.ErrNewerFormat) }
