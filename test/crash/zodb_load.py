"""The load of a test of many nodes: clients of ZODB and ZEO that commit and read
without end, and write down what they were told.

A client has a tree and some objects in it. A transaction changes the tree and some of
the objects, and perhaps a counter that all share. The tree says which transaction of
the client last changed each object; so whoever reads a tree and its objects knows
whether what it sees is one state, and whether time has run backwards.

Besides the events in ledger.py, a client writes

    {"r": seconds, "node": address, "at": t}   a look at another client's tree
    {"f": text, "node": address, "at": t}      one that failed; it was begun at t
    {"w": text}                                why a transaction failed

Run as a program by nodes.py, once per process; it ends when its standard input does."""

import json
import random
import sys
import threading
import time

import harness
import ledger
import transaction
import ZEO.Exceptions
import ZODB
from persistent.mapping import PersistentMapping
from transaction.interfaces import TransientError
from ZEO.ClientStorage import ClientStorage
from ZODB import POSException

MOST_OBJECTS = 12  # of each client


class Storage(ClientStorage):
    """One that tells whether tpc_finish was called, and what it answered."""

    finishing, tid = False, None

    def tpc_finish(self, *args):
        self.finishing = True
        self.tid = super().tpc_finish(*args)
        return self.tid

    def node(self):
        """The address of the node that it is connected to, or None."""
        return getattr(self._server.client.protocol, "addr", None)


class Client:

    def __init__(self, number, job, stop):
        self.number = number
        self.addresses = [tuple(address) for address in job["addresses"]]
        self.counters, self.trees = job["counters"], job["trees"]
        self.log = ledger.Writer(f"{job['directory']}/client-{number}.jsonl")
        self.random = random.Random(f"{job['seed']}-{number}")
        self.stop = stop
        self.seq = 0
        self.acknowledged = 0  # the last seq
        self.seen = {}         # client -> seq of its tree as it was seen last

    def run(self):
        while not self.stop.is_set():
            # All addresses, or one: else all would gather at the node that answers first.
            one = self.addresses[self.number % len(self.addresses)]
            addresses = self.random.choice((self.addresses, [one]))
            try:
                storage = Storage(addresses, wait_timeout=10, cache_size=2 << 20)
            except ZEO.Exceptions.ClientDisconnected:
                continue
            db = None
            try:
                db = ZODB.DB(storage)
                until = time.monotonic() + self.random.uniform(10, 60)
                while not self.stop.is_set() and time.monotonic() < until:
                    self.look(db, storage)
                    self.write(db, storage)
                    self.stop.wait(self.random.uniform(0, 0.3))
            except ZEO.Exceptions.ClientDisconnected:
                pass  # it looked at the root
            except Exception as e:
                self.log.write(v=f"unexpected: {e!r}")
                raise
            finally:
                (db or storage).close()

    # -- reads

    def look(self, db, storage):
        """Read another client's objects, or one's own."""
        owner = self.random.randrange(len(self.trees))
        manager = transaction.TransactionManager()
        node, at = storage.node(), time.monotonic()
        try:
            manager.begin()
            connection = db.open(manager)
            try:
                self.compare(connection, owner)
            finally:
                manager.abort()
                connection.close()
        except POSException.POSKeyError as e:
            self.log.write(v=f"an object of client {owner} is not there: {e!r}")
        except (POSException.POSError, TransientError, OSError) as e:
            self.log.write(f=repr(e), node=node, at=at)
        else:
            self.log.write(r=time.monotonic() - at, node=node, at=at)

    def compare(self, connection, owner):
        tree = connection.get(bytes.fromhex(self.trees[owner]))
        seq = tree["seq"] if tree["client"] == owner else 0
        if seq < self.seen.get(owner, 0):
            self.log.write(v=f"time runs backwards: the tree of client {owner} is {seq} after "
                             f"{self.seen[owner]}, on {connection.db().storage.node()}")
        if owner == self.number and seq < self.acknowledged:
            self.log.write(v=f"{seq} is read after {self.acknowledged} was acknowledged, on "
                             f"{connection.db().storage.node()}")
        self.seen[owner] = seq
        for thing in tree["refs"]:
            oid = thing._p_oid.hex()
            if [thing["client"], thing["seq"]] != [owner, tree["value"][oid]]:
                self.log.write(v=f"torn: {oid} is {thing['client'], thing['seq']} where the tree "
                                 f"of client {owner} says {tree['value'][oid]}")

    # -- writes

    def write(self, db, storage):
        """One transaction, or what becomes of it."""
        manager = transaction.TransactionManager()
        manager.begin()
        connection = db.open(manager)
        storage.finishing, storage.tid = False, None
        try:
            seq, value = self.change(connection, manager)
            try:
                manager.commit()
            finally:
                if storage.tid is not None:
                    self.log.write(k=seq, tid=storage.tid.hex(), value=value,
                                   at=time.monotonic())
                    self.acknowledged = seq
                elif not storage.finishing:
                    self.log.write(x=seq)
        except POSException.POSKeyError as e:
            self.log.write(v=f"one's own object is not there: {e!r}")
        except (POSException.POSError, TransientError, OSError) as e:
            self.log.write(w=repr(e))
        finally:
            manager.abort()
            connection.close()

    def change(self, connection, manager):
        """Change some objects, and write down that this is attempted."""
        tree = connection.get(bytes.fromhex(self.trees[self.number]))
        things = list(tree["refs"])
        changed = self.random.sample(things, min(len(things), self.random.randint(1, 3)))
        if len(things) < MOST_OBJECTS or self.random.random() < 0.02:
            changed.append(PersistentMapping())
            connection.add(changed[-1])
            self.log.write(o=[changed[-1]._p_oid.hex()])
            things = [*things, changed[-1]][-MOST_OBJECTS:]
        counter = value = None
        if self.random.random() < 0.1:
            counter = self.random.randrange(len(self.counters))
            count = connection.get(bytes.fromhex(self.counters[counter]))
            value = count["value"] + 1
        seq = self.seq = self.seq + 1
        for slot, thing in enumerate(changed):
            thing.data = self.state(seq, slot)
        seqs = dict(tree["value"] or {}, **{thing._p_oid.hex(): seq for thing in changed})
        oids = [thing._p_oid.hex() for thing in things]
        tree.data = dict(
            self.state(seq, len(changed), refs=oids, value={oid: seqs[oid] for oid in oids}),
            refs=things)
        if counter is not None:
            count.data = self.state(seq, -1, value=value)
        written = dict.fromkeys(thing._p_oid.hex() for thing in [*changed, tree])
        manager.get().note(f"{self.number} {seq}")
        self.log.write(a=seq, oids=list(written), counter=counter, at=time.monotonic())
        return seq, value

    def state(self, seq, slot, **more):
        return ledger.state(self.number, seq, slot,
                            self.random.randbytes(self.random.randrange(400)), **more)


def main():
    job = json.loads(sys.argv[1])
    stop = threading.Event()
    threads = [threading.Thread(target=Client(number, job, stop).run, daemon=True)
               for number in range(job["first"], job["first"] + job["clients"])]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    stop.set()
    for thread in threads:
        thread.join(2 * harness.HANG)
    sys.exit(any(thread.is_alive() for thread in threads))


if __name__ == "__main__":
    main()
