"""The load of a crash test: clients that commit without end, and write down
what they were told.

Run as a program by crash.py, once per process; it ends when its standard input
does."""

import argparse
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


class Client:

    def __init__(self, number, addresses, counters, directory, seed, stop):
        self.number = number
        self.addresses = addresses
        self.counters = counters
        self.log = ledger.Writer(f"{directory}/client-{number}.jsonl")
        self.random = random.Random(f"{seed}-{number}")
        self.stop = stop
        self.seq = 0
        self.free = []      # oids that were handed out, not used yet
        self.objects = []   # oids that were written, or may have been
        self.serials = {}   # oid -> serial, forgotten when an outcome is unknown
        self.last_tid = None

    def run(self):
        while not self.stop.is_set():
            try:
                with wire.Connection(self.random.choice(self.addresses)) as connection:
                    connection.register()
                    self.serials.clear()
                    self.last_tid = None
                    while not self.stop.is_set():
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
                self.objects.append(oids[-1])
        return oids

    def padding(self):
        dice = self.random.random()
        if dice < 0.002:
            return self.random.randbytes(3 << 20)
        if dice < 0.02:
            return self.random.randbytes(100_000)
        return self.random.randbytes(self.random.randrange(400))

    def current(self, connection, oid):
        """(serial, data) of an object; serial 0 where it does not exist."""
        try:
            answer = connection.call("loadBefore", oid, wire.maxtid)
        except ServerError as e:
            if e.name != "POSKeyError":
                raise
            return wire.z64, None
        return answer[1], answer[0]

    def transaction(self, connection):
        oids = self.choose(connection)
        for oid in oids:
            if oid not in self.serials:
                self.serials[oid] = self.current(connection, bytes.fromhex(oid))[0]
        counter = value = None
        if self.random.random() < 0.3:
            counter = self.random.randrange(len(self.counters))
            counter_oid = bytes.fromhex(self.counters[counter])
            serial, data = self.current(connection, counter_oid)
            value = ledger.read_stamp(data)[1] + 1

        self.seq += 1
        seq, txn = self.seq, self.seq
        self.log.write(a=seq, oids=oids, counter=counter, at=time.monotonic())
        connection.begin(txn, description=b"%d %d" % (self.number, seq))
        for slot, oid in enumerate(oids):
            connection.store(txn, bytes.fromhex(oid), self.serials[oid],
                             ledger.stamped(self.number, seq, slot, self.padding()))
        if counter is not None:
            connection.store(txn, counter_oid, serial,
                             ledger.stamped(self.number, seq, -1, value=value))
        if self.random.random() < 0.02:
            connection.call("tpc_abort", txn)
            self.log.write(x=seq)
            return

        try:
            value = self.vote(connection, txn, seq, counter, value)
        except ServerError:
            # It has not come to tpc_finish.
            self.log.write(x=seq)
            self.serials.clear()
            raise
        if value is False:
            connection.call("tpc_abort", txn)
            self.log.write(x=seq)
            self.serials.clear()
            return
        tid = connection.call("tpc_finish", txn)
        self.log.write(k=seq, tid=tid.hex(), value=value, at=time.monotonic())
        for oid in oids:
            self.serials[oid] = tid

        if self.random.random() < 0.1:
            oid = self.random.choice(oids)
            serial, data = self.current(connection, bytes.fromhex(oid))
            if serial != tid or ledger.read_stamp(data)[0] != (self.number, seq):
                self.log.write(v=f"{oid} was committed at {tid.hex()}, and reads "
                                 f"{serial.hex()} on the same connection")

    def vote(self, connection, txn, seq, counter, value):
        """Vote until there is no conflict: the value counted, or False."""
        for _ in range(VOTES):
            conflicts = [c for c in connection.call("vote", txn) or ()
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
                value = ledger.read_stamp(data)[1] + 1
                connection.store(txn, oid, committed,
                                 ledger.stamped(self.number, seq, -1, value=value))
        return False


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("job", help="JSON: first, clients, addresses, counters, "
                                    "directory, seed")
    job = json.loads(parser.parse_args().job)
    stop = threading.Event()
    addresses = [tuple(a) if isinstance(a, list) else a for a in job["addresses"]]
    threads = []
    for number in range(job["first"], job["first"] + job["clients"]):
        client = Client(number, addresses, job["counters"], job["directory"],
                        job["seed"], stop)
        threads.append(threading.Thread(target=client.run, daemon=True))
    for thread in threads:
        thread.start()
    sys.stdin.read()
    stop.set()
    for thread in threads:
        thread.join(2 * wire.harness.HANG)


if __name__ == "__main__":
    main()
