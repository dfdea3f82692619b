"""Blobs, through ZODB and through the calls that carry them."""

import os
import random
import threading

import pytest
import transaction
import wire
from persistent.mapping import PersistentMapping
from ZODB.blob import Blob
from ZODB.Connection import TransactionMetaData
from ZODB.POSException import POSKeyError
from ZODB.utils import z64

CHUNK = 59000


@pytest.fixture
def open_blob_db(open_db, tmp_path):
    """A function that opens databases, each with a cache of its own for blobs."""
    count = iter(range(100))

    def new(server, **options):
        return open_db(server, blob_dir=str(tmp_path / f"cache-{next(count)}"), **options)
    return new


def _bytes(seed, size):
    return random.Random(seed).randbytes(size)


def _commit(db, **blobs):
    with db.transaction() as connection:
        for name, data in blobs.items():
            connection.root()[name] = Blob(data)


def _revision(db, name):
    """The blob's oid and serial."""
    with db.transaction() as connection:
        blob = connection.root()[name]
        return blob._p_oid, db.storage.getTid(blob._p_oid)


def _read(db, name):
    with db.transaction() as connection:
        with connection.root()[name].open() as file:
            return file.read()


def test_blobs_of_every_size_come_back(server, open_blob_db):
    db = open_blob_db(server)
    sizes = (0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 5 << 20)
    _commit(db, **{f"b{size}": _bytes(size, size) for size in sizes})
    other = open_blob_db(server)
    for size in sizes:
        assert _read(other, f"b{size}") == _bytes(size, size)
    server.restart()
    third = open_blob_db(server)
    for size in sizes:
        assert _read(third, f"b{size}") == _bytes(size, size)


def test_revisions_of_a_blob_are_kept_apart(served, open_blob_db):
    db = open_blob_db(served)
    _commit(db, blob=b"one")
    oid, first = _revision(db, "blob")
    with db.transaction() as connection:
        with connection.root()["blob"].open("w") as file:
            file.write(b"two")
    second = db.storage.getTid(oid)
    other = open_blob_db(served)
    for serial, data in ((first, b"one"), (second, b"two")):
        with open(other.storage.loadBlob(oid, serial), "rb") as file:
            assert file.read() == data
    old = db.open(before=second)
    with old.root()["blob"].open() as file:
        assert file.read() == b"one"
    old.close()


def test_a_blob_that_is_not_there_is_a_pos_key_error(served, open_blob_db):
    db = open_blob_db(served)
    _commit(db, blob=b"one")
    oid, serial = _revision(db, "blob")
    for args in ((oid, z64), (z64, serial), (b"\0" * 7 + b"\x99", serial)):
        with pytest.raises(POSKeyError) as caught:
            db.storage._call("sendBlob", *args)
        assert caught.value.args[1:] == args


def test_undo_brings_back_the_blob(served, open_blob_db):
    db = open_blob_db(served)
    _commit(db, blob=_bytes(1, 100_000))
    with db.transaction() as connection:
        with connection.root()["blob"].open("w") as file:
            file.write(b"changed")
    for expected in (_bytes(1, 100_000), b"changed"):
        db.undo(db.undoLog(0, 1)[0]["id"])
        transaction.commit()
        assert _read(db, "blob") == _read(open_blob_db(served), "blob") == expected


def test_an_aborted_blob_leaves_nothing(served, open_blob_db):
    db = open_blob_db(served)
    _commit(db, blob=b"one")
    storage = db.storage
    oid, serial = _revision(db, "blob")
    data, _ = storage.load(oid)
    for vote in (False, True):
        with open("file", "wb") as file:
            file.write(_bytes(2, 200_000))
        txn = TransactionMetaData()
        storage.tpc_begin(txn)
        storage.storeBlob(oid, serial, data, "file", "", txn)
        if vote:
            storage.tpc_vote(txn)
        storage.tpc_abort(txn)
    assert storage.getTid(oid) == serial
    assert _read(open_blob_db(served), "blob") == b"one"


@pytest.mark.s3storage  # the reference loses the blob when the client votes again
def test_a_blob_survives_a_conflict_beside_it(served, open_blob_db):
    from BTrees.Length import Length
    db, other = open_blob_db(served), open_blob_db(served)
    with db.transaction() as connection:
        connection.root()["length"] = Length(0)
    tm = transaction.TransactionManager()
    connection = db.open(tm)
    connection.root()["length"].change(1)
    connection.root()["blob"] = Blob(_bytes(3, 300_000))
    with other.transaction() as beside:
        beside.root()["length"].change(10)
    tm.commit()
    connection.close()
    for d in (db, other, open_blob_db(served)):
        d.storage.ping()
        assert _read(d, "blob") == _bytes(3, 300_000)
        with d.transaction() as c:
            assert c.root()["length"]() == 11


def test_threads_that_read_and_write_blobs_at_once(served, open_blob_db):
    writers = [open_blob_db(served) for _ in range(3)]
    _commit(writers[0], **{f"w{n}": b"" for n in range(3)})
    with writers[0].transaction() as connection:
        for n in range(3):
            connection.root()[f"own{n}"] = PersistentMapping()
    failures = []
    for db in writers:
        db.storage.ping()  # have them see what was committed

    def write(n):
        try:
            db = writers[n]
            for turn in range(5):
                with db.transaction() as connection:
                    with connection.root()[f"w{n}"].open("w") as file:
                        file.write(_bytes(10 * n + turn, 400_000 + turn))
                    connection.root()[f"own{n}"]["turn"] = turn
        except BaseException as e:
            failures.append(e)
    threads = [threading.Thread(target=write, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    reader = open_blob_db(served)
    while any(thread.is_alive() for thread in threads):
        for n in range(3):
            with reader.transaction() as connection:
                turn = connection.root()[f"own{n}"].get("turn")
                with connection.root()[f"w{n}"].open() as file:
                    data = file.read()
            if turn is not None:
                assert data == _bytes(10 * n + turn, 400_000 + turn)
    for thread in threads:
        thread.join()
    assert not failures


@pytest.mark.s3storage  # the reference sends the blob to its end first
def test_a_stream_of_chunks_lets_other_replies_pass(served):
    size = 30 << 20
    with wire.Connection(served.address) as connection:
        connection.register()
        connection.begin(1)
        connection.one_way("storeBlobStart")
        for _ in range(0, size, 1 << 16):
            connection.one_way("storeBlobChunk", b"x" * (1 << 16))
        connection.one_way("storeBlobEnd", z64, z64, wire.record({}), 1)
        assert not connection.call("vote", 1)
        tid = connection.call("tpc_finish", 1)
        blob = connection.send("sendBlob", z64, tid)
        ping = connection.send("ping")
        names, received, replies = [], 0, []
        while len(replies) < 2:
            message_id, flag, name, args = connection.receive()
            if name == ".reply":
                assert not flag, args
                replies.append((message_id, received))
            elif name.startswith("receiveBlob"):
                names.append(name)
                assert args[:2] == (z64, tid)
                if name == "receiveBlobChunk":
                    assert 0 < len(args[2]) <= CHUNK
                    received += len(args[2])
        assert [reply for reply, _ in replies] == [ping, blob]
        assert replies[0][1] < size / 2
        assert received == size
        assert names[0] == "receiveBlobStart" and names[-1] == "receiveBlobStop"


def test_a_client_that_goes_in_the_midst_of_a_blob_harms_nobody(served, open_blob_db):
    db = open_blob_db(served)
    _commit(db, blob=_bytes(5, 10 << 20))
    oid, serial = _revision(db, "blob")
    for _ in range(3):
        with wire.Connection(served.address) as half:  # down
            half.register()
            half.send("sendBlob", oid, serial)
            while half.receive()[2] != "receiveBlobChunk":
                pass
        with wire.Connection(served.address) as half:  # up
            half.register()
            half.begin(1)
            half.one_way("storeBlobStart")
            half.one_way("storeBlobChunk", os.urandom(CHUNK))
    assert _read(open_blob_db(served), "blob") == _bytes(5, 10 << 20)
    _commit(db, other=b"fine")
    assert _read(db, "other") == b"fine"
