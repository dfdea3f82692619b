// Package node is a storage that many nodes serve together: one leads, the others
// follow it, and clients connect to any of them.
//
// # Reading
//
// Every node has an engine of its own, which reads the bucket. It learns of new
// transactions from the node that leads, which sends each object of its log as soon
// as it is part of it; the hash chain says whether it fits. What a node was not sent,
// it reads from the bucket. No load goes through the leader.
//
// # Writing
//
// A node that follows keeps the changes of a transaction until the vote, and then
// makes them on the leader. So a leader that is lost before the vote, or during it,
// costs the client some waiting: the same is done on the next one. After the vote a
// client can be told to begin anew (zodb.ErrNotCommitted).
//
// When the transaction is finished, the leader answers at once with the tid that it
// has given it and the epoch in whose log it is. From then on the log decides, as
// this node sees it itself: the transaction is committed when an object of that
// epoch with that tid is part of the log, and never will be when the log has come
// to a later epoch. So it is known what became of a transaction also when the leader
// that took it is dead. It is not known only if the connection breaks between the
// call and this answer; then the client's connection is closed, too.
//
// A client is answered when this node has applied its transaction: it sees what it
// has written. A conflict is told when this node has applied what it is with.
//
// Blobs go from the node that receives them into the bucket. The leader is told of
// each before and knows that it is no garbage, for as long as the connection lasts.
//
// # Who leads
//
// The log's last seal says who leads, and where that node is reached. A node that
// cannot reach the leader asks for the lease, and leads when it has got it; while it
// waits it looks for another leader. The lease only keeps nodes from fighting: that
// nothing is lost, whatever it does, is the log's affair (invariant I5).
//
// A leader that is stopped hands over: it lets no more transactions be voted for,
// waits until what was voted for is in the log, lets go of the lease, and closes the
// connections of those who follow.
package node
