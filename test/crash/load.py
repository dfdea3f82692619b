"""The load of a crash test: clients that commit without end, and write down
what they were told.

A transaction changes some objects of the client's own, with or without blobs,
makes new ones, takes some out of the client's tree so that they become garbage,
or undoes one of the last transactions. Some are given up, some of these in the
midst of the upload of a blob.

Run as a program by crash.py, once per process; it ends when its standard input
does."""

import argparse
import base64
import hashlib
import json
import random
import sys
import threading
import time

import ledger
import wire
from wire import Closed
from wire import ServerError

MOST_OBJECTS = 60      # of each client
VOTES = 30             # rounds of conflict resolution before a client gives up
CHUNK = 59_000         # bytes of a blob in a message
UNDOABLE = 5           # transactions that a client may undo


def has_blob(oid):
    """Whether an object is stored with a blob, always."""
    return int(oid, 16) % 6 == 0


def read_blob(connection, oid, tid):
    """The bytes of a blob."""
    key = bytes.fromhex(oid), bytes.fromhex(tid)
    answered = connection.send("sendBlob", *key)
    reply, events, chunks = None, [], []
    while reply is None or not events or events[-1] != "receiveBlobStop":
        got, flag, name, args = connection.receive()
        if name == ".reply":
            assert got == answered, (got, answered)
            if flag:
                raise ServerError(*args)
            reply = got
        elif name.startswith("receiveBlob"):
            assert args[:2] == key, args[:2]
            events.append(name)
            chunks += args[2:]
        else:
            connection.notices.append((name, args))
    if events != ["receiveBlobStart", *["receiveBlobChunk"] * len(chunks), "receiveBlobStop"]:
        raise Closed(f"a blob comes as {events}")
    return b"".join(chunks)


def describe_blob(data):
    """What a record says about its blob."""
    return len(data), hashlib.sha256(data).hexdigest()


class Client:

    def __init__(self, number, tree, addresses, counters, directory, seed, stop):
        self.number = number
        self.tree = tree
        self.addresses = addresses
        self.counters = counters
        self.log = ledger.Writer(f"{directory}/client-{number}.jsonl")
        self.random = random.Random(f"{seed}-{number}")
        self.stop = stop
        self.seq = 0
        self.free = []      # oids that were handed out, not used yet
        self.objects = []   # oids in the tree
        self.known = {}     # oid -> (serial, stamp), forgotten when an outcome is unknown
        self.undoable = []  # (tid, before, after): {oid: stamp or None}
        self.last_tid = None

    def run(self):
        while not self.stop.is_set():
            try:
                with wire.Connection(self.random.choice(self.addresses)) as connection:
                    connection.register()
                    self.known.clear()
                    self.last_tid = None
                    while not self.stop.is_set():
                        if self.tree not in self.known:
                            self.look(connection, self.tree)
                        if self.undoable and self.random.random() < 0.07:
                            self.undo(connection)
                        else:
                            self.transaction(connection)
                        self.listen(connection)
            except TimeoutError as e:
                self.log.write(v=f"a call hung: {e!r}")
                return
            except (OSError, Closed, ServerError):
                # Down, starting, or no longer the one that leads.
                self.stop.wait(self.random.uniform(0.005, 0.05))
            except Exception as e:
                self.log.write(v=f"unexpected: {e!r}")
                raise

    def listen(self, connection):
        """Invalidations come in the order of their tids, each once."""
        for name, args in connection.notices:
            if name == "invalidateTransaction":
                if self.last_tid is not None and args[0] <= self.last_tid:
                    self.log.write(v=f"invalidation {args[0].hex()} after "
                                     f"{self.last_tid.hex()}")
                self.last_tid = args[0]
        connection.notices.clear()

    # -- what to write

    def choose(self, connection):
        """The oids of the next transaction, some of them new."""
        count = self.random.randint(3, 5)
        oids = self.random.sample(self.objects, min(len(self.objects), count))
        if len(self.objects) < MOST_OBJECTS or self.random.random() < 0.1:
            oids = oids[:count - self.random.randint(1, 2)]
            while len(oids) < count:
                if not self.free:
                    self.free = [oid.hex() for oid in connection.call(
                        "new_oids", self.random.choice((1, 5, 20, 100)))]
                    self.log.write(o=self.free)
                oids.append(self.free.pop())
        return oids

    def grown(self, oids):
        """What is in the tree when these oids are written: all of them, and
        perhaps not all of the others."""
        others = [oid for oid in self.objects if oid not in oids]
        if others and self.random.random() < 0.2:
            for oid in self.random.sample(others, min(len(others), 3)):
                others.remove(oid)
        return others + oids

    def padding(self):
        dice = self.random.random()
        if dice < 0.0005:
            return self.random.randbytes(5 << 20)  # too much for a log object
        if dice < 0.005:
            return self.random.randbytes(100_000)
        return self.random.randbytes(self.random.randrange(400))

    def blob(self):
        dice = self.random.random()
        if dice < 0.005:
            return self.random.randbytes((8 << 20) + self.random.randrange(4 << 20))
        if dice < 0.05:
            return self.random.randbytes(self.random.randrange(3 << 20))
        if dice < 0.2:
            return b""
        return self.random.randbytes(self.random.randrange(3 * CHUNK))

    # -- what there is

    def look(self, connection, oid):
        """The State of an object as it is now, or None where there is none."""
        try:
            data, serial, _ = connection.call("loadBefore", bytes.fromhex(oid), wire.maxtid)
        except ServerError as e:
            if e.name != "POSKeyError":
                raise
            data, serial = None, wire.z64
        state = ledger.read_state(data)
        self.known[oid] = serial, state and state.stamp
        if oid == self.tree:
            self.objects = list(state.refs)
        return state

    # -- transactions

    def begin(self, connection, oids, counter=None, **more):
        self.seq += 1
        self.log.write(a=self.seq, oids=oids, counter=counter, at=time.monotonic(), **more)
        connection.begin(self.seq, description=b"%d %d" % (self.number, self.seq))

    def give_up(self, connection):
        connection.call("tpc_abort", self.seq)
        self.log.write(x=self.seq)

    def transaction(self, connection):
        oids = self.choose(connection)
        written, refs = oids, None
        if self.random.random() < 0.2 or not set(oids) <= set(self.objects):
            refs = self.grown(oids)
            written = oids + [self.tree]
        for oid in written:
            if oid not in self.known:
                self.look(connection, oid)
        before = {oid: self.known[oid][1] for oid in written}
        counter = value = None
        if self.random.random() < 0.3:
            counter = self.random.randrange(len(self.counters))
            value = self.look(connection, self.counters[counter]).value + 1
            serial = self.known[self.counters[counter]][0]

        self.begin(connection, written, counter)
        for slot, oid in enumerate(oids):
            self.store(connection, slot, oid)
        if refs is not None:
            connection.store(self.seq, bytes.fromhex(self.tree), self.known[self.tree][0],
                             ledger.stamped(self.number, self.seq, len(oids), refs=refs))
        if counter is not None:
            connection.store(self.seq, bytes.fromhex(self.counters[counter]), serial,
                             ledger.stamped(self.number, self.seq, -1, value=value))
        if self.random.random() < 0.02:
            self.give_up(connection)
            return
        tid = self.commit(connection, before.keys(), counter, value)
        if tid is None:
            return
        if refs is not None:
            self.objects = refs
        after = dict.fromkeys(written, (self.number, self.seq))
        self.settle(connection, tid, before, after, counter is None)

    def store(self, connection, slot, oid):
        """Store a new state of an object, with a blob if it is of that kind."""
        txn, serial = self.seq, self.known[oid][0]
        if not has_blob(oid):
            connection.store(txn, bytes.fromhex(oid), serial,
                             ledger.stamped(self.number, txn, slot, self.padding()))
            return
        blob = self.blob()
        die = self.random.random() < 0.02
        connection.one_way("storeBlobStart")
        for at in range(0, len(blob), CHUNK):
            if die and at >= len(blob) // 2:
                connection.close()
                self.log.write(x=txn)
                raise Closed("died in the midst of an upload")
            connection.one_way("storeBlobChunk", blob[at:at + CHUNK])
        connection.one_way("storeBlobEnd", bytes.fromhex(oid), serial, ledger.stamped(
            self.number, txn, slot, self.padding(), blob=describe_blob(blob)), txn)

    def undo(self, connection):
        """Undo a transaction, unless something of it was changed since."""
        tid, before, after = self.undoable.pop(
            self.random.randrange(-1, len(self.undoable)))
        for oid, stamp in after.items():
            if oid not in self.known:
                self.look(connection, oid)
            if self.known[oid] != (tid if stamp else wire.z64, stamp):
                return
        self.begin(connection, list(after), then=before)
        connection.one_way("undoa", base64.encodebytes(tid).rstrip(), self.seq)
        undone = self.commit(connection, before.keys())
        if undone is None:
            self.log.write(v=f"undo of {tid.hex()} met a conflict")
            return
        self.known.pop(self.tree, None)  # to look what is in it
        self.settle(connection, undone, after, before, True)

    def settle(self, connection, tid, before, after, undoable):
        """Take note of a commit, and perhaps look whether it is there."""
        for oid, stamp in after.items():
            if oid != self.tree or oid in self.known:
                self.known[oid] = tid if stamp else wire.z64, stamp
        if undoable:
            self.undoable = [*self.undoable[1 - UNDOABLE:], (tid, before, after)]
        if self.random.random() < 0.1:
            oid = self.random.choice(list(after))
            known = self.known.get(oid)
            state = self.look(connection, oid)
            if known not in (None, self.known[oid]):
                self.log.write(v=f"{oid} was committed at {tid.hex()} as {known}, and "
                                 f"reads {self.known[oid]} on the same connection")
            elif state and state.blob:
                blob = read_blob(connection, oid, tid.hex())
                if describe_blob(blob) != state.blob:
                    self.log.write(v=f"the blob of {oid} at {tid.hex()} has {len(blob)} "
                                     f"bytes, and not those of {state.blob}")

    def commit(self, connection, oids, counter=None, value=None):
        """Vote and finish: the tid, or None where it was given up."""
        seq = self.seq
        try:
            value = self.vote(connection, oids, counter, value)
        except ServerError:
            # It has not come to tpc_finish.
            self.log.write(x=seq)
            self.known.clear()
            raise
        if value is False:
            self.give_up(connection)
            self.known.clear()
            return None
        tid = connection.call("tpc_finish", seq)
        self.log.write(k=seq, tid=tid.hex(), value=value, at=time.monotonic())
        return tid

    def vote(self, connection, oids, counter, value):
        """Vote until there is no conflict: the value counted, or False."""
        for _ in range(VOTES):
            conflicts = [c for c in connection.call("vote", self.seq) or ()
                         if isinstance(c, dict)]
            if not conflicts:
                return value
            for conflict in conflicts:
                oid = conflict["oid"]
                if counter is None or oid.hex() != self.counters[counter]:
                    # An object of ours: what we had read was out of date.
                    return False
                committed = conflict["serials"][0]
                data = connection.call("loadSerial", oid, committed)
                value = ledger.read_state(data).value + 1
                connection.store(self.seq, oid, committed,
                                 ledger.stamped(self.number, self.seq, -1, value=value))
        return False


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("job", help="JSON: first, clients, trees, addresses, counters, "
                                    "directory, seed")
    job = json.loads(parser.parse_args().job)
    stop = threading.Event()
    addresses = [tuple(a) if isinstance(a, list) else a for a in job["addresses"]]
    threads = []
    for number in range(job["first"], job["first"] + job["clients"]):
        client = Client(number, job["trees"][number], addresses, job["counters"],
                        job["directory"], job["seed"], stop)
        threads.append(threading.Thread(target=client.run, daemon=True))
    for thread in threads:
        thread.start()
    sys.stdin.read()
    stop.set()
    for thread in threads:
        thread.join(2 * wire.harness.HANG)


if __name__ == "__main__":
    main()
