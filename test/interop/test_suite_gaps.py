"""What ZODB's and ZEO's suites check in ways that do not apply to this server.

suites_left_out.py says which of their tests these stand for.
"""

import concurrent.futures
import logging
import random
import shutil

import harness
import pytest
import transaction
import zope.interface
from harness import wait_until
from ZEO.Exceptions import ClientDisconnected
from ZODB.blob import Blob
from ZODB.blob import remove_committed
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage
from ZODB.interfaces import IBlobStorage
from ZODB.interfaces import IStorageIteration
from ZODB.POSException import ConflictError
from ZODB.POSException import UndoError
from ZODB.tests.ConflictResolution import PCounter2
from ZODB.tests.MinPO import MinPO
from ZODB.tests.StorageTestBase import zodb_pickle
from ZODB.utils import z64


@pytest.mark.s3storage
def test_shared_blob_directories_are_refused_with_what_to_configure(
        directory_server, open_db, tmp_path):
    db = open_db(directory_server, blob_dir=str(tmp_path / "shared"), shared_blob_dir=True)
    with pytest.raises(Exception, match="shared-blob-dir false"):
        with db.transaction() as connection:
            connection.root()["blob"] = Blob(b"content")
    with db.transaction() as connection:
        assert "blob" not in connection.root()
        connection.root()["n"] = 1


@pytest.mark.s3storage  # the reference server here has no directory for blobs
def test_a_blob_that_left_the_cache_comes_back_to_many_threads(server, open_db, tmp_path):
    content = random.Random(1).randbytes(6_888_890)
    db = open_db(server, blob_dir=str(tmp_path / "cache"))
    with db.transaction() as connection:
        connection.root()["blob"] = blob = Blob(content)
    oid, serial = blob._p_oid, blob._p_serial
    path = db.storage.loadBlob(oid, serial)
    remove_committed(path)
    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        paths = list(pool.map(lambda _: db.storage.loadBlob(oid, serial), range(10)))
    assert set(paths) == {path}
    with open(path, "rb") as file:
        assert file.read() == content


@pytest.mark.s3storage
def test_the_interfaces_are_those_of_a_file_storage_with_blobs(
        directory_server, open_storage, tmp_path):
    model = FileStorage(str(tmp_path / "Data.fs"), blob_dir=str(tmp_path / "blobs"))
    model.close()
    storage = open_storage(directory_server, blob_dir=str(tmp_path / "cache"))
    assert storage._info["interfaces"] == tuple(
        (i.__module__, i.__name__) for i in zope.interface.providedBy(model).__iro__)
    assert IStorageIteration.providedBy(storage)
    assert IBlobStorage.providedBy(storage)


@pytest.mark.parametrize("cls", [MinPO, PCounter2])
def test_an_undo_that_nobody_can_merge_is_a_conflict_and_changes_nothing(
        server, open_db, cls):
    db = open_db(server)
    for n in range(3):
        with db.transaction() as connection:
            connection.root().setdefault("x", cls()).n = n
    last, middle = db.undoLog(0, 2)
    db.undo(middle["id"])
    with pytest.raises(UndoError if harness.REFERENCE else ConflictError):
        transaction.commit()
    transaction.abort()
    with db.transaction() as connection:
        assert connection.root()["x"].n == 2
        connection.root()["y"] = 1
    # What can be undone, still can be.
    db.undo(last["id"])
    transaction.commit()
    with db.transaction() as connection:
        assert connection.root()["x"].n == 1


def test_a_client_that_missed_a_thousand_transactions_keeps_its_cache(
        directory_server, open_db, tmp_path):
    cache = str(tmp_path / "client.zec")
    away = open_db(directory_server, cache=cache)
    with away.transaction() as connection:
        for n in range(20):
            connection.root()[n] = MinPO(0)
    away.close()
    writer = open_db(directory_server)
    for n in range(1, 1001):
        with writer.transaction() as connection:
            connection.root()[n % 10].value = n
    directory_server.restart()
    back = open_db(directory_server, cache=cache)
    assert back.storage._server.client.verify_result == "quick verification"
    assert len(list(back.storage._cache.contents())) >= 10
    with back.transaction() as connection:
        assert [connection.root()[n].value for n in range(20)] == (
            [1000, *range(991, 1000)] + [0] * 10)


def test_a_client_that_knows_more_than_the_server_does_not_connect(
        new_bucket, new_server, open_db, open_storage, tmp_path, caplog):
    cache = str(tmp_path / "client.zec")
    bucket = new_bucket()
    server = new_server(bucket)

    def write(n):
        db = open_db(server, cache=cache)
        with db.transaction() as connection:
            connection.root()["n"] = n
        db.close()
        server.stop()
    write(1)
    shutil.copytree(bucket.path, tmp_path / "saved")
    server.start()
    write(2)
    shutil.rmtree(bucket.path)
    shutil.copytree(tmp_path / "saved", bucket.path)
    server.start()
    with caplog.at_level(logging.CRITICAL, "ZEO"), pytest.raises(ClientDisconnected):
        open_storage(server, cache=cache, wait_timeout=2)
    assert "Client cache is out of sync with the server." in caplog.text
    with open_db(server).transaction() as connection:
        assert connection.root()["n"] == 1


@pytest.mark.s3storage
def test_a_transaction_that_timed_out_is_in_the_log(new_bucket, new_server, open_storage):
    server = new_server(new_bucket(), arguments=["--transaction-timeout", "1s"])
    storage = open_storage(server)
    oid = storage.new_oid()
    t = TransactionMetaData()
    storage.tpc_begin(t)
    storage.store(oid, z64, zodb_pickle(MinPO(1)), "", t)
    storage.tpc_vote(t)
    wait_until("the log tells", lambda: "transaction timeout" in server.stderr().lower())
    [line] = [line for line in server.stderr().lower().splitlines()
              if "transaction timeout" in line]
    assert "level=error" in line
    wait_until("the client is back", lambda: storage._connection_generation == 2)
    with pytest.raises(ClientDisconnected):
        storage.tpc_finish(t)
    storage.tpc_abort(t)
    # The object is free for others.
    t = TransactionMetaData()
    storage.tpc_begin(t)
    storage.store(oid, z64, zodb_pickle(MinPO(2)), "", t)
    storage.tpc_vote(t)
    storage.tpc_finish(t)


def test_a_client_with_server_sync_has_seen_all_commits_after_sync(
        directory_server, open_db, open_storage):
    reader = open_storage(directory_server, server_sync=True)
    writer = open_db(directory_server)
    for n in range(50):
        with writer.transaction() as connection:
            connection.root()["n"] = n
        reader.sync()
        assert reader.lastTransaction() == writer.lastTransaction()
