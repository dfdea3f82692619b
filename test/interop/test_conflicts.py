"""Conflicts are raised, resolved by the client, or retried."""

import pytest
import transaction
from BTrees.Length import Length
from BTrees.OOBTree import OOBTree
from persistent.mapping import PersistentMapping
from ZODB.POSException import ConflictError
from ZODB.POSException import ReadConflictError


class Two:
    """Two connections of two clients, each with a transaction of its own."""

    def __init__(self, open_db, server):
        self.tm = [transaction.TransactionManager() for _ in range(2)]
        self.dbs = [open_db(server) for _ in range(2)]
        self.connections = [db.open(tm) for db, tm in zip(self.dbs, self.tm)]

    def roots(self):
        for db, tm in zip(self.dbs, self.tm):
            tm.abort()
            db.storage.ping()
            tm.begin()
        return [c.root() for c in self.connections]


@pytest.fixture(params=[False, True], ids=["Z5", "M5"])
def two(request, new_bucket, new_server, open_db):
    server = new_server(new_bucket("directory"), msgpack=request.param)
    two = Two(open_db, server)
    yield two
    for connection, tm in zip(two.connections, two.tm):
        tm.abort()
        connection.close()


def _setup(two, **objects):
    root, _ = two.roots()
    root.update(objects)
    two.tm[0].commit()
    return two.roots()


def test_an_unresolvable_conflict_is_raised(two):
    one, other = _setup(two, thing=PersistentMapping({"n": 0}))
    assert other["thing"]["n"] == 0
    one["thing"]["n"] = 1
    two.tm[0].commit()
    other["thing"]["n"] = 2
    with pytest.raises(ConflictError) as caught:
        two.tm[1].commit()
    assert not isinstance(caught.value, ReadConflictError)
    assert caught.value.oid == one["thing"]._p_oid
    # The loser works again, and sees what won.
    one, other = two.roots()
    assert other["thing"]["n"] == 1
    other["thing"]["n"] = 2
    two.tm[1].commit()
    one, other = two.roots()
    assert one["thing"]["n"] == 2


def test_a_conflicting_length_is_resolved(two):
    one, other = _setup(two, length=Length(10))
    assert other["length"]() == 10
    one["length"].change(1)
    two.tm[0].commit()
    other["length"].change(5)
    two.tm[1].commit()
    assert other["length"]._p_changed is None, "a resolved object is a ghost"
    assert [root["length"]() for root in two.roots()] == [16, 16]


def test_conflicting_inserts_into_one_bucket_are_resolved(two):
    one, other = _setup(two, tree=OOBTree({n: n for n in range(10)}))
    assert len(other["tree"]) == 10
    one["tree"][20] = 20
    two.tm[0].commit()
    other["tree"][30] = 30
    two.tm[1].commit()
    for root in two.roots():
        assert list(root["tree"]) == list(range(10)) + [20, 30]


def test_conflicting_inserts_of_one_key_are_raised(two):
    one, other = _setup(two, tree=OOBTree({n: n for n in range(10)}))
    assert len(other["tree"]) == 10
    one["tree"][20] = "one"
    two.tm[0].commit()
    other["tree"][20] = "other"
    with pytest.raises(ConflictError):
        two.tm[1].commit()
    assert [root["tree"][20] for root in two.roots()] == ["one", "one"]


def test_read_current_of_a_changed_object_is_a_read_conflict(two):
    one, other = _setup(two, relied_upon=PersistentMapping({"n": 0}),
                        written=PersistentMapping({"n": 0}))
    assert other["relied_upon"]["n"] == 0
    one["relied_upon"]["n"] = 1
    two.tm[0].commit()
    two.connections[1].readCurrent(other["relied_upon"])
    other["written"]["n"] = 1
    with pytest.raises(ReadConflictError) as caught:
        two.tm[1].commit()
    assert caught.value.oid == one["relied_upon"]._p_oid
    one, other = two.roots()
    assert one["written"]["n"] == 0


def test_read_current_of_an_unchanged_object_is_no_conflict(two):
    one, other = _setup(two, relied_upon=PersistentMapping({"n": 0}),
                        written=PersistentMapping({"n": 0}))
    assert other["relied_upon"]["n"] == 0
    two.connections[1].readCurrent(other["relied_upon"])
    other["written"]["n"] = 1
    two.tm[1].commit()
    one, other = two.roots()
    assert one["written"]["n"] == 1


def test_write_skew_is_prevented_by_read_current(two):
    # Each relies on the object that the other writes: one of them has to lose.
    one, other = _setup(two, a=PersistentMapping({"n": 0}), b=PersistentMapping({"n": 0}))
    assert one["a"]["n"] == other["b"]["n"] == 0
    two.connections[0].readCurrent(one["a"])
    one["b"]["n"] = 1
    two.connections[1].readCurrent(other["b"])
    other["a"]["n"] = 1
    two.tm[0].commit()
    with pytest.raises(ReadConflictError):
        two.tm[1].commit()


def test_retried_transactions_get_through(two):
    _setup(two, thing=PersistentMapping({"n": 0}))
    conflicts = 0
    for _ in range(6):
        one, other = two.roots()
        assert one["thing"]["n"] == other["thing"]["n"]
        one["thing"]["n"] += 1
        two.tm[0].commit()
        while True:
            other["thing"]["n"] += 1
            try:
                two.tm[1].commit()
                break
            except ConflictError:
                conflicts += 1
                _, other = two.roots()
    one, other = two.roots()
    assert one["thing"]["n"] == other["thing"]["n"] == 12
    assert conflicts == 6


def test_a_client_that_votes_keeps_others_from_its_objects_only(two):
    one, other = _setup(two, a=PersistentMapping({"n": 0}), b=PersistentMapping({"n": 0}))
    storage, beside = two.dbs[0].storage, two.dbs[1].storage
    from ZODB.Connection import TransactionMetaData
    data, serial = storage.load(one["a"]._p_oid)
    txn = TransactionMetaData()
    storage.tpc_begin(txn)
    storage.store(one["a"]._p_oid, serial, data, "", txn)
    storage.tpc_vote(txn)
    # The reference has a lock for all; this server has one for each object.
    import harness
    if not harness.REFERENCE:
        other["b"]["n"] = 1
        two.tm[1].commit()
    tid = storage.tpc_finish(txn)
    assert beside.getTid(one["a"]._p_oid) == tid
