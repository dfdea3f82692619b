"""Servers, addresses and clients that only read."""

import harness
import pytest
import transaction
import wire
from ZODB.POSException import ReadOnlyError
from ZODB.utils import z64

from harness import wait_until


@pytest.fixture
def filled(new_bucket, new_server, open_db):
    """A bucket with a database in it, and no server."""
    bucket = new_bucket()
    server = new_server(bucket)
    with open_db(server).transaction() as connection:
        connection.root()["n"] = 1
    server.stop()
    return bucket


def refuses_writes(server):
    with wire.Connection(server.address) as connection:
        with pytest.raises(wire.ServerError) as caught:
            connection.register()
        assert caught.value.name == "ReadOnlyError"
        # The same connection may go on, as read-only-fallback does.
        tid = connection.call("register", "1", True)
        for call in (("new_oids", 1), ("tpc_begin", 1, b"", b"", {}, None, " "), ("vote", 1)):
            with pytest.raises(wire.ServerError) as caught:
                connection.call(*call)
            assert caught.value.name == "ReadOnlyError"
        assert connection.call("lastTransaction") == tid


def test_a_read_only_server_takes_no_writes(filled, new_server, open_db):
    server = new_server(filled, read_only=True)
    refuses_writes(server)
    db = open_db(server, read_only=True)
    with db.transaction() as connection:
        assert connection.root()["n"] == 1
    with pytest.raises(ReadOnlyError):
        with db.transaction() as connection:
            connection.root()["n"] = 2
    transaction.abort()


def test_an_empty_database_can_be_served_read_only(new_bucket, new_server, open_storage):
    server = new_server(new_bucket(), read_only=True)
    storage = open_storage(server, read_only=True)
    assert storage.lastTransaction() == z64
    with pytest.raises(KeyError):
        storage.load(z64)
    with pytest.raises(ReadOnlyError):
        storage.new_oid()


def test_a_client_with_fallback_reads_until_the_server_takes_writes(
        filled, new_server, open_db):
    server = new_server(filled, read_only=True)
    db = open_db(server, read_only_fallback=True)
    assert db.storage.is_read_only()
    with db.transaction() as connection:
        assert connection.root()["n"] == 1
    server.stop()
    server.read_only = False
    server.start()
    wait_until("it writes again", lambda: db.storage.is_connected()
               and not db.storage.is_read_only())
    with db.transaction() as connection:
        connection.root()["n"] = 2


@pytest.mark.s3storage
def test_an_address_can_be_for_reading_only(new_bucket, new_server, open_db, tmp_path):
    addresses = [f"127.0.0.1:{harness.free_port()}", str(tmp_path / "read.sock")]
    server = new_server(new_bucket(), arguments=[
        word for address in addresses for word in ("--listen-read-only", address)])
    wait_until("all addresses are announced", lambda: "For zope.conf" in server.stdout())
    for address in addresses:
        assert f"listening on {address}, read-only\n" in server.stdout()
    writer = open_db(server)
    readers = [open_db(harness.parse_address(address), read_only_fallback=True)
               for address in addresses]
    for n in range(3):
        with writer.transaction() as connection:
            connection.root()["n"] = n
        for reader in readers:
            assert reader.storage.is_read_only()
            reader.storage.ping()  # after it, all before it was told
            with reader.transaction() as connection:
                assert connection.root()["n"] == n
    with pytest.raises(ReadOnlyError):
        with readers[0].transaction() as connection:
            connection.root()["n"] = "not by this address"
    transaction.abort()


@pytest.mark.s3storage
def test_who_is_limited_to_reading_drops_no_history(filled, new_server):
    server = new_server(filled, read_only=True)
    with wire.Connection(server.address) as connection:
        connection.register(read_only=True)
        with pytest.raises(wire.ServerError, match="--read-only") as caught:
            connection.call("pack", 2e9, True)
        assert caught.value.name == "ReadOnlyError"
        assert connection.call("ping") is None
