"""What the oracle test knows of a database: what the reference's iterator said.

A World is the list of transactions in plain values, as Side.query_iterate gives
them, and what follows from it: revisions, references, what a pack will do.
"""

import bisect

import oracle_records


class World:
    def __init__(self, transactions=()):
        self.order = []  # marks, in the order of the commits; packs take none out
        self.twice = set()  # those that may have two records of one object
        self.transactions = []
        self.revisions = {}  # oid -> [(mark, data or None, data_txn)]
        self.extend(transactions)

    def extend(self, transactions):
        for transaction in transactions:
            self.transactions.append(transaction)
            for oid, mark, data, data_txn in transaction[-1]:
                revisions = self.revisions.setdefault(oid, [])
                # Two records of one object in a transaction: the later counts.
                if revisions and revisions[-1][0] == mark:
                    revisions.pop()
                revisions.append((mark, data, data_txn))

    def packed(self, transactions):
        """After a pack: what is left."""
        self.transactions, self.revisions = [], {}
        self.extend(transactions)

    def committed(self, marks):
        self.order.extend(marks)

    def data(self, oid):
        """The current record of an object, or None."""
        revisions = self.revisions.get(oid)
        return revisions[-1][1] if revisions else None

    def serial(self, oid, back=0):
        """The mark of a revision, so many before the current one; -1 is none."""
        marks = [mark for mark, _, _ in self.revisions.get(oid, ())]
        return marks[-1 - back] if 0 <= back < len(marks) else "zero"

    def alive(self):
        return [oid for oid in self.revisions if self.data(oid) is not None]

    def reachable(self):
        reached, todo = set(), [0]
        while todo:
            oid = todo.pop()
            if oid not in reached and self.data(oid) is not None:
                reached.add(oid)
                todo.extend(oracle_records.references(self.data(oid)))
        return reached

    def position(self, mark):
        return self.order.index(mark)

    def last_is_gone(self):
        """Whether a pack has dropped the newest transaction."""
        return bool(self.order) and (
            not self.transactions or self.transactions[-1][0] != self.order[-1])

    def plan_pack(self, until, gc):
        return PackPlan(self, len(self.order) if until is None else self.position(until) + 1, gc)


class PackPlan:
    """What a pack keeps.

    kept       {(oid, mark)}: what has to be there afterwards, in any storage
    differs    why a FileStorage does otherwise, or None: it fails, or it drops
               what later revisions refer to
    """

    def __init__(self, world, end, gc):
        before = set(world.order[:end])
        self.current = {}  # oid -> (mark, data) at the pack's time
        self.later = []
        ghosts = set()  # objects that undo made not exist again, which a FileStorage keeps
        for oid, revisions in world.revisions.items():
            for mark, data, data_txn in revisions:
                if mark not in before:
                    self.later.append((oid, mark, data, data_txn))
                    continue
                ghosts.discard(oid)
                if data is not None:
                    self.current[oid] = (mark, data)
                    continue
                self.current.pop(oid, None)
                if data_txn is not None:
                    ghosts.add(oid)
        self.dangling = False
        self.differs = None
        if self._is_redundant(world, before):
            self.kept = {(oid, mark) for oid, revisions in world.revisions.items()
                         for mark, _, _ in revisions}
            return
        later = {(oid, mark) for oid, mark, _, _ in self.later}
        if not gc:
            self.kept = later | {(oid, mark) for oid, (mark, _) in self.current.items()}
            shared = any(t in before and (oid, t) not in self.kept
                         for oid, _, _, t in self.later if t is not None)
            self.differs = (
                "it loses its way to data that a later record shares" if shared else
                "it deletes blobs of later revisions" if self._loses_blobs(world, before, self.current) else
                "it keeps an object that does not exist" if ghosts else
                "it may keep what the first of two records shares" if world.twice - before else
                None)
            return
        # A FileStorage starts at the root, and wants to find whatever is referred to.
        first = self._reach([0] if self.current else [])
        fails = self.dangling
        # It follows what a later record of a reachable object shares with an
        # earlier one; other objects that share are kept, and not followed.
        roots, others = set(), set()
        for oid, mark, data, data_txn in self.later:
            if data_txn in before:
                if oid in first:
                    roots.update(oracle_records.references(data))
                else:
                    others.add(oid)
        with_shared = first | self._reach(roots, first | others)
        fails = fails or self.dangling
        everything = with_shared | self._reach(
            {r for _, _, data, _ in self.later for r in oracle_records.references(data)},
            with_shared)
        self.kept = later | {(oid, self.current[oid][0]) for oid in everything}
        hidden = any(data_txn in before and self.current.get(oid, (None,))[0] != data_txn
                     for oid, _, _, data_txn in self.later)
        self.differs = (
            "it fails at a reference to nothing" if fails else
            "it deletes blobs of later revisions" if self._loses_blobs(world, before, everything) else
            "it keeps an object that does not exist" if ghosts else
            "it may keep what the first of two records shares" if world.twice - before else
            "it hides an older record that a later one shares" if hidden else
            "it drops what later revisions refer to" if everything != with_shared else None)

    def _loses_blobs(self, world, before, kept):
        """Whether a FileStorage deletes all blobs of an object that is there later."""
        return any(oid not in kept and data is not None and oracle_records.kind(data) == "blob"
                   for oid, _, data, _ in self.later
                   if any(mark in before for mark, _, _ in world.revisions[oid]))

    @staticmethod
    def _is_redundant(world, before):
        """Whether a FileStorage takes it for done: to an earlier time, or again."""
        earlier = [t[1] for t in world.transactions if t[0] in before]
        later = [t[1] for t in world.transactions if t[0] not in before]
        return set(earlier) <= {"p"} and [*later, *earlier[-1:]][:1] == ["p"]

    def _reach(self, roots, reached=frozenset()):
        found, todo = set(), list(roots)
        while todo:
            oid = todo.pop()
            if oid in reached or oid in found:
                continue
            if oid not in self.current:
                self.dangling = True
                continue
            found.add(oid)
            todo.extend(oracle_records.references(self.current[oid][1]))
        return found
