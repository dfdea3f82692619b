"""The transaction timeout: who votes and does not finish is disconnected.

The server of ZEO 6.2 closes the connection too, but keeps the transaction and
its lock; so those tests that look for more are for s3storage only.
"""

import time

import pytest
import wire
from ZODB.Connection import TransactionMetaData
from ZEO.Exceptions import ClientDisconnected
from ZODB.utils import z64

from harness import wait_until

SECONDS = 1


@pytest.fixture
def impatient(new_bucket, new_server):
    return new_server(new_bucket(), transaction_timeout=SECONDS)


@pytest.mark.s3storage
def test_who_does_not_finish_is_disconnected_and_its_locks_go(impatient):
    slow, other = wire.Connection(impatient.address), wire.Connection(impatient.address)
    for connection in slow, other:
        connection.register()
    [oid] = slow.call("new_oids", 1)
    slow.one_way("set_client_label", "the slow one")
    slow.begin(1)
    slow.store(1, oid, z64, wire.record({"data": {"by": "slow"}}))
    assert not slow.call("vote", 1)
    # The other's vote waits for the lock, and gets it.
    tid = other.commit([(oid, z64, wire.record({"data": {"by": "other"}}))])
    slow.wait_closed()
    assert other.call("loadBefore", oid, wire.maxtid)[:2] == (
        wire.record({"data": {"by": "other"}}), tid)
    slow.close()
    other.close()
    [line] = [line for line in impatient.stderr().splitlines()
              if "transaction timeout" in line]
    for word in "level=ERROR", f"timeout={SECONDS}s", "the slow one", "peer=127.0.0.1":
        assert word in line


@pytest.mark.s3storage
def test_the_stock_client_comes_back_and_nothing_was_stored(impatient, open_storage):
    storage = open_storage(impatient)
    oid = storage.new_oid()
    txn = TransactionMetaData()
    storage.tpc_begin(txn)
    storage.store(oid, z64, wire.record({"data": {}}), "", txn)
    storage.tpc_vote(txn)
    with wire.Connection(impatient.address) as watcher:
        watcher.register()
        wait_until("the transaction is gone",
                   lambda: watcher.call("server_status")["active_txns"] == 0)
    with pytest.raises(ClientDisconnected):
        storage.tpc_finish(txn)
    storage.tpc_abort(txn)
    wait_until("it is back", storage.is_connected)
    with pytest.raises(KeyError):
        storage.load(oid)


@pytest.mark.s3storage
def test_before_the_vote_there_is_no_limit(impatient):
    patient, slow = wire.Connection(impatient.address), wire.Connection(impatient.address)
    for connection in patient, slow:
        connection.register()
    oid, other_oid = patient.call("new_oids", 2)
    patient.begin(1)
    patient.store(1, oid, z64, wire.record({"data": {}}))
    # In the time in which the other's vote runs out,
    slow.begin(1)
    slow.store(1, other_oid, z64, wire.record({"data": {}}))
    assert not slow.call("vote", 1)
    slow.wait_closed()
    # nothing happens to who did not vote.
    assert not patient.call("vote", 1)
    tid = patient.call("tpc_finish", 1)
    assert patient.call("getTid", oid) == tid
    patient.close()
    slow.close()


def test_status_says_that_there_is_a_timeout(new_bucket, new_server, directory_server):
    patient = new_server(new_bucket(), transaction_timeout=3600)
    for server, alive in (patient, True), (directory_server, "stub"):
        with wire.Connection(server.address) as connection:
            connection.register()
            status = connection.call("server_status")
            assert status["timeout-thread-is-alive"] == alive
            assert status["lock_time"] is None
            [oid] = connection.call("new_oids", 1)
            connection.begin(1)
            connection.store(1, oid, z64, wire.record({"data": {}}))
            before = time.time()
            assert not connection.call("vote", 1)
            after = time.time()
            with wire.Connection(server.address) as other:
                other.register()
                assert before - 1e-3 <= other.call("server_status")["lock_time"] <= after
            connection.call("tpc_abort", 1)
            assert connection.call("server_status")["lock_time"] is None
