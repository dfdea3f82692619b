"""Undo, as ZODB's users meet it."""

import harness
import pytest
import transaction
import wire
from BTrees.Length import Length
from persistent.mapping import PersistentMapping
from ZODB.Connection import TransactionMetaData
from ZODB.POSException import POSKeyError
from ZODB.POSException import UndoError
from ZODB.utils import maxtid
from ZODB.utils import p64
from ZODB.utils import u64
from ZODB.utils import z64


@pytest.fixture
def db(served, open_db):
    return open_db(served)


def _commit(db, **values):
    with db.transaction() as connection:
        connection.root().update(values)
        transaction_ = connection.transaction_manager.get()
        transaction_.note(" ".join(f"{k}={v}" for k, v in values.items()))


def _undo(db, *ids):
    db.undoMultiple(list(ids))
    transaction.commit()


def _root(db):
    with db.transaction() as connection:
        return dict(connection.root())


def test_undo_and_its_undo(db, served, open_db):
    other = open_db(served)
    _commit(db, n=1)
    _commit(db, n=2)
    other.storage.ping()
    assert _root(other) == {"n": 2}
    _undo(db, db.undoLog(0, 1)[0]["id"])
    assert _root(db) == {"n": 1}
    other.storage.ping()
    assert _root(other) == {"n": 1}
    _undo(other, other.undoLog(0, 1)[0]["id"])
    db.storage.ping()
    assert _root(db) == _root(other) == {"n": 2}
    served.restart()
    assert _root(open_db(served)) == {"n": 2}


def test_undo_of_a_creation_and_back(db):
    with db.transaction() as connection:
        connection.root()["child"] = child = PersistentMapping({"a": 1})
    oid = child._p_oid
    _undo(db, db.undoLog(0, 1)[0]["id"])
    assert _root(db) == {}
    with pytest.raises(POSKeyError):
        db.storage.load(oid)
    with pytest.raises(POSKeyError):
        db.storage.getTid(oid)
    _undo(db, db.undoLog(0, 1)[0]["id"])
    with db.transaction() as connection:
        assert connection.root()["child"] == {"a": 1}


def test_several_undos_in_one_transaction(db):
    for n in range(5):
        _commit(db, n=n)
    _undo(db, *(entry["id"] for entry in db.undoLog(0, 3)))
    assert _root(db) == {"n": 1}
    assert len(db.undoLog(0, 100)) == 7  # with the root's creation


def test_a_change_that_others_built_upon_is_merged(db):
    with db.transaction() as connection:
        connection.root()["length"] = Length(1)
    for change in (10, 100, 1000):
        with db.transaction() as connection:
            connection.root()["length"].change(change)
    log = db.undoLog(0, 4)
    _undo(db, log[1]["id"])
    with db.transaction() as connection:
        assert connection.root()["length"]() == 1011
    # Two at once, in each order.
    _undo(db, log[2]["id"], log[1]["id"])
    _undo(db, db.undoLog(0, 1)[0]["id"])
    _undo(db, log[0]["id"])
    with db.transaction() as connection:
        assert connection.root()["length"]() == 11


def test_an_undo_that_is_impossible_is_an_error_of_the_transaction(db):
    with db.transaction() as connection:
        connection.root()["child"] = PersistentMapping({"a": 1})
    created = db.undoLog(0, 1)[0]["id"]
    with db.transaction() as connection:
        connection.root()["child"]["a"] = 2
        oid = connection.root()["child"]._p_oid
    db.undo(created)
    with pytest.raises(UndoError) as caught:
        transaction.commit()
    transaction.abort()
    assert [about for about, _ in caught.value._errs] == [oid]
    if not harness.REFERENCE:  # whose reasons cannot be shown in msgpack
        assert "changed by a later transaction" in str(caught.value)
    for unknown in (b"AAAAAAAAAAA=", b"nonsense"):
        db.undo(unknown)
        with pytest.raises(Exception):
            transaction.commit()
        transaction.abort()
    _commit(db, n=1)
    assert _root(db)["n"] == 1


def test_what_was_deleted_is_brought_back(served, open_storage):
    storage = open_storage(served)
    oid = storage.new_oid()
    data = wire.record({"data": {}})

    def commit(call):
        txn = TransactionMetaData()
        storage.tpc_begin(txn)
        call(txn)
        oids = storage.tpc_vote(txn)
        return storage.tpc_finish(txn), oids
    stored, _ = commit(lambda txn: storage.store(oid, z64, data, "", txn))
    deleted, _ = commit(lambda txn: storage.deleteObject(oid, stored, txn))
    with pytest.raises(POSKeyError):
        storage.load(oid)
    assert storage.loadBefore(oid, deleted) == (data, stored, deleted)
    undone, oids = commit(lambda txn: storage.undo(storage.undoLog(0, 1)[0]["id"], txn))
    assert oids == [oid]
    assert storage.load(oid) == (data, undone)
    assert storage.loadSerial(oid, undone) == data
    with pytest.raises(POSKeyError):
        storage.loadBefore(oid, p64(u64(deleted) + 1))
    assert [h["size"] for h in storage.history(oid, 3)] == [0, 0, len(data)]
    assert storage.loadBefore(oid, maxtid)[1] == undone


EXTENSION = {"request_type": "View", "straße": "äöü €", "rank": -3, "ratio": 0.5,
             "flag": True, "nothing": None, "raw": b"\0\xff", "nested": {"a": {"b": 1}}}


def test_the_log_says_what_was_sent(served, open_storage):
    storage = open_storage(served)
    txn = TransactionMetaData(user="René d'Été", description="warum " * 5000,
                              extension=EXTENSION)
    oid = storage.new_oid()
    storage.tpc_begin(txn)
    storage.store(oid, z64, wire.record({}), "", txn)
    storage.tpc_vote(txn)
    tid = storage.tpc_finish(txn)
    [entry] = storage.undoLog()
    [revision] = storage.history(oid)
    [iterated] = storage.iterator()
    for seen in (entry, revision, vars(iterated) | {
            "user_name": iterated.user, "description": iterated.description}):
        assert seen["user_name"] == "René d'Été".encode()
        assert seen["description"] == b"warum " * 5000
    assert {k: entry[k] for k in EXTENSION} == EXTENSION
    assert {k: revision[k] for k in EXTENSION} == EXTENSION
    assert iterated.extension == EXTENSION
    assert entry["time"] == revision["time"]
    assert (iterated.tid, iterated.status) == (tid, " ")


def test_the_log_counts_and_filters(db):
    for n in range(30):
        with db.transaction() as connection:
            connection.root()["n"] = n
            transaction_ = connection.transaction_manager.get()
            transaction_.user = f"user{n % 3}"
            transaction_.note(f"change {n}")
            transaction_.setExtendedInfo("n", n)
    storage = db.storage

    def notes(log):
        return [entry["description"] for entry in log]
    everything = [b"change %d" % n for n in reversed(range(30))] + [b"initial database creation"]
    assert notes(storage.undoLog()) == everything[:20]
    for first, last in ((0, -5), (5, -5), (0, 5), (5, 10), (28, -10), (31, -5), (5, 5), (7, 3), (0, 0)):
        expected = everything[first:(first - last if last < 0 else last)]
        assert notes(storage.undoLog(first, last)) == expected, (first, last)
        assert notes(storage.undoInfo(first, last)) == expected, (first, last)
    assert notes(storage.undoInfo(0, -3, {"user_name": b"user1"})) == [
        b"change 28", b"change 25", b"change 22"]
    assert notes(storage.undoInfo(1, 3, {"user_name": b"user1"})) == [b"change 25", b"change 22"]
    assert notes(storage.undoInfo(0, -20, {"n": 7})) == [b"change 7"]
    assert notes(storage.undoInfo(0, -20, {"n": 7.0, "user_name": b"user1"})) == [b"change 7"]
    assert notes(storage.undoInfo(0, -20, {"n": 7, "user_name": b"user2"})) == []
    assert notes(storage.undoInfo(0, -20, {"user_name": "user1"})) == []  # no bytes
    assert notes(storage.undoInfo(0, -3, {})) == everything[:3]
    times = [entry["time"] for entry in storage.undoLog(0, -100)]
    assert times == sorted(times, reverse=True)
