"""What the clients of a crash test write down, and what can be proved from it.

Each client keeps a file of JSON lines, one per event, in the order in which
they happened to it:

    {"o": [oid, ...]}                 the server handed out these oids
    {"a": seq, "oids": [...], "counter": n or null, "at": t}
                                      about to commit these objects, and perhaps
                                      counter n, all stamped with (client, seq)
    {"x": seq}                        given up before tpc_finish: never there
    {"k": seq, "tid": tid, "value": v, "at": t}
                                      tpc_finish answered tid; v is the counter's
    {"v": text}                       the client saw something that may not be

Oids and tids are hexadecimal; t is the machine's monotonic clock, which all
processes share. An attempt with neither x nor k is one whose outcome the client
never learned: it may be there, but only as a whole.

Every object belongs to one client, so that what is in the database can be
compared with the ledger object by object. The counters are everybody's: each
transaction that counts writes the value it found plus one, so that the
revisions of a counter number the transactions that counted.
"""

import collections
import json
import pathlib
import zlib

import wire

Attempt = collections.namedtuple("Attempt", "client seq oids counter at")
Ack = collections.namedtuple("Ack", "client seq tid value at")
# A revision of an object in the database. Stamp is (client, seq), or None where
# the record is damaged; value is a counter's.
Revision = collections.namedtuple("Revision", "oid tid stamp value")


def stamped(client, seq, slot, padding=b"", value=None):
    """A record that says whose it is and whether it is whole."""
    state = {"client": client, "seq": seq, "slot": slot, "value": value,
             "padding": padding}
    state["sum"] = _sum(state)
    return wire.record({"data": state})


def _sum(state):
    head = repr([state[k] for k in ("client", "seq", "slot", "value")]).encode()
    return zlib.crc32(state["padding"], zlib.crc32(head))


def read_stamp(data):
    """((client, seq), value) of a record, or (None, None) of a damaged one."""
    try:
        state = wire.record_state(data)["data"]
        if state["sum"] == _sum(state):
            return (state["client"], state["seq"]), state["value"]
    except Exception:
        pass
    return None, None


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
        self.oids = []        # (client, oid), as handed out
        self.attempts = {}    # (client, seq) -> Attempt
        self.given_up = set()  # (client, seq)
        self.acks = {}        # (client, seq) -> Ack
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
            key = client, event["a"]
            self.attempts[key] = Attempt(
                *key, tuple(event["oids"]), event["counter"], event["at"])
        elif "x" in event:
            self.given_up.add((client, event["x"]))
        elif "k" in event:
            key = client, event["k"]
            self.acks[key] = Ack(*key, event["tid"], event["value"], event["at"])
            new.append(self.acks[key])
        elif "v" in event:
            self.complaints.append(f"client {client}: {event['v']}")


class Findings:
    """What is wrong, by kind. Empty where all is well."""

    KINDS = {
        "lost": "acknowledged, but not there",
        "partial": "transactions that are there in part",
        "duplicate": "oids given more than once",
        "undead": "given up before tpc_finish, but there",
        "foreign": "revisions nobody attempted, or damaged ones",
        "disorder": "tids or counters out of order",
        "complaint": "seen by a client",
    }

    def __init__(self):
        self.found = {kind: [] for kind in self.KINDS}

    def __bool__(self):
        return any(self.found.values())

    def add(self, kind, text):
        if text not in self.found[kind]:
            self.found[kind].append(text)

    def count(self, kind):
        return len(self.found[kind])

    def describe(self, most=10):
        lines = []
        for kind, texts in self.found.items():
            if texts:
                lines.append(f"{kind} ({self.KINDS[kind]}): {len(texts)}")
                lines += ["    " + text for text in texts[:most]]
        return "\n".join(lines)


def judge(reader, revisions, counters):
    """Compare the ledger with everything that is in the database.

    revisions holds all revisions of all objects of all attempts, and of the
    counters, whose oids are given in order."""
    findings = Findings()
    for complaint in reader.complaints:
        findings.add("complaint", complaint)

    owners = {}
    for client, oid in reader.oids:
        if oid in owners:
            findings.add("duplicate", f"oid {oid}: to client {owners[oid]}, "
                                      f"then to client {client}")
        owners[oid] = client

    # What is there: (client, seq) -> {oid: tid}.
    there = collections.defaultdict(dict)
    counted = [{} for _ in counters]  # tid -> value, for each counter
    for revision in revisions:
        if revision.stamp is None:
            findings.add("foreign", f"{revision.oid} at {revision.tid} is damaged")
        elif revision.stamp == (-1, 0):  # the counters as set up
            counted[counters.index(revision.oid)][revision.tid] = revision.value
        elif revision.stamp not in reader.attempts:
            findings.add("foreign", f"{revision.oid} at {revision.tid}: "
                                    f"nobody attempted {revision.stamp}")
        else:
            if revision.oid in there[revision.stamp]:
                findings.add("partial", f"{revision.stamp} wrote {revision.oid} twice, at "
                             f"{there[revision.stamp][revision.oid]} and {revision.tid}")
            there[revision.stamp][revision.oid] = revision.tid
            if revision.oid in counters:
                counted[counters.index(revision.oid)][revision.tid] = revision.value

    for key, attempt in reader.attempts.items():
        expected = set(attempt.oids)
        if attempt.counter is not None:
            expected.add(counters[attempt.counter])
        got = there.get(key, {})
        ack = reader.acks.get(key)
        if got and set(got) != expected:
            findings.add("partial", f"{key}: {len(got)} of {len(expected)} objects, "
                                    f"missing {sorted(expected - set(got))}")
        if len(set(got.values())) > 1:
            findings.add("partial", f"{key} is spread over tids {sorted(set(got.values()))}")
        if key in reader.given_up and got:
            findings.add("undead", f"{key} at {sorted(set(got.values()))}")
        if ack is not None:
            missing = [oid for oid in expected if got.get(oid) != ack.tid]
            if missing:
                findings.add("lost", f"{key} at {ack.tid}: {len(missing)} of "
                                     f"{len(expected)} objects, {sorted(missing)[:3]}")

    by_tid = {}
    for key, got in there.items():
        for tid in set(got.values()):
            if by_tid.setdefault(tid, key) != key:
                findings.add("disorder", f"tid {tid} is of {by_tid[tid]} and of {key}")

    # What was acknowledged before another was begun has the lower tid.
    events = [(ack.at, 0, ack) for ack in reader.acks.values()]
    events += [(reader.attempts[key].at, 1, ack) for key, ack in reader.acks.items()
               if key in reader.attempts]
    newest = ""
    for _, begins, ack in sorted(events, key=lambda event: event[:2]):
        if begins and ack.tid <= newest:
            findings.add("disorder", f"{ack} was begun after {newest} was acknowledged")
        if not begins:
            newest = max(newest, ack.tid)

    for number, values in enumerate(counted):
        series = [values[tid] for tid in sorted(values)]
        if series != list(range(len(series))):
            findings.add("disorder", f"counter {number} counts {series[:5]}...{series[-5:]} "
                                     f"in {len(series)} revisions")
    for key, ack in reader.acks.items():
        attempt = reader.attempts.get(key)
        if attempt is not None and attempt.counter is not None:
            value = counted[attempt.counter].get(ack.tid)
            if value != ack.value:
                findings.add("lost", f"{key} counted to {ack.value} at {ack.tid}, "
                                     f"where {value} is")
    return findings
