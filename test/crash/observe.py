"""What is in a database: as a server says, and as its bucket says."""

import collections
import re

import judge
import ledger
import load
import read_bucket
import wire

# A transaction as it is: data is {oid: bytes, or None for a deletion}.
Raw = collections.namedtuple("Raw", "tid status description data")

_AT_ONCE = 100  # record iterators


def iterate(connection):
    """All transactions, as the server's iterator gives them."""
    iterator = connection.call("iterator_start", None, None)
    found, more = [], True
    while more:
        reading = {}  # id of a record iterator -> Raw
        while more and len(reading) < _AT_ONCE:
            item = connection.call("iterator_next", iterator)
            more = item is not None
            if more:
                tid, status, _, description, _ = item
                if isinstance(status, str):
                    status = status.encode()
                found.append(Raw(tid.hex(), status, description, {}))
                reading[connection.call("iterator_record_start", iterator, tid)] = found[-1]
        while reading:
            order = list(reading)
            for number, item in zip(order, answers(
                    connection, [("iterator_record_next", number) for number in order])):
                if item is None:
                    del reading[number]
                else:
                    reading[number].data[item[0].hex()] = item[2]
    return found


def answers(connection, calls):
    """What the calls return; the first error is raised."""
    for answer in connection.pipeline(calls):
        if isinstance(answer, wire.ServerError):
            raise answer
        yield answer


def understood(raw):
    """The transactions as judge wants them."""
    return [judge.Transaction(
        t.tid, _key(t.description), t.status,
        {oid: ledger.read_state(data) for oid, data in t.data.items()}) for t in raw]


def _key(description):
    match = re.fullmatch(rb"(\d+) (\d+)", description)
    return match and (int(match[1]), int(match[2]))


def check_blobs(connection, transactions, findings, strict):
    """Whether each revision that tells of a blob has this blob. Unless it is
    strict, trouble with the bucket is an error and says nothing."""
    for transaction in transactions:
        for oid, state in transaction.records.items():
            if not state or not state.blob:
                continue
            try:
                blob = load.describe_blob(load.read_blob(connection, oid, transaction.tid))
            except wire.ServerError as e:
                if e.name != "POSKeyError" and not strict:
                    raise
                blob = e
            if blob != state.blob:
                findings.add("blob", f"{oid} at {transaction.tid}: {blob}, not {state.blob}")


def check_loads(connection, raw, oids, findings):
    """Whether loads of all kinds say what iteration says, about all objects."""
    revisions = collections.defaultdict(list)
    for transaction in raw:
        for oid, data in transaction.data.items():
            revisions[oid].append((transaction.tid, data))
    calls, wanted = [], []
    for oid in sorted(oids | revisions.keys()):
        end = wire.maxtid
        for tid, data in reversed(revisions[oid]):
            tid = bytes.fromhex(tid)
            calls.append(("loadBefore", bytes.fromhex(oid), end))
            wanted.append(data and (data, tid, None if end == wire.maxtid else end))
            calls.append(("loadSerial", bytes.fromhex(oid), tid))
            wanted.append(data)
            end = tid
        calls.append(("loadBefore", bytes.fromhex(oid), end))
        wanted.append(None)
    for call, want, answer in zip(calls, wanted, connection.pipeline(calls)):
        if isinstance(answer, wire.ServerError) and answer.name == "POSKeyError":
            answer = None
        if answer != want:
            findings.add("view", f"{call[0]}({call[1].hex()}, {call[2].hex()}) is not what "
                                 f"iteration says: {answer!r:.100}, {want!r:.100}")


def check_bucket(directory, raw, findings):
    """Whether the server's view is that of who reads the bucket alone, and every
    byte of the bucket that the database needs is as it has to be."""
    def read():
        database = read_bucket.Database(directory)
        there = [Raw(f"{t.tid:016x}", t.status, t.description,
                     {f"{r.oid:016x}": r.data for r in t.records})
                 for t in database.transactions()]
        return there, list(database.check())
    try:
        there, wrong = undisturbed(read)
    except read_bucket.Damaged as e:
        findings.add("view", str(e))
        return
    for text in wrong:
        findings.add("bucket", text)
    here, there = ({t.tid: t for t in ts} for ts in (raw, there))
    for tid in sorted(here.keys() | there.keys()):
        if here.get(tid) != there.get(tid):
            findings.add("view", f"transaction {tid}: the server says {_short(here.get(tid))}, "
                                 f"the bucket {_short(there.get(tid))}")


def undisturbed(read):
    """What read returns when it was not disturbed by a server that merges and
    deletes."""
    while True:
        try:
            return read()
        except read_bucket.Outdated:
            pass


def _short(raw):
    return raw and (raw.status, raw.description, {
        oid: None if data is None else len(data) for oid, data in raw.data.items()})


def left_over(directory):
    """The names of objects that nothing needs."""
    stored = {f"{kind}/{path.name}" for kind in ("payload", "blob", "segment", "index", "base")
              for path in (directory / kind).glob("*")}
    return stored - undisturbed(lambda: set(read_bucket.Database(directory).needed()))
