"""What can be proved from a ledger and from what is in the database.

A pack to a time drops the revisions of each object that were superseded by
then, and with them all objects that can be reached neither from the root, over
the revisions current at that time, nor from a later revision. So there is
always something that has to be there, whatever packs there were: every revision
younger than the time of all packs, and the one current at that time of every
object that can be reached. And of all that a pack had to drop, either all is
gone or nothing.
"""

import collections

import ledger

# A transaction in the database: key is (client, seq), status one byte; records is
# {oid: State, or None where the object was made to be no more}.
Transaction = collections.namedtuple("Transaction", "tid key status records")


class Findings:
    """What is wrong, by kind. Empty where all is well."""

    KINDS = {
        "lost": "acknowledged, but not there",
        "partial": "transactions that are there in part",
        "duplicate": "oids given more than once",
        "undead": "given up before tpc_finish, but there",
        "foreign": "revisions nobody attempted, or damaged ones",
        "disorder": "tids or counters out of order",
        "undone": "states after undo that are not those before",
        "blob": "blobs that are missing, or not what was stored",
        "half": "packs that took effect in part",
        "bucket": "objects in the bucket that are missing, or that nothing needs",
        "view": "answers that differ from what is in the bucket, or from others",
        "unread": "reads that failed at nodes to which nothing was done",
        "complaint": "seen by a client",
    }

    def __init__(self):
        self.found = {kind: [] for kind in self.KINDS}

    def __bool__(self):
        return any(self.found.values())

    def add(self, kind, text):
        if text not in self.found[kind]:
            self.found[kind].append(text)

    def update(self, other):
        for kind, texts in other.found.items():
            for text in texts:
                self.add(kind, text)

    def count(self, kind):
        return len(self.found[kind])

    def describe(self, most=10):
        lines = []
        for kind, texts in self.found.items():
            if texts:
                lines.append(f"{kind} ({self.KINDS[kind]}): {len(texts)}")
                lines += ["    " + text for text in texts[:most]]
        return "\n".join(lines)


def judge(reader, transactions, counters, acks=None):
    """Compare the ledger with all transactions that are in the database.

    While clients go on, acks are those that came before the transactions were
    read, and the reader has read on since. No pack may be under way."""
    return _Judgement(reader, transactions, counters,
                      reader.acks if acks is None else acks).findings


class _Judgement:

    def __init__(self, reader, transactions, counters, acks):
        self.findings = Findings()
        self.reader, self.counters, self.acks = reader, counters, acks
        self.there = {}    # (client, seq) -> Transaction
        self.present = {}  # (oid, tid) -> State or None
        for transaction in transactions:
            self.transaction(transaction)

        # What was committed, as far as is known: that which was acknowledged,
        # and that which is there. By oid, in order.
        tids = {key: t.tid for key, t in self.there.items()}
        tids.update((key, ack.tid) for key, ack in acks.items())
        self.written = collections.defaultdict(list)  # oid -> [(tid, key)]
        self.content = {}                             # (oid, tid) -> stamp or None
        for key, tid in sorted(tids.items(), key=lambda item: item[1]):
            if key in reader.attempts:
                for oid, stamp in reader.attempts[key].contents(counters).items():
                    self.written[oid].append((tid, key))
                    self.content[oid, tid] = stamp

        for complaint in reader.complaints:
            self.findings.add("complaint", complaint)
        self.oids()
        self.complete()
        self.packs(transactions)
        self.order()
        self.count()

    def transaction(self, transaction):
        """Whether it is one that somebody attempted, with what was attempted."""
        tid, key, _, records = transaction
        add = self.findings.add
        self.present.update(((oid, tid), state) for oid, state in records.items())
        if key not in self.reader.attempts:
            add("foreign", f"nobody attempted {key}, at {tid}")
            return
        if key in self.there:
            add("partial", f"{key} is there twice, at {self.there[key].tid} and {tid}")
        self.there[key] = transaction
        if key in self.reader.given_up:
            add("undead", f"{key} at {tid}")
        if key in self.acks and self.acks[key].tid != tid:
            add("lost", f"{key} at {self.acks[key].tid}: it is there at {tid}")
        attempt = self.reader.attempts[key]
        expected = attempt.contents(self.counters)
        for oid, state in records.items():
            stamp = state and state.stamp
            if state == ledger.DAMAGED:
                add("foreign", f"{oid} at {tid} is damaged")
            elif oid not in expected:
                add("foreign", f"{oid} at {tid}: {key} did not attempt to write it")
            elif stamp != expected[oid]:
                add("foreign" if attempt.then is None else "undone",
                    f"{oid} at {tid} is {stamp}, not {expected[oid]}")

    def oids(self):
        owners = {}
        for client, oid in self.reader.oids:
            if oid in owners:
                self.findings.add("duplicate", f"oid {oid}: to client {owners[oid]}, "
                                               f"then to client {client}")
            owners[oid] = client

    # -- what has to be there

    def current(self, oid, limit):
        """The tid of the revision that was current at the limit, or None."""
        return max((tid for tid, _ in self.written[oid] if tid <= limit), default=None)

    def needed(self, limit):
        """What no pack to the limit may drop: (oid, tid)."""
        needed = {revision for revision in self.content if revision[1] > limit}
        todo = [ledger.ROOT] + [oid for (_, tid), state in self.present.items()
                                if state and tid > limit for oid in state.refs]
        reached = set()
        while todo:
            oid = todo.pop()
            revision = oid, self.current(oid, limit)
            if oid in reached or self.content.get(revision) is None:
                continue
            reached.add(oid)
            needed.add(revision)
            if self.present.get(revision):
                todo += self.present[revision].refs
        return needed

    def complete(self):
        """Whether all is there that no pack may have dropped."""
        missing = collections.defaultdict(list)
        keys = {(oid, tid): key for oid, all_ in self.written.items() for tid, key in all_}
        for oid, tid in self.needed(self.reader.packed_to()) - self.present.keys():
            missing[keys[oid, tid]].append(oid)
        for key, oids in sorted(missing.items()):
            text = (f"{key}: {len(oids)} of {len(self.reader.attempts[key].contents(self.counters))}"
                    f" objects are missing, {sorted(oids)[:3]}")
            if key in self.there:
                self.findings.add("partial", text)
            if key in self.acks:
                self.findings.add("lost", f"at {self.acks[key].tid} {text}")

    # -- what has to be gone

    def packs(self, transactions):
        """Whether a pack dropped all that it had to, or nothing.

        The one that counts is the first that accounts for all that is gone: the
        last one that was done, or one after it whose outcome is unknown."""
        for before, after in zip(transactions, transactions[1:]):
            if before.status != b"p" and after.status == b"p":
                self.findings.add("half", f"{after.tid} counts as packed, {before.tid} before it does not")
        packs = self.reader.packs
        done = max((packs[number].tid for number in self.reader.packed), default="")
        gone = self.content.keys() - self.present.keys()
        for limit in sorted({done} | {pack.tid for pack in packs.values() if pack.tid > done}):
            needed = self.needed(limit)
            if not gone & needed:
                break
        # A pack to now may have come before transactions that were under way.
        start = min((pack.at for pack in packs.values() if pack.tid >= limit), default=0)
        referred = {oid for state in self.present.values() if state for oid in state.refs}
        for oid, tid in sorted(self.present.keys() - needed):
            if self.dispensable(oid, tid, limit, start, referred):
                self.findings.add("half", f"{oid} at {tid} is there, in spite of a pack to {limit}")

    def dispensable(self, oid, tid, limit, start, referred):
        """Whether a pack to the limit, begun at the start, had to drop a
        revision that is not needed."""
        later = [(t, key) for t, key in self.written[oid] if t > tid]
        if any(self.content[oid, t] == self.content.get((oid, tid)) for t, _ in later):
            return False  # shared with an undo
        keys = [key for t, key in later if t <= limit]
        if not keys:
            if oid in referred:
                return False
            keys = [key for t, key in self.written[oid] if t == tid]
        return any(key in self.acks and self.acks[key].at < start for key in keys)

    # -- in which order

    def order(self):
        by_tid = {}
        for key, tid in [(key, t.tid) for key, t in self.there.items()]:
            if by_tid.setdefault(tid, key) != key:
                self.findings.add("disorder", f"tid {tid} is of {by_tid[tid]} and of {key}")

        # What was acknowledged before another was begun has the lower tid.
        events = [(ack.at, 0, ack) for ack in self.acks.values()]
        events += [(self.reader.attempts[key].at, 1, ack) for key, ack in self.acks.items()
                   if key in self.reader.attempts]
        newest = ""
        for _, begins, ack in sorted(events, key=lambda event: event[:2]):
            if begins and ack.tid <= newest:
                self.findings.add("disorder", f"{ack} was begun after {newest} was acknowledged")
            if not begins:
                newest = max(newest, ack.tid)

    def count(self):
        """Whether the counters count. What was packed is gone at their beginning."""
        for number, oid in enumerate(self.counters):
            values = {tid: state.value for (o, tid), state in self.present.items()
                      if o == oid and state}
            series = [values[tid] for tid in sorted(values)]
            first = series[0] if series and self.reader.packs else 0
            if series != list(range(first, first + len(series))):
                self.findings.add("disorder", f"counter {number} counts {series[:5]}..."
                                  f"{series[-5:]} in {len(series)} revisions")
            for key, ack in self.acks.items():
                if key not in self.reader.attempts or self.reader.attempts[key].counter != number:
                    continue
                there = values.get(ack.tid)
                if there != ack.value if there is not None else ack.value >= first:
                    self.findings.add("lost", f"{key} counted to {ack.value} at {ack.tid}, "
                                              f"where {there} is")
