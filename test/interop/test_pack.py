"""Pack, as zeopack, db.pack() and the ZMI call it."""

import subprocess
import sys
import threading
import time

import pytest
import transaction
from persistent.mapping import PersistentMapping
from ZODB.blob import Blob
from ZODB.POSException import POSKeyError
from ZODB.POSException import UndoError
from ZODB.TimeStamp import TimeStamp
from ZODB.utils import p64
from ZODB.utils import u64

import harness
from harness import wait_until


@pytest.fixture
def db(served, open_db, tmp_path):
    return open_db(served, blob_dir=str(tmp_path / "blobs"))


def _commit(db, **values):
    with db.transaction() as connection:
        connection.root().update(values)
    return db.storage.lastTransaction()


def _after(tid):
    """A time right after a transaction, and before the next one."""
    at = TimeStamp(tid).timeTime() + 0.02
    time.sleep(max(0, at + 0.02 - time.time()))  # no wait for something: it makes a gap
    return at


def _gone(storage, oid, serial):
    with pytest.raises(POSKeyError):
        storage.loadSerial(oid, serial)


def test_old_revisions_and_their_undo_go(db, served, open_db):
    tids = [_commit(db, n=n) for n in range(3)]
    at = _after(tids[-1])
    newest = _commit(db, n=3)
    root = p64(0)
    db.storage.pack(at, None)
    for tid in tids[:-1]:
        _gone(db.storage, root, tid)
    assert db.storage.loadSerial(root, tids[-1])
    assert len(db.storage.undoLog()) == 1
    assert [h["tid"] for h in db.storage.history(root, 10)] == [newest, tids[-1]]
    assert [(t.tid, t.status) for t in db.storage.iterator()] == [(tids[-1], "p"), (newest, " ")]
    served.restart()
    again = open_db(served)
    _gone(again.storage, root, tids[0])
    with again.transaction() as connection:
        assert connection.root()["n"] == 3
    again.undo(again.undoLog(0, 1)[0]["id"])
    transaction.commit()
    with again.transaction() as connection:
        assert connection.root()["n"] == 2


def test_undo_of_what_was_packed_is_refused(db):
    _commit(db, n=1)
    undo_id = db.undoLog(0, 1)[0]["id"]
    at = _after(_commit(db, n=2))
    db.storage.pack(at, None)
    assert len(db.storage.undoLog()) == 0
    db.undo(undo_id)
    with pytest.raises(Exception) as caught:
        transaction.commit()
    transaction.abort()
    assert isinstance(caught.value, UndoError) or "UndoError" in str(caught.value)


def test_garbage_goes_with_its_blobs(db, served, open_storage, tmp_path):
    with db.transaction() as connection:
        root = connection.root()
        root["kept"] = kept = PersistentMapping({"inner": PersistentMapping()})
        root["garbage"] = garbage = PersistentMapping()
        garbage["blob"] = Blob(b"garbage")
        garbage["cycle"] = garbage
        root["blob"] = blob = Blob(b"kept")
    lost = [garbage._p_oid, garbage["blob"]._p_oid]
    stays = [kept._p_oid, kept["inner"]._p_oid, blob._p_oid]
    serial = db.storage.lastTransaction()
    with db.transaction() as connection:
        del connection.root()["garbage"]
    db.pack(_after(db.storage.lastTransaction()))
    fresh = open_storage(served, blob_dir=str(tmp_path / "fresh"))
    for oid in lost:
        with pytest.raises(POSKeyError):
            fresh.load(oid)
    with pytest.raises(POSKeyError):
        fresh.loadBlob(lost[1], serial)
    for oid in stays:
        assert fresh.load(oid)
    with open(fresh.loadBlob(stays[2], serial), "rb") as file:
        assert file.read() == b"kept"
    assert len(fresh) == 4  # with the root


def test_a_pack_that_drops_nothing_leaves_undo(db):
    before = TimeStamp(_commit(db, n=1)).timeTime() - 100
    _commit(db, n=2)
    log = db.storage.undoLog()
    db.storage.pack(before, None)
    assert db.storage.undoLog() == log


def test_pack_in_the_background_and_by_a_reader(db, served, open_storage):
    first = _commit(db, n=1)
    second = _commit(db, n=2)
    reader = open_storage(served, read_only=True)
    assert reader.pack(_after(second), wait=False) is None
    wait_until("the pack is done", lambda: len(db.storage.undoLog()) == 0)
    _gone(db.storage, p64(0), first)
    third = _commit(db, n=3)
    reader.pack(_after(third))
    _gone(db.storage, p64(0), second)


def test_pack_while_others_commit(db, served, open_db):
    stop, started = threading.Event(), threading.Event()
    failures = []

    def write():
        other = open_db(served)
        try:
            n = 0
            while not stop.is_set():
                with other.transaction() as connection:
                    root = connection.root()
                    root.setdefault("chain", PersistentMapping())
                    root["chain"]["previous"] = PersistentMapping({"n": n})
                    n += 1
                started.set()
        except BaseException as e:
            failures.append(e)
            started.set()
    writer = threading.Thread(target=write)
    writer.start()
    try:
        started.wait()
        for _ in range(5):
            db.pack()
    finally:
        stop.set()
        writer.join()
    assert not failures
    db.storage.ping()
    with db.transaction() as connection:
        chain = connection.root()["chain"]
        assert chain["previous"]["n"] >= 0


@pytest.mark.s3storage  # the reference refuses the second
def test_two_packs_at_once(db, served, open_storage):
    tids = [_commit(db, n=n) for n in range(20)]
    at = _after(tids[-1])
    storages = [open_storage(served) for _ in range(4)]
    failures = []

    def pack(storage):
        try:
            storage.pack(at)
        except BaseException as e:
            failures.append(e)
    threads = [threading.Thread(target=pack, args=(s,)) for s in storages]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    _gone(db.storage, p64(0), tids[0])
    assert db.storage.getTid(p64(0)) == tids[-1]


def test_zeopack(db, served):
    first = _commit(db, n=1)
    second = _commit(db, n=2)
    _after(second)
    host, port = served.address
    subprocess.run(
        [sys.executable, "-m", "ZEO.scripts.zeopack", "-h", host, "-p", str(port), "-d", "0"],
        check=True, timeout=harness.HANG)
    _gone(db.storage, p64(0), first)
    assert u64(db.storage.getTid(p64(0))) == u64(second)
