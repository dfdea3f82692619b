package simulation

import (
	"s3storage/internal/node"
	"s3storage/internal/zodb"
)

// A weakness is a mistake that nodes make, so that it is seen that it would be found.
type weakness struct {
	serve func(*node.Node) zodb.Storage // what clients and other nodes are served
	puts  func(error) error             // what a put of the log comes to
}

func (w *weakness) storage(n *node.Node) zodb.Storage {
	if w.serve == nil {
		return n
	}
	return w.serve(n)
}

func (w *weakness) put(_ string, err error) error {
	if w.puts == nil {
		return err
	}
	return w.puts(err)
}
