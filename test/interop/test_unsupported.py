"""What the server does not do yet it says clearly, and the client goes on."""

import time

import pytest
import transaction
import wire
from ZODB.Connection import TransactionMetaData
from ZODB.utils import z64

from harness import wait_until

pytestmark = pytest.mark.s3storage


@pytest.fixture
def db(directory_server, open_db, tmp_path):
    db = open_db(directory_server, blob_dir=str(tmp_path / "blobs"))
    for n in range(3):
        with db.transaction() as connection:
            connection.root()["n"] = n
    return db


def _still_works(db):
    transaction.abort()
    wait_until("the client is connected", db.storage.is_connected)
    with db.transaction() as connection:
        connection.root()["n"] += 1
        n = connection.root()["n"]
    with db.transaction() as connection:
        assert connection.root()["n"] == n


def _says(error, *words):
    text = f"{type(error).__name__} {error}".lower()
    assert any(word in text for word in words), repr(error)


@pytest.mark.parametrize("name, call", [
    ("undoLog", lambda s: s.undoLog(0, -20)),
    ("undoInfo", lambda s: s.undoInfo(0, -20)),
    ("iterator_start", lambda s: list(s.iterator())),
    ("record_iternext", lambda s: s.record_iternext(None)),
    ("pack", lambda s: s.pack(time.time(), wait=True)),
    ("sendBlob", lambda s: s._call("sendBlob", z64, s.lastTransaction())),
])
def test_a_call_that_does_not_exist_yet_is_a_clear_error(db, name, call):
    with pytest.raises(Exception) as caught:
        call(db.storage)
    _says(caught.value, "not supported", "unsupported", "notimplemented", "not implemented",
          "does not support", "not offer")
    assert db.storage.is_connected(), "the connection was closed"
    _still_works(db)


def test_undo_is_a_clear_error_of_the_transaction(db):
    assert not db.storage.supportsUndo()
    txn = TransactionMetaData()
    db.storage.tpc_begin(txn)
    with pytest.raises(Exception) as caught:
        db.storage.undo(b"AAAAAAAAAAA=", txn)
        db.storage.tpc_vote(txn)
    db.storage.tpc_abort(txn)
    _says(caught.value, "undo")
    _still_works(db)


def test_a_blob_is_a_clear_error_of_the_transaction(db):
    from ZODB.blob import Blob
    connection = db.open()
    connection.root()["blob"] = Blob(b"x" * 200_000)
    with pytest.raises(Exception) as caught:
        transaction.commit()
    transaction.abort()
    connection.close()
    _says(caught.value, "blob", "unsupported", "not supported")
    _still_works(db)
    with db.transaction() as connection:
        assert "blob" not in connection.root()


@pytest.mark.parametrize("name, arguments", [
    ("deleteObject", (z64, z64, 1)),
    ("restorea", (z64, z64, wire.record({"data": {}}), None, 1)),
    ("undoa", (b"AAAAAAAAAAA=", 1)),
])
def test_a_one_way_call_that_does_not_exist_yet_fails_the_vote_or_closes(
        directory_server, name, arguments):
    with wire.Connection(directory_server.address) as connection:
        connection.register()
        connection.begin(1)
        connection.one_way(name, *arguments)
        with pytest.raises((wire.ServerError, wire.Closed)):
            connection.call("vote", 1)
    with wire.Connection(directory_server.address) as connection:
        connection.register()
        assert connection.call("ping") is None
