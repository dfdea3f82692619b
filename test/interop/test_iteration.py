"""Iteration over what was committed, and copies made with it."""

import threading

import pytest
import transaction
import wire
import ZODB.FileStorage
from persistent.mapping import PersistentMapping
from ZODB.Connection import TransactionMetaData
from ZODB.POSException import ConflictError
from ZODB.POSException import POSKeyError
from ZODB.utils import p64
from ZODB.utils import u64
from ZODB.utils import z64


def _fill(db):
    """Some history: changes, a creation undone, an undo, a deletion."""
    for n in range(4):
        with db.transaction() as connection:
            root = connection.root()
            root["n"] = n
            root[f"child{n}"] = PersistentMapping({"n": n})
            transaction_ = connection.transaction_manager.get()
            transaction_.user = "someone"
            transaction_.note(f"step {n}")
            transaction_.setExtendedInfo("n", n)
    for _ in range(2):
        db.undo(db.undoLog(0, 1)[0]["id"])
        transaction.commit()
    storage = db.storage
    with db.transaction() as connection:
        child = connection.root()["child0"]
        oid, serial = child._p_oid, child._p_serial
    txn = TransactionMetaData(description="deletion")
    storage.tpc_begin(txn)
    storage.deleteObject(oid, serial, txn)
    storage.tpc_vote(txn)
    storage.tpc_finish(txn)


def _contents(storage, *range_):
    return [
        (t.tid, t.status, t.user, t.description, t.extension,
         [(r.oid, r.tid, r.data, r.data_txn) for r in t])
        for t in storage.iterator(*range_)]


@pytest.fixture
def db(served, open_db):
    db = open_db(served)
    _fill(db)
    return db


def test_a_copy_is_the_same_as_the_original(db, tmp_path, new_bucket, new_server, open_storage):
    copy = ZODB.FileStorage.FileStorage(str(tmp_path / "Copy.fs"))
    copy.copyTransactionsFrom(db.storage)
    assert _contents(copy) == _contents(db.storage)
    copy_back = open_storage(new_server(new_bucket("directory")))
    copy_back.copyTransactionsFrom(copy)
    assert _contents(copy_back) == _contents(copy)
    assert copy_back.lastTransaction() == db.storage.lastTransaction()
    assert ([e["id"] for e in copy_back.undoLog(0, -100)]
            == [e["id"] for e in db.storage.undoLog(0, -100)])
    copy.close()


def test_ranges_include_both_ends(db):
    tids = [t.tid for t in db.storage.iterator()]
    assert tids == sorted(tids)

    def got(*range_):
        return [t.tid for t in db.storage.iterator(*range_)]
    assert got(tids[2]) == tids[2:]
    assert got(tids[2], tids[4]) == tids[2:5]
    assert got(None, tids[1]) == tids[:2]
    assert got(p64(u64(tids[2]) + 1), p64(u64(tids[4]) - 1)) == tids[3:4]
    assert got(p64(u64(tids[-1]) + 1)) == []


def test_records_of_an_earlier_transaction_can_still_be_read(db):
    iterator = db.storage.iterator()
    first = next(iterator)
    records = iter(first)
    second = next(iterator)
    with pytest.raises(Exception, match="xception"):
        iter(first)
    assert [r.tid for r in records] == [first.tid]
    assert {r.tid for r in second} == {second.tid}


def test_iteration_while_others_commit(db, served, open_db):
    other = open_db(served)
    before = [t.tid for t in db.storage.iterator()]
    stop = threading.Event()

    def write():
        n = 0
        while not stop.is_set():
            with other.transaction() as connection:
                connection.root()["other"] = n
            n += 1
    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(10):
            tids = [t.tid for t in db.storage.iterator()]
            assert tids[:len(before)] == before
            assert tids == sorted(tids)
    finally:
        stop.set()
        writer.join()


def test_unfinished_iterators_are_let_go_of(db):
    storage = db.storage
    iids = []
    for _ in range(5):
        iterator = storage.iterator()
        iids.append(iterator._iid)
        iids.append(iter(next(iterator))._riid)
        del iterator
    with db.transaction() as connection:
        connection.root()["x"] = 1
    storage.ping()
    for iid in iids:
        with pytest.raises(KeyError):
            storage._call("iterator_record_next", iid)


def test_every_object_that_exists_is_found(db):
    seen, following = {}, None
    while True:
        oid, tid, data, following = db.storage.record_iternext(following)
        assert db.storage.load(oid) == (data, tid)
        seen[oid] = tid
        if following is None:
            break
        try:
            db.storage.load(following)
        except POSKeyError:  # the reference gives deleted objects, and then fails
            following = p64(u64(following) + 1)
    assert z64 in seen and len(seen) >= 3


def test_deletion_of_what_changed_is_refused(served, open_storage):
    storage = open_storage(served)
    oid = storage.new_oid()

    def commit(call):
        txn = TransactionMetaData()
        storage.tpc_begin(txn)
        try:
            call(txn)
            storage.tpc_vote(txn)
        except BaseException:
            storage.tpc_abort(txn)
            raise
        return storage.tpc_finish(txn)
    first = commit(lambda txn: storage.store(oid, z64, wire.record({}), "", txn))
    second = commit(lambda txn: storage.store(oid, first, wire.record({"a": 1}), "", txn))
    with pytest.raises(ConflictError) as caught:
        commit(lambda txn: storage.deleteObject(oid, first, txn))
    assert caught.value.serials == (second, first)
    with pytest.raises(POSKeyError):
        commit(lambda txn: storage.deleteObject(p64(99999), first, txn))
    assert storage.getTid(oid) == second


@pytest.mark.s3storage  # the reference takes any tid
def test_a_tid_that_lies_in_the_past_is_refused(db):
    storage = db.storage
    tids = [t.tid for t in storage.iterator()]
    txn = TransactionMetaData()
    storage.tpc_begin(txn, tids[1])
    storage.restore(z64, tids[1], wire.record({}), "", None, txn)
    with pytest.raises(Exception, match="tid"):
        storage.tpc_vote(txn)
    storage.tpc_abort(txn)
    assert [t.tid for t in storage.iterator()] == tids


@pytest.mark.s3storage  # the reference tells nobody
def test_others_learn_of_deletions_and_restores(served, open_storage, open_db):
    db = open_db(served)
    with db.transaction() as connection:
        connection.root()["child"] = child = PersistentMapping()
    oid, serial = child._p_oid, child._p_serial
    other = open_storage(served)
    assert other.load(oid)[1] == serial
    txn = TransactionMetaData()
    db.storage.tpc_begin(txn)
    db.storage.deleteObject(oid, serial, txn)
    db.storage.tpc_vote(txn)
    tid = db.storage.tpc_finish(txn)
    other.ping()
    with pytest.raises(POSKeyError):
        other.load(oid)
    txn = TransactionMetaData()
    tid = p64(u64(tid) + 1)
    db.storage.tpc_begin(txn, tid)
    db.storage.restore(oid, tid, wire.record({"data": {"back": 1}}), "", None, txn)
    db.storage.tpc_vote(txn)
    db.storage.tpc_finish(txn)
    other.ping()
    assert other.load(oid) == (wire.record({"data": {"back": 1}}), tid)
