"""Random operations for the oracle test, as literals that can be logged and replayed.

An operation is a dict. Serials in it are counted back from the current revision
(0; -1 is the serial of an object that does not exist), so that a log of
operations still makes sense when some are taken out. Transactions are named by
marks, see oracle_side.
"""

import oracle_records

OBJECTS = 24

USERS = ["", "", "admin", "Jürgen Müller-Lüdenscheidt", "/acl_users Zoë"]
DESCRIPTIONS = ["", "", "/site/front-page", "geändert: Größe, naïve\nzweite Zeile", "long " * 1500]
EXTENSIONS = [
    {}, {}, {"request_type": "POST"},
    {"n": -1, "big": 1 << 62, "f": 1.5, "none": None, "yes": True, "bytes": b"\xff\x00",
     "list": [1, "zwei"], "tuple": (1, (2,)), "dict": {"ä": {"b": []}}},
    # Where undoLog and history put the extension among their own keys.
    {"user_name": "from the extension", "description": "so is this"},
]
BLOB_SIZES = [0, 1, 17, 59_000, 59_001, 118_000, 300_000]

WEIGHTS = {"commit": 60, "undo": 18, "race": 5, "restore": 4, "pack": 4,
           "leave": 1, "return": 2, "restart": 1}


class Generator:
    def __init__(self):
        self.specs = {}  # record -> specification

    def begin(self, rng):
        return {"op": "begin", "pack_gc": rng.random() < 0.8,
                "msgpack": rng.random() < 0.3}

    def next(self, rng, world):
        """The next operation on that world."""
        if not world.revisions:
            return self._commit(rng, world, [("store", 0, -1, self._spec(rng, world, "node"))])
        kind, = rng.choices(list(WEIGHTS), WEIGHTS.values())
        return getattr(self, "_" + kind)(rng, world)

    # -- transactions

    def _about(self, rng):
        return {"user": rng.choice(USERS), "description": rng.choice(DESCRIPTIONS),
                "extension": rng.choice(EXTENSIONS)}

    def _end(self, rng):
        return rng.choices(["finish", "abort after vote", "abort"], [92, 6, 2])[0]

    def _commit(self, rng, world, writes=None):
        if writes is None:
            writes = self._writes(rng, world)
        return {"op": "commit", "client": rng.choice("AB"), **self._about(rng),
                "writes": writes, "end": self._end(rng) if len(world.order) > 1 else "finish"}

    def _writes(self, rng, world):
        if rng.random() < 0.04:
            return []
        writes = {}
        for _ in range(rng.choice([1, 1, 1, 2, 2, 3, 5])):
            write = self._new(rng, world) if rng.random() < 0.3 else self._change(rng, world)
            for write in write:
                writes.setdefault(write[1], write)
        return list(writes.values())

    def _new(self, rng, world):
        """A new object, and most times one that refers to it."""
        oid = rng.randint(1, OBJECTS)
        if world.data(oid) is not None:
            return self._change(rng, world, oid)
        base = 0 if rng.random() < 0.9 else -1
        kind = rng.choices(["node", "counter", "stubborn", "broken", "length", "blob"],
                           [32, 28, 5, 2, 16, 17])[0]
        writes = [self._store(rng, world, oid, base, kind)]
        if rng.random() < 0.75:
            nodes = [o for o in world.reachable() if self._kind(world, o) == "node"]
            if nodes:
                writes.append(("store", rng.choice(sorted(nodes)), 0,
                               self._spec(rng, world, "node", oid)))
        return writes

    def _change(self, rng, world, oid=None):
        if oid is None:
            oid = rng.choice(sorted(world.revisions))
        stale = 40 if self._kind(world, oid) in ("counter", "length") else 12
        base = rng.choices([0, 1, 2, -1], [100 - stale, stale / 2, stale / 3, stale / 6])[0]
        what = rng.random()
        if what < 0.10:
            return [("check", oid, base)]
        if what < 0.17 and oid:
            garbage = sorted(set(world.alive()) - world.reachable())
            if garbage and rng.random() < 0.8:
                oid = rng.choice(garbage)
            return [("delete", oid, base)]
        return [self._store(rng, world, oid, base, self._kind(world, oid))]

    def _kind(self, world, oid):
        """What class an object had, last time it was there."""
        for _, data, _ in reversed(world.revisions.get(oid, ())):
            if data is not None:
                return oracle_records.kind(data)
        return "node"

    def _store(self, rng, world, oid, base, kind):
        if kind == "blob":
            return ("blob", oid, base, (rng.randrange(1 << 30), rng.choice(BLOB_SIZES)))
        return ("store", oid, base, self._spec(
            rng, world, kind))

    def _spec(self, rng, world, kind, refer_to=None):
        if kind != "node":
            # Few values, so that different transactions write the same state.
            spec = (kind, rng.randint(0, 5))
        else:
            alive = sorted(world.alive())
            references = rng.sample(alive, min(len(alive), rng.choice([0, 1, 2, 3, 5])))
            if refer_to is not None:
                references.insert(0, refer_to)
            references = [
                (rng.choice(["bare", "weak", "foreign"]), oid) if rng.random() < 0.1 else oid
                for oid in references]
            spec = (kind, rng.randint(0, 2), references, rng.choice([0, 0, 0, 10, 3000, 70_000]))
        self.specs[oracle_records.record(spec)] = spec
        return spec

    def _race(self, rng, world):
        """B wants an object for which A has voted."""
        first = self._commit(rng, world, self._change(rng, world))
        oid = first["writes"][0][1]
        second = self._commit(rng, world, self._change(rng, world, oid))
        first.update(client="A", end=rng.choice(["finish", "finish", "abort after vote"]))
        second.update(client="B")
        for write in (first["writes"][0], second["writes"][0]):
            if write[0] in ("delete", "check"):
                return self._commit(rng, world)  # both may have the lock, or it is not the same
        return {"op": "race", "first": first, "second": second}

    def _undo(self, rng, world):
        undoable = [t[0] for t in world.transactions if t[1] == " "]
        recent = undoable[-8:] if rng.random() < 0.9 else world.order
        undone = rng.sample(recent, min(len(recent), rng.choice([1, 1, 1, 1, 2, 3])))
        if rng.random() < 0.8:
            undone.sort(key=world.position, reverse=True)
        return {"op": "undo", "client": rng.choice("AB"), **self._about(rng),
                "undone": undone, "end": self._end(rng)}

    def _restore(self, rng, world):
        """What copyTransactionsFrom does, with records of its own choice."""
        records = []
        for oid in rng.sample(range(OBJECTS + 1), rng.choice([1, 1, 2, 3])):
            mark, data, _ = rng.choice(world.revisions.get(oid, [(None, None, None)]))
            if data in self.specs and rng.random() < 0.6:
                records.append((oid, self.specs[data], mark))
            elif rng.random() < 0.2 and oid:
                records.append((oid, None, None))
            elif self._kind(world, oid) != "blob":
                records.append((oid, self._spec(rng, world, self._kind(world, oid)), None))
        return {"op": "restore", "client": "A", **self._about(rng), "records": records,
                "status": rng.choices([" ", "p"], [95, 5])[0], "end": self._end(rng)}

    # -- all else

    def _pack(self, rng, world):
        return {"op": "pack", "until": None if rng.random() < 0.4 else rng.choice(world.order)}

    def _restart(self, rng, world):
        return {"op": "restart", "how": rng.choice(["stop", "kill"])}

    def _leave(self, rng, world):
        oids = sorted(world.revisions)
        return {"op": "leave", "reads": rng.sample(oids, min(10, len(oids)))}

    def _return(self, rng, world):
        return {"op": "return", "reads": sorted(world.revisions)}
