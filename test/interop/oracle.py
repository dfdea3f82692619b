"""FileStorage as the oracle: two servers, the same operations, the same answers.

A Run does random operations on the server that is tested and on ZEO's own
server over a FileStorage, through stock clients, and compares everything that a
client can see after each step. Everything comes from the seed: operation n and
the queries after it are the same in each run.

A run is cut into databases: a fresh one is begun after some steps, and after a
pack by which the two may differ from then on.

Differences that are wanted, each with its reason:

undo            The server runs no Python: a conflict, also one of undo, goes
                back to the client. If the client cannot resolve it, that is a
                ConflictError, where a FileStorage says MultipleUndoErrors. Both
                name the object. If there are also objects for which undo is
                impossible, MultipleUndoErrors names those only, of all
                transactions to be undone and not of the first that fails.
several reasons Of several reasons to refuse a transaction the reference names the
                first in the order of the calls. This server knows all at vote,
                and those that the client cannot resolve come first.
invalidations   The reference announces neither what deleteObject deleted nor
                what was restored, so its clients go on with stale caches. This
                server announces all, and remembers it as far back as its
                database goes, not for so many transactions.
pack            A FileStorage fails at a reference to nothing, drops what only
                later revisions refer to, hides older revisions whose data a
                later one shares, and deletes blobs of later revisions of objects
                that were garbage, or deleted, for a time; this server does none of it. After
                such a pack it is proved that what must be there is there. Where the
                root does not exist, all would be garbage, and both refuse to pack; but
                a FileStorage takes a root that undo made not exist again for one that
                refers to nothing, and drops all the rest.
restarts        A FileStorage whose newest transaction was packed away has
                forgotten its tid when it is opened again, and its clients then
                refuse it for ever. There is no restart in that state.
deleted objects The reference counts objects that were deleted until it is packed,
                and its record_iternext fails at them. This server does neither.
blob records    ZEO's client sends the record of a blob twice in a transaction,
                and a FileStorage keeps both; so it does with those of several
                undos in one transaction. The last one counts.
deletions       The getTid of a FileStorage takes an object that does not exist
                again, after undo, for one that does; so a transaction that relies
                upon that object is not refused, or for its serial. Its iterator
                names the transaction whose data a record shares also where undo
                goes back to a state in which the object did not exist: there is no
                data.
                That an object does not exist is one state here, so a deletion can
                be undone whenever the object does not exist; a FileStorage wants
                it to be the newest change, or the one that undo went back to.
several undos   A merge by the client takes care of changes of an object that
                followed each other. Undo of others, with changes between them
                that stay, is refused; a FileStorage can merge them one by one.

Not compared: new oids (the reference gives them out again after a restart), the
sizes of transactions in undoLog (lengths in a Data.fs), the size of the database.
"""

import ast
import collections
import pathlib
import random

import harness
import oracle_records
from oracle_operations import Generator
from oracle_side import Raised
from oracle_side import Side
from oracle_side import UnknownMark
from oracle_world import World

# Steps on one database, at most; and after how many everything is compared.
DATABASE_STEPS = 150
SWEEP = 40


class Difference(AssertionError):
    pass


def first_difference(ours, theirs, where=""):
    """Where two answers differ first, in words."""
    if type(ours) is type(theirs) and isinstance(ours, dict):
        for key in sorted(ours.keys() | theirs.keys(), key=repr):
            if key not in ours or key not in theirs:
                which = "reference" if key not in ours else "tested server"
                return f"{where}[{key!r}] is only with the {which}"
            if ours[key] != theirs[key]:
                return first_difference(ours[key], theirs[key], f"{where}[{key!r}]")
    if type(ours) is type(theirs) and isinstance(ours, (list, tuple)):
        for n, (a, b) in enumerate(zip(ours, theirs)):
            if a != b:
                return first_difference(a, b, f"{where}[{n}]")
        if len(ours) != len(theirs):
            which = "tested server" if len(ours) > len(theirs) else "reference"
            more = max(ours, theirs, key=len)[min(len(ours), len(theirs))]
            return f"{where}: only the {which} has {_short(more)}"
    return f"{where}: tested server {_short(ours)}\n{' ' * len(where)}  reference     {_short(theirs)}"


def _short(value):
    text = repr(value)
    return text if len(text) < 600 else f"{text[:300]} ... {text[-200:]}"


class Run:
    """One run from one seed.

    open_side   a function (name, msgpack, pack_gc, reference) -> Side
    log         where the operations on the present database are written
    reference   compare the reference with itself
    """

    def __init__(self, seed, open_side, log, reference=harness.REFERENCE):
        self.seed = seed
        self.open_side = open_side
        self.log = pathlib.Path(log)
        self.reference = reference
        self.generator = Generator()
        self.outcomes = collections.Counter()
        self.sides = []
        self.over = True  # the next step begins a database
        self.step = 0
        self.operation = None

    # -- running

    def run(self, steps):
        while self.step < steps:
            self.step += 1
            rng = self.rng("operation")
            if self.over or self.step - self.begun >= DATABASE_STEPS:
                self.take(self.generator.begin(rng))
            else:
                self.take(self.generator.next(rng, self.world))
        self.close()

    def replay(self, lines):
        """The operations of a log, of which some may have been taken out."""
        for line in lines:
            number, _, literal = line.partition(" ")
            self.step = int(number)
            self.take(ast.literal_eval(literal))
        self.close()

    def take_all(self, operations):
        for operation in operations:
            self.step += 1
            self.take(operation)

    def rng(self, what):
        return random.Random(f"{self.seed} {self.step} {what}")

    def take(self, operation):
        """Do one operation on both sides and compare."""
        self.operation = operation
        if operation["op"] == "begin":
            self.begin(operation)
        with open(self.log, "w" if operation["op"] == "begin" else "a") as log:
            log.write(f"{self.step} {operation!r}\n")
        if operation["op"] == "begin":
            return
        try:
            self.act(operation)
        except UnknownMark:
            self.outcomes[operation["op"] + ": left out"] += 1

    def begin(self, operation):
        self.close()
        self.begun = self.step
        self.over = False
        self.world = World()
        self.silent = {}  # mark -> oids of which the reference says nothing
        self.changed = []  # (mark, oids), also of what packs dropped
        options = {"msgpack": operation["msgpack"], "pack_gc": operation["pack_gc"]}
        self.pack_gc = operation["pack_gc"]
        self.sides = [self.open_side("tested", reference=self.reference, **options)]
        self.sides.append(self.open_side("reference", reference=True, **options))
        self.outcomes["begin"] += 1

    def close(self):
        if self.sides and not self.over:
            self.sweep()
        for side in self.sides:
            side.close()
        self.sides = []

    def fail(self, what, difference):
        raise Difference(
            f"seed {self.seed}, step {self.step}: {what}\n"
            f"operation: {_short(self.operation)}\n{difference}\n"
            f"The operations on this database: {self.log}; ORACLE_REPLAY does them again, "
            f"also when lines are taken out.\n"
            f"ORACLE_SEED={self.seed} ORACLE_STEPS={self.step} stops here.")

    # -- operations

    def act(self, operation):
        mark = f"#{self.step}"
        kind = operation["op"]
        plan = None
        if kind == "pack":
            if operation["until"] not in (None, *self.world.order):
                raise UnknownMark(operation["until"])
            plan = self.world.plan_pack(operation["until"], self.pack_gc)
        if kind == "restart":
            if self.world.last_is_gone():
                raise UnknownMark("of the last transaction")
            for side in self.sides:
                side.stop_for_restart(operation)
        resolved = self.resolve(operation)
        ours, theirs = [side.do(resolved, mark) for side in self.sides]
        self.outcomes[self.outcome(kind, operation, theirs, plan)] += 1
        if plan and plan.differs:
            self.check_pack(plan, ours, theirs)
            self.over = True
            return
        if self.is_out_of_reach(operation, ours, theirs):
            self.over = True
            return
        if not self.is_wanted(operation, ours, theirs):
            self.fail("the operation", first_difference(ours, theirs))
        touched = self.learn(resolved, kind == "pack")
        if kind in ("pack", "restart") or self.step % SWEEP == 0:
            self.sweep()
        else:
            self.compare(self.some_queries(touched))

    def resolve(self, operation):
        """The operation with marks for serials."""
        if operation["op"] == "race":
            return dict(operation, first=self.resolve(operation["first"]),
                        second=self.resolve(operation["second"]))
        if "writes" not in operation:
            return operation
        return dict(operation, writes=[
            (kind, oid, self.world.serial(oid, back), *rest)
            for kind, oid, back, *rest in operation["writes"]])

    def outcome(self, kind, operation, answer, plan):
        if plan and plan.differs:
            return f"pack: {plan.differs}, {answer}"
        if isinstance(answer, Raised):
            return f"{kind}: {answer[0]}"
        if kind in ("leave", "return"):
            return kind
        if isinstance(answer, tuple):
            resolved = answer[1] and kind != "undo"
            return f"{kind}: {answer[0]}{', resolved' if resolved else ''}"
        return f"{kind}: {answer}"

    def is_wanted(self, operation, ours, theirs):
        if ours == theirs:
            return True
        if self.reference:
            return False
        if operation["op"] == "undo":
            errors = {"ConflictError", "MultipleUndoErrors", "UndoError"}
            if not all(isinstance(answer, Raised) and answer[0] in errors
                       for answer in (ours, theirs)):
                return False
            if len(operation["undone"]) > 1:  # the reference stops at the first that fails
                return True
            if theirs[0] == "UndoError" or ours[0] == "UndoError":
                return False
            named = {ours[1]} if ours[0] == "ConflictError" else set(ours[1])
            return named <= set(theirs[1])
        if operation["op"] in ("commit", "race"):
            return (self.are_both_reasons(operation.get("second", operation), ours, theirs)
                    or self.is_check_of_nothing(operation, ours)
                    and isinstance(theirs, Raised)
                    and theirs[:2] == ("ReadConflictError", ours[1]))
        if operation["op"] in ("leave", "return") and isinstance(ours, dict) and isinstance(theirs, dict):
            silent = set().union(*self.silent.values(), ())
            return all(answer == theirs[oid] or oid in silent and answer == self.truth(oid)
                       for oid, answer in ours.items())
        return False

    def is_out_of_reach(self, operation, ours, theirs):
        """Whether only one of the two could do it.

        The reference can merge several undos of one object, and it takes an object
        that undo made not exist again for one that can be relied upon. This server
        can undo any deletion of an object that does not exist.
        """
        if (not self.reference and self.is_check_of_nothing(operation, ours)
                and not isinstance(theirs, Raised)):
            return True
        if (operation["op"] == "undo" and not self.reference and not isinstance(ours, Raised)
                and isinstance(theirs, Raised) and theirs[0] == "MultipleUndoErrors"):
            return all(self.is_undone_deletion(oid, operation["undone"], ours[0])
                       for oid in theirs[1])
        if (self.reference or operation["op"] != "undo" or not isinstance(ours, Raised)
                or ours[0] != "MultipleUndoErrors" or isinstance(theirs, Raised)):
            return False
        changed = collections.Counter(
            record[0] for t in self.world.transactions if t[0] in operation["undone"]
            for record in t[-1])
        return all(changed[oid] > 1 for oid in ours[1])

    def is_check_of_nothing(self, operation, ours):
        """Whether it was refused for relying upon an object that does not exist."""
        return (operation["op"] == "commit" and isinstance(ours, Raised) and ours[0] == "POSKeyError"
                and self.world.data(ours[1]) is None
                and any(kind == "check" and oid == ours[1] for kind, oid, *_ in operation["writes"]))

    def is_undone_deletion(self, oid, undone, outcome):
        """Whether one of the transactions deleted the object, and all is as before that.

        With several of them it may have been any that brought the object there.
        """
        revisions = self.world.revisions.get(oid, [])
        before = [(revisions[n - 1][1] if n else None) for n, (mark, data, _)
                  in enumerate(revisions) if mark in undone and data is None]
        if len(undone) > 1:
            return bool(before)
        if not before or self.world.data(oid) is not None:
            return False
        if outcome != "committed":
            return True
        told = self.sides[0].ask(("load", oid))
        return (None if isinstance(told, Raised) or told is None else told[0]) == before[0]

    def are_both_reasons(self, operation, ours, theirs):
        """Whether two errors are two of the reasons against one transaction."""
        # In a race the other may just have written any of them.
        wrong = {oid for _, oid, back, *_ in operation["writes"]
                 if back or self.world.data(oid) is None or self.operation["op"] == "race"}
        errors = {"ConflictError", "ReadConflictError", "POSKeyError"}
        return len(wrong) > 1 and all(
            isinstance(answer, Raised) and answer[0] in errors and answer[1] in wrong
            for answer in (ours, theirs))

    def truth(self, oid):
        data = self.world.data(oid)
        if data is None:
            return Raised(("POSKeyError", oid))
        return data, self.world.serial(oid)

    def check_pack(self, plan, ours, theirs):
        """After a pack by which the two differ: what must be there is there."""
        if self.reference:
            if ours != theirs:
                self.fail("the pack", first_difference(ours, theirs))
            return
        if ours is not None:
            # Without a root, and without anything later, all would be garbage.
            rootless = (self.pack_gc and 0 not in plan.current
                        and all(data is None for _, _, data, _ in plan.later))
            if ours != Raised(("StorageError",)) or not rootless:
                self.fail("the pack of the tested server", ours)
            return
        before = {(oid, mark): data for oid, revisions in self.world.revisions.items()
                  for mark, data, _ in revisions}
        after, kept = (self.records(side) for side in self.sides)
        # What a FileStorage keeps of an object that does not exist is of no use; nor
        # is what only the first of two records of one transaction shared.
        shared = {(oid, mark) for oid, _, _, mark in plan.later}
        kept = {key for key, data in kept.items() if data is not None and key in shared}
        for key in plan.kept | (kept if theirs is None else set()):
            if key not in after:
                self.fail("the pack", f"object {key[0]} of {key[1]} is gone")
        for key, data in after.items():
            if key not in before or before[key] != data:
                self.fail("the pack", f"object {key[0]} of {key[1]} was not so before: "
                                      f"{_short(data)}")

    def records(self, side):
        return {(oid, mark): data for t in side.ask(("iterate", None, None))
                for oid, mark, data, _ in t[-1]}

    def learn(self, operation, packed):
        """Bring the world up to date; the objects that changed."""
        order = list(self.sides[1].tids)
        if list(self.sides[0].tids) != order:
            self.fail("the commits", first_difference(list(self.sides[0].tids), order))
        new = order[len(self.world.order):]
        self.world.committed(new)
        if operation["op"] == "undo" and len(operation["undone"]) > 1:
            self.world.twice.update(new)
        query = ("iterate", None if packed or not new else new[0], None)
        if not packed and not new:
            return []
        self.compare([query])
        transactions = self.sides[1].ask(query)
        (self.world.packed if packed else self.world.extend)(transactions)
        if packed:
            return []
        touched = []
        for t in transactions:
            oids = {record[0] for record in t[-1]}
            self.changed.append((t[0], oids))
            self.silent[t[0]] = self.unannounced(operation, oids)
            touched += sorted(oids)
            if operation["op"] == "undo":
                for _, _, data, data_txn in t[-1]:
                    how = "gone" if data is None else "shared" if data_txn else "resolved"
                    self.outcomes[f"undo: a record is {how}"] += 1
        return touched

    def unannounced(self, operation, oids):
        if operation["op"] == "restore":
            return oids
        return {oid for kind, oid, *_ in operation.get("writes", ()) if kind == "delete"}

    # -- queries

    def compare(self, queries):
        for query in queries:
            ours, theirs = [side.ask(query) for side in self.sides]
            difference = self.judge(query, ours, theirs)
            if difference:
                self.fail(f"{query[0]}{query[1:]!r}", difference)

    def judge(self, query, ours, theirs):
        """None, or what is wrong."""
        if self.reference:
            return ours != theirs and first_difference(ours, theirs)
        if query[0] == "events":
            theirs = [(mark, sorted({*oids, *self.silent.get(mark, ())})) for mark, oids in theirs]
        if (query[0] == "getTid" and self.world.data(query[1]) is None
                and ours == Raised(("POSKeyError", query[1]))):
            return None
        if query[0] == "iterate" and not isinstance(theirs, Raised):
            theirs = [(*head, [(oid, mark, data, None if data is None else data_txn)
                               for oid, mark, data, data_txn in records])
                      for *head, records in theirs]
        if query[0] == "info" and not isinstance(ours, Raised):
            theirs = {**theirs, "length": len(self.world.alive())}
        if query[0] == "getInvalidations":
            return self.judge_invalidations(query[1], ours, theirs)
        return ours != theirs and first_difference(ours, theirs)

    def judge_invalidations(self, since, ours, theirs):
        if ours == theirs:
            return None
        start = 0 if since == "zero" else self.world.position(since.rstrip("+-"))
        start += since[-1] not in "o-"
        marks = set(self.world.order[start:])
        most = set().union(*(oids for mark, oids in self.changed if mark in marks))
        least = {record[0] for t in self.world.transactions if t[0] in marks for record in t[-1]}
        if ours is None or isinstance(ours, Raised) or ours[0] != self.world.order[-1]:
            return first_difference(ours, theirs)
        if not least <= set(ours[1]) <= most:
            return f"tested server {ours}, where at least {sorted(least)}, at most {sorted(most)}"
        return None

    def some_queries(self, touched):
        """Queries after a step: about what it touched, and some about the rest."""
        rng = self.rng("queries")
        yield ("client_tids",)
        yield ("events",)
        world = self.world
        oids = list(dict.fromkeys([*touched, *(rng.randint(0, 25) for _ in range(2))]))
        for oid in oids:
            yield ("load", oid)
            yield ("getTid", oid)
            yield ("history", oid, rng.choice([1, 2, 3, 100]))
            yield ("loadBefore", oid, self.moment(rng))
            yield ("loadSerial", oid, rng.choice([world.serial(oid), self.moment(rng)]))
            revision = rng.choice(world.revisions.get(oid, [("zero", None, None)]))
            yield ("loadBefore", oid, revision[0])
            if self.is_blob(revision[1]) or rng.random() < 0.05:
                yield ("loadBlob", oid, revision[0])
            if self.is_blob(world.data(oid)):
                yield ("loadBlob", oid, world.serial(oid))
        rest = [
            ("tid",), ("info",),
            ("undoLog", 0, rng.choice([-5, -20])),
            ("undoLog", rng.randint(0, 9), rng.randint(0, 20)),
            ("undoInfo", rng.randint(0, 3), rng.choice([-5, 30]), self.specification(rng)),
            ("getInvalidations", self.moment(rng)),
        ]
        yield from (query for query in rest if rng.random() < 0.5)
        if rng.random() < 0.3:
            start, stop = self.moment(rng, 6), self.moment(rng, 12)
            yield ("iterate", start, rng.choice([stop, start, None]))
        if rng.random() < 0.15:
            yield ("records",)

    def is_blob(self, data):
        return data is not None and oracle_records.kind(data) == "blob"

    def moment(self, rng, recent=None):
        """A mark, or just before or after one."""
        order = self.world.order[-recent:] if recent else self.world.order
        if not order or rng.random() < 0.03:
            return "zero"
        return rng.choice(order) + rng.choice(["", "+", "-"])

    def specification(self, rng):
        transaction = rng.choice(self.world.transactions or [(0, 0, b"", b"", {}, [])])
        return rng.choice([
            {"user_name": transaction[2]}, {"description": transaction[3]},
            {"user_name": transaction[2], "description": transaction[3]},
            {"request_type": "POST"}, {"no such key": 1}, {}, None])

    def sweep(self):
        """Compare everything."""
        world = self.world
        self.compare([
            ("client_tids",), ("events",), ("tid",), ("info",), ("records",),
            ("iterate", None, None), ("undoLog", 0, -1000), ("undoInfo", 0, -1000, None)])
        for oid in sorted({*world.revisions, 25}):
            self.compare([("load", oid), ("getTid", oid), ("history", oid, 1000)])
            for mark, data, _ in world.revisions.get(oid, ()):
                self.compare([("loadBefore", oid, mark), ("loadBefore", oid, mark + "+"),
                              ("loadSerial", oid, mark)])
                if self.is_blob(data):
                    self.compare([("loadBlob", oid, mark)])
        for mark in world.order[::7]:
            self.compare([("getInvalidations", mark)])
