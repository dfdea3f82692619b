// Package simulation runs whole nodes in virtual time, through schedules that are
// drawn from seeds, and judges what their clients saw. All of it is tests.
//
// # What is real
//
// The nodes (package node) with their engines and logs, the servers of the ZEO protocol
// and the clients that speak it. The store is a bucket in memory behind faults, the
// network and the lease are simulated, the time is that of testing/synctest.
//
// # What happens
//
// Hosts are killed, stopped in order, frozen, cut off from each other, from the store
// and from their clients; their clocks jump; the lease is granted to everybody, to
// nobody, or is lost; calls of the store take their time, fail, have their effect and no
// answer, or have it much later, when the process that made them is long dead. Clients
// commit, read, undo and go from node to node all the time.
//
// # What is judged
//
// Every transaction has a tid, so the log of the end is one total order of all that was
// committed, and every read names the place in that order at which it looked. So a
// history is right if it agrees with this one order: nothing has to be searched, as a
// checker of linearizability does that knows no order. It takes linear time, and asks
// for more: that there is some order would not do.
package simulation
