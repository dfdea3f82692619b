"""Data.fs into a bucket and back: what ZODB's FileStorage reads is the same."""

import random
import signal
import subprocess
import time

import datafs
import harness
import pytest
import transaction
import ZODB
from BTrees.OOBTree import OOBTree
from persistent.mapping import PersistentMapping
from ZODB.blob import Blob
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage
from ZODB.POSException import POSKeyError
from ZODB.scripts import fstest
from ZODB.utils import u64

pytestmark = pytest.mark.s3storage


def _commit(db, change, user="", description="", **extension):
    manager = transaction.TransactionManager()
    connection = db.open(manager)
    try:
        t = manager.get()
        t.user, t.description, t.extension = user, description, extension
        change(connection.root())
        manager.commit()
    finally:
        manager.abort()
        connection.close()


def _put_blob(root, name, data):
    with root.setdefault(name, Blob()).open("w") as f:
        f.write(data)


def _grow(db, rng, n):
    """Commit a few changes."""
    for i in range(n):
        def change(root):
            root["tree"][f"key {rng.randrange(400)}"] = "ü" * rng.randrange(400)
            if i % 7 == 3:
                _put_blob(root, "blob", rng.randbytes(rng.randrange(3000)))
        _commit(db, change, "Jürgen", f"Änderung {i} — ☃", number=i)


@pytest.fixture
def source(tmp_path):
    """A function that opens the file that is imported."""
    def opened():
        return ZODB.DB(FileStorage(str(tmp_path / "Data.fs"), blob_dir=str(tmp_path / "blobs")))
    return opened


def _history(db, rng):
    """Everything that a FileStorage can have in it."""
    def start(root):
        root["tree"] = OOBTree()
        root["lost"] = PersistentMapping(text="lost")
        _put_blob(root, "blob", b"first")
    _commit(db, start, "", "", unicode="é", nested={"a": [1, 2]})
    _grow(db, rng, 30)
    _commit(db, lambda root: root.pop("lost"))
    time.sleep(0.01)
    db.pack()
    _grow(db, rng, 30)
    for _ in range(3):
        db.undo(db.undoLog(0, 1)[0]["id"])
        transaction.commit()
    _commit(db, lambda root: _put_blob(root, "blob", b"x" * 3_000_000))
    db.undo(db.undoLog(0, 1)[0]["id"])
    transaction.commit()
    # A deletion, as an external collector of garbage makes it.
    _commit(db, lambda root: root.update(gone=PersistentMapping(text="gone")))
    connection = db.open()
    oid, serial = connection.root()["gone"]._p_oid, connection.root()["gone"]._p_serial
    connection.close()
    _commit(db, lambda root: root.pop("gone"))
    t = TransactionMetaData()
    db.storage.tpc_begin(t)
    db.storage.deleteObject(oid, serial, t)
    db.storage.tpc_vote(t)
    db.storage.tpc_finish(t)


def _s3storage(*args, check=True):
    done = subprocess.run([harness.BINARY, *map(str, args)], capture_output=True, text=True, timeout=harness.HANG,
                          env=harness.environment())
    assert not harness.ALARMS.search(done.stderr), done.stderr
    if check:
        assert done.returncode == 0, done.stderr
    return done


def _same(tmp_path):
    datafs.same(datafs.read(tmp_path / "Data.fs"), datafs.read(tmp_path / "out.fs"))
    fstest.check(str(tmp_path / "out.fs"))
    assert datafs.blobs(tmp_path / "blobs") == datafs.blobs(tmp_path / "out-blobs")


def _import(tmp_path, bucket, *flags, check=True):
    return _s3storage("import", tmp_path / "Data.fs", bucket.url, "--blobs", tmp_path / "blobs", *flags, check=check)


def _export(tmp_path, bucket):
    return _s3storage("export", bucket.url, tmp_path / "out.fs", "--blobs", tmp_path / "out-blobs")


def test_what_was_imported_is_served_and_comes_back_the_same(tmp_path, bucket, new_server, open_storage, source):
    db = source()
    _history(db, random.Random(1))
    db.close()
    _import(tmp_path, bucket)
    _export(tmp_path, bucket)
    _same(tmp_path)

    server = new_server(bucket)
    storage = open_storage(server)
    original = FileStorage(str(tmp_path / "Data.fs"), read_only=True)
    newest = {r.oid: r for t in original.iterator() for r in t}
    for oid, record in newest.items():
        if record.data is None:
            with pytest.raises(POSKeyError):
                storage.load(oid)
        else:
            assert storage.load(oid) == original.load(oid)
    assert storage.lastTransaction() == original.lastTransaction()
    assert u64(storage.new_oid()) > max(map(u64, newest))
    original.close()


def test_a_second_export_appends_and_a_second_import_goes_on(tmp_path, new_bucket, source):
    bucket, rng = new_bucket(), random.Random(2)
    for _ in range(3):
        db = source()
        if len(db.storage) < 2:
            _history(db, rng)
        _grow(db, rng, 10)
        db.close()
        _import(tmp_path, bucket)
        _export(tmp_path, bucket)
        _same(tmp_path)


def test_another_file_is_refused(tmp_path, new_bucket, source):
    bucket = new_bucket()
    db = source()
    _commit(db, lambda root: root.update(a=1))
    db.close()
    _import(tmp_path, bucket)
    (tmp_path / "Data.fs").unlink()
    (tmp_path / "Data.fs.index").unlink()
    db = source()
    _commit(db, lambda root: root.update(a=2))
    db.close()
    refused = _import(tmp_path, bucket, check=False)
    assert refused.returncode != 0 and "another file" in refused.stderr


def test_an_import_that_was_killed_goes_on(tmp_path, new_bucket, source):
    bucket, rng = new_bucket(), random.Random(3)
    db = source()
    _history(db, rng)
    _grow(db, rng, 200)
    db.close()
    command = [harness.BINARY, "import", str(tmp_path / "Data.fs"), bucket.url, "--blobs", str(tmp_path / "blobs")]
    for i in range(12):
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(0.02 * i)
        process.send_signal(signal.SIGKILL)
        process.wait()
    _import(tmp_path, bucket)
    _export(tmp_path, bucket)
    _same(tmp_path)


def test_an_import_follows_a_file_that_grows(tmp_path, new_bucket, source):
    bucket, rng = new_bucket(), random.Random(4)
    db = source()
    _history(db, rng)
    process = subprocess.Popen(
        [harness.BINARY, "import", str(tmp_path / "Data.fs"), bucket.url, "--blobs", str(tmp_path / "blobs"), "--follow"],
        stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        for _ in range(5):
            _grow(db, rng, 20)
            last = f"{u64(db.storage.lastTransaction()):016x}"
            harness.wait_until("the import has caught up", lambda: bucket.path.exists() and last in _s3storage(
                "info", bucket.url, check=False).stdout, interval=0.3)
    finally:
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=harness.HANG)
    assert process.returncode == 0, said
    db.close()
    _export(tmp_path, bucket)
    _same(tmp_path)


def test_damage_is_an_error_and_can_be_skipped(tmp_path, new_bucket, source):
    bucket, rng = new_bucket(), random.Random(5)
    db = source()
    _history(db, rng)
    db.close()
    path = tmp_path / "Data.fs"
    storage = FileStorage(str(path), read_only=True)
    positions = [t._tpos for t in storage.iterator()]
    storage.close()
    data = bytearray(path.read_bytes())
    at = positions[len(positions) // 2]
    data[at + 8] ^= 0x40
    path.write_bytes(data)
    refused = _import(tmp_path, bucket, check=False)
    assert refused.returncode != 0 and str(at) in refused.stderr
    assert "skipped" in _import(tmp_path, bucket, "--skip-damaged").stderr


def test_a_missing_blob_is_an_error_and_can_be_skipped(tmp_path, new_bucket, source):
    db = source()
    _commit(db, lambda root: _put_blob(root, "blob", b"first"))
    _commit(db, lambda root: _put_blob(root, "blob", b"second"))
    db.close()
    missing = sorted((tmp_path / "blobs").rglob("*.blob"))[0]
    missing.unlink()
    bucket = new_bucket()
    refused = _import(tmp_path, bucket, check=False)
    assert refused.returncode != 0 and str(missing) in refused.stderr
    assert "WARNING: 1 records are of blobs" in _import(tmp_path, bucket, "--skip-damaged").stderr
    _export(tmp_path, bucket)
    assert datafs.blobs(tmp_path / "blobs") == datafs.blobs(tmp_path / "out-blobs")
