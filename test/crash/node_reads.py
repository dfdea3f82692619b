"""What is read while nodes are disturbed: at each node, and by the clients."""

import collections
import contextlib
import random
import threading
import time

import ledger
import wire

READS = 500  # on one connection


class Reader(threading.Thread):
    """Reads at one node, without a cache.

    oids returns what can be read; told is called after each read, with the node, when
    it was begun, and the error or None."""

    def __init__(self, node, seed, oids, told):
        super().__init__(daemon=True)
        self.node, self.oids, self.told = node, oids, told
        self.random = random.Random(f"{seed}-{node.host_port}")
        self.connection = None
        self.last = 0  # when the last read that succeeded was begun
        self.stopped = threading.Event()

    def run(self):
        while not self.stopped.wait(0.05):
            oids = self.oids()  # what the node has when it has let one in
            try:
                with wire.Connection(self.node.address) as self.connection:
                    self.connection.register(read_only=True)
                    for _ in range(READS):
                        if self.stopped.wait(0.02):
                            break
                        self.read(self.random.choice(oids))
            except (OSError, wire.Closed, wire.ServerError):
                pass  # the node is down, or begins

    def read(self, oid):
        start = time.monotonic()
        try:
            self.connection.call("loadBefore", bytes.fromhex(oid), wire.maxtid)
        except (OSError, wire.Closed, wire.ServerError) as e:
            self.told(self.node, start, repr(e))
            raise
        self.told(self.node, start, None)
        self.last = start
        self.connection.notices.clear()

    def reset(self):
        """Give up a connection on which nothing may come for a while."""
        with contextlib.suppress(OSError, AttributeError):
            self.connection.socket.shutdown(2)


class Ledger(ledger.Reader):
    """What clients wrote down, and their reads."""

    def __init__(self, directory):
        super().__init__(directory)
        self.looks = []  # (address, at, seconds, error or None)
        self.refused = collections.Counter()  # why transactions failed
        self.begun = {}  # client -> when the last one was begun of which it was told

    def _event(self, client, event, new):
        if "r" in event or "f" in event:
            self.looks.append((event["node"], event["at"], event.get("r"), event.get("f")))
        elif "w" in event:
            self.refused[event["w"].partition("(")[0]] += 1
        super()._event(client, event, new)
        if "k" in event:
            self.begun[client] = self.attempts[client, event["k"]].at
