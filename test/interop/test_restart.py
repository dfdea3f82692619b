"""What was committed is there after the server has gone and come back."""

import pytest
import transaction
import workers
from BTrees.Length import Length
from BTrees.OOBTree import OOBTree
from persistent.mapping import PersistentMapping
from ZODB.utils import u64

from harness import wait_until


@pytest.mark.parametrize("how", ["in order", "kill -9"])
def test_objects_and_btrees_survive(server, open_db, how):
    db = open_db(server)
    with db.transaction() as connection:
        root = connection.root()
        root["mapping"] = PersistentMapping({"a": 1, "text": "Grüße", "bytes": b"\0\xff"})
        root["tree"] = OOBTree({f"key {i:05}": i for i in range(2000)})
        root["length"] = Length(42)
    with db.transaction() as connection:
        del connection.root()["tree"]["key 00500"]
        connection.root()["length"].change(-2)
    db.close()

    if how == "in order":
        server.stop()
    else:
        server.kill()
    server.start()

    with open_db(server).transaction() as connection:
        root = connection.root()
        assert dict(root["mapping"]) == {"a": 1, "text": "Grüße", "bytes": b"\0\xff"}
        expected = {f"key {i:05}": i for i in range(2000)}
        del expected["key 00500"]
        assert dict(root["tree"]) == expected
        root["tree"]._check()
        assert root["length"]() == 40


def test_a_client_goes_on_after_the_server_was_restarted(server, open_db):
    db = open_db(server)
    with db.transaction() as connection:
        connection.root()["n"] = 0
    for n in range(1, 4):
        server.kill() if n % 2 else server.stop()
        wait_until("the client knows", lambda: not db.storage.is_connected())
        server.start()
        wait_until("the client is back", db.storage.is_connected)
        with db.transaction() as connection:
            assert connection.root()["n"] == n - 1
            connection.root()["n"] = n


def test_every_acknowledged_commit_survives_kill(server, open_db):
    with open_db(server).transaction() as connection:
        connection.root()["tree"] = OOBTree()
    stop, acknowledged = workers.event(), workers.queue()
    process = workers.start_process(
        workers.commit_until, server.address, stop, acknowledged)
    last = -1
    while last < 20:
        last = acknowledged.get(timeout=60)
    server.kill()
    stop.set()
    process.kill()
    process.join()
    while not acknowledged.empty():
        last = acknowledged.get()
    server.start()
    with open_db(server).transaction() as connection:
        keys = list(connection.root()["tree"])
    assert keys == list(range(len(keys)))
    assert len(keys) >= last + 1


@pytest.mark.s3storage
@pytest.mark.parametrize("how", ["in order", "kill -9"])
def test_no_oid_is_given_twice_across_restarts(server, open_storage, how):
    given = []
    for _ in range(3):
        for _ in range(2):
            storage = open_storage(server)
            given += [storage.new_oid() for _ in range(250)]
            storage.close()
        server.stop() if how == "in order" else server.kill()
        server.start()
    assert len(set(given)) == len(given)
    assert all(u64(oid) for oid in given), "the root's oid was handed out"


def test_savepoints_commit_and_roll_back(server, open_db):
    db = open_db(server)
    connection = db.open()
    root = connection.root()
    root["kept"] = PersistentMapping({"n": 1})
    savepoint = transaction.savepoint()
    root["dropped"] = PersistentMapping({"n": 2})
    root["kept"]["n"] = 3
    transaction.savepoint(optimistic=True)
    savepoint.rollback()
    root["later"] = PersistentMapping({"n": 4})
    transaction.savepoint()
    transaction.commit()
    connection.close()
    with open_db(server).transaction() as other:
        root = other.root()
        assert sorted(root) == ["kept", "later"]
        assert root["kept"]["n"] == 1
        assert root["later"]["n"] == 4


def test_an_aborted_transaction_leaves_nothing(server, open_db):
    db = open_db(server)
    connection = db.open()
    connection.root()["gone"] = PersistentMapping()
    transaction.savepoint()
    transaction.abort()
    assert "gone" not in connection.root()
    with open_db(server).transaction() as other:
        assert "gone" not in other.root()


def test_time_travel_reads_an_old_state(server, open_db):
    db = open_db(server)
    connection = db.open()
    root = connection.root()
    tids = []
    for n in range(5):
        root["n"] = n
        transaction.commit()
        tids.append(db.lastTransaction())
    connection.close()
    assert tids == sorted(set(tids))
    server.restart()
    db = open_db(server)
    for n, tid in enumerate(tids):
        old = db.open(transaction.TransactionManager(), at=tid)
        assert old.root()["n"] == n
        old.close()
