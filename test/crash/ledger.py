"""What the clients of a crash test write down.

Each client keeps a file of JSON lines, one per event, in the order in which
they happened to it:

    {"o": [oid, ...]}                 the server handed out these oids
    {"a": seq, "oids": [...], "counter": n or null, "at": t}
                                      about to commit these objects, and perhaps
                                      counter n, all stamped with (client, seq)
    {"a": seq, "then": {oid: [client, seq] or null}, ...}
                                      the same of an undo: whose stamps the
                                      objects bear then; null where there is no
                                      such object any more
    {"x": seq}                        given up before tpc_finish: never there
    {"k": seq, "tid": tid, "value": v, "at": t}
                                      tpc_finish answered tid; v is the counter's
    {"v": text}                       the client saw something that may not be

And whoever packs:

    {"p": n, "tid": tid, "at": t}     about to pack to the time of this tid
    {"pk": n}                         done
    {"px": n}                         refused: nothing was dropped

Oids and tids are hexadecimal; t is the machine's monotonic clock, which all
processes share. An attempt with neither x nor k is one whose outcome the client
never learned: it may be there, but only as a whole. So it is with packs.

Every object belongs to one client, so that what is in the database can be
compared with the ledger object by object. The counters are everybody's: each
transaction that counts writes the value it found plus one, so that the
revisions of a counter number the transactions that counted. The root refers to
the counters and to the tree of each client, which refers to its objects.

A transaction says in its description whose it is: "client seq".
"""

import collections
import io
import json
import pathlib
import pickle
import zlib

from persistent.mapping import PersistentMapping

ROOT = "0" * 16

_KEYS = "client", "seq", "slot", "value", "refs", "blob"
_HEAD = b"\x80\x03cpersistent.mapping\nPersistentMapping\nq\x00."

# What a record says: its stamp (client, seq), or None where it is damaged; the
# value of a counter; the oids that it refers to; the (size, SHA-256) of its
# blob, or None.
State = collections.namedtuple("State", "stamp value refs blob")
DAMAGED = State(None, None, (), None)


class Attempt(collections.namedtuple("Attempt", "client seq oids counter at then")):
    """A transaction that a client was about to commit."""

    def contents(self, counters):
        """{oid: stamp, or None for no object}, as the transaction leaves them."""
        if self.then is not None:
            return self.then
        oids = [*self.oids] + ([] if self.counter is None else [counters[self.counter]])
        return dict.fromkeys(oids, (self.client, self.seq))


Ack = collections.namedtuple("Ack", "client seq tid value at")
Pack = collections.namedtuple("Pack", "tid at")


class _Reference:

    def __init__(self, oid):
        self.oid = oid


class _Pickler(pickle.Pickler):

    def persistent_id(self, value):
        if isinstance(value, _Reference):
            return value.oid, PersistentMapping  # as ZODB has it
        return None


class _Unpickler(pickle.Unpickler):

    def persistent_load(self, reference):
        return reference[0].hex()


def state(client, seq, slot, padding=b"", value=None, refs=(), blob=None):
    """What is in a record that says whose it is and whether it is whole. The refs
    are oids here, and references in the record."""
    state = dict(zip(_KEYS, (client, seq, slot, value, list(refs), blob)), padding=padding)
    return dict(state, sum=_sum(state))


def stamped(*args, refs=(), **options):
    """Such a record."""
    content = state(*args, refs=refs, **options)
    content["refs"] = [_Reference(bytes.fromhex(oid)) for oid in refs]
    file = io.BytesIO()
    file.write(_HEAD)
    _Pickler(file, 3).dump({"data": content})
    return file.getvalue()


def _sum(state):
    head = repr([state[k] for k in _KEYS]).encode()
    return zlib.crc32(state["padding"], zlib.crc32(head))


def read_state(data):
    """The State in a record; None for the data of an object that is no more."""
    if data is None:
        return None
    try:
        unpickler = _Unpickler(io.BytesIO(data))
        unpickler.load()  # the class, which the state may refer back to
        state = unpickler.load()["data"]
        if data.startswith(_HEAD) and state["sum"] == _sum(state):
            return State((state["client"], state["seq"]), state["value"],
                         tuple(state["refs"]), state["blob"])
    except Exception:
        pass
    return DAMAGED


class Writer:
    """One client's file."""

    def __init__(self, path):
        self.file = open(path, "a", buffering=1)

    def write(self, **event):
        self.file.write(json.dumps(event) + "\n")


class Reader:
    """All clients' files. It can be read again while they grow."""

    def __init__(self, directory):
        self.directory = pathlib.Path(directory)
        self.offsets = {}
        self.oids = []         # (client, oid), as handed out
        self.attempts = {}     # (client, seq) -> Attempt
        self.given_up = set()  # (client, seq)
        self.acks = {}         # (client, seq) -> Ack
        self.packs = {}        # number -> Pack, without those that were refused
        self.packed = set()    # numbers of those that were done
        self.complaints = []

    def update(self):
        """Read what is new, and return the new acknowledgements."""
        new = []
        for path in sorted(self.directory.glob("client-*.jsonl")):
            client = int(path.stem.rpartition("-")[2])
            with open(path, "rb") as file:
                file.seek(self.offsets.get(path, 0))
                data = file.read()
            end = data.rfind(b"\n") + 1
            self.offsets[path] = self.offsets.get(path, 0) + end
            for line in data[:end].splitlines():
                self._event(client, json.loads(line), new)
        return new

    def _event(self, client, event, new):
        if "o" in event:
            self.oids += [(client, oid) for oid in event["o"]]
        elif "a" in event:
            then = event.get("then")
            if then is not None:
                then = {oid: stamp and tuple(stamp) for oid, stamp in then.items()}
            self.attempts[client, event["a"]] = Attempt(
                client, event["a"], tuple(event["oids"]), event["counter"], event["at"], then)
        elif "x" in event:
            self.given_up.add((client, event["x"]))
        elif "k" in event:
            key = client, event["k"]
            self.acks[key] = Ack(*key, event["tid"], event["value"], event["at"])
            new.append(self.acks[key])
        elif "p" in event:
            self.packs[event["p"]] = Pack(event["tid"], event["at"])
        elif "pk" in event:
            self.packed.add(event["pk"])
        elif "px" in event:
            del self.packs[event["px"]]
        elif "v" in event:
            self.complaints.append(f"client {client}: {event['v']}")

    def packed_to(self):
        """No revision after this tid can have been dropped."""
        return max((pack.tid for pack in self.packs.values()), default="")
