"""SIGTERM ends the server in order; a second server takes over."""

import threading

import harness
import pytest
import wire
from ZODB.utils import z64

from harness import wait_until


def _begin_and_vote(connection, oid, serial=z64, n=1):
    connection.begin(1)
    connection.store(1, oid, serial, wire.record({"data": {"n": n}}))
    assert not connection.call("vote", 1)


def test_sigterm_ends_an_idle_server_with_clients_connected(server):
    connections = [wire.Connection(server.address) for _ in range(5)]
    for connection in connections:
        connection.register()
    server.stop()
    for connection in connections:
        connection.wait_closed()
        connection.close()


@pytest.mark.s3storage
def test_sigterm_lets_a_voted_transaction_finish(server):
    with wire.Connection(server.address) as connection:
        connection.register()
        [oid] = connection.call("new_oids", 1)
        _begin_and_vote(connection, oid)
        server.terminate()

        # No new client is let in once the server is on its way out.
        def turned_away():
            try:
                with wire.Connection(server.address, timeout=1) as late:
                    late.register()
            except (OSError, wire.Closed, wire.ServerError):
                return True
            return False
        wait_until("new clients are turned away", turned_away)
        tid = connection.call("tpc_finish", 1)
    server.wait_stopped()
    server.start()
    with wire.Connection(server.address) as connection:
        connection.register()
        assert connection.call("loadSerial", oid, tid) == wire.record({"data": {"n": 1}})


@pytest.mark.s3storage
def test_sigterm_does_not_wait_for_ever_for_a_voted_transaction(new_server, new_bucket):
    server = new_server(new_bucket(), arguments=["--stop-timeout", "1s"])
    with wire.Connection(server.address) as connection:
        connection.register()
        [oid] = connection.call("new_oids", 1)
        _begin_and_vote(connection, oid)
        server.stop()
        connection.wait_closed()


@pytest.mark.s3storage
def test_a_later_server_follows_and_clients_of_both_write(server, new_server, open_db):
    with open_db(server).transaction() as connection:
        connection.root()["n"] = 1
    [bucket] = server.storages.values()
    later = new_server(bucket)
    with wire.Connection(server.address) as one, wire.Connection(later.address) as other:
        for connection in one, other:
            connection.register()
        oids = one.call("new_oids", 10)
        more = other.call("new_oids", 10)
        assert not set(oids) & set(more)
        tids = {}
        for oid, mine, others in [(oids[0], one, other), (more[0], other, one)] * 5:
            record = wire.record({"data": {}})
            tids[oid] = mine.commit([(oid, tids.get(oid, z64), record)])
            # Whoever has committed sees it at once, whoever comes to the other as well.
            assert mine.call("loadBefore", oid, wire.maxtid)[1] == tids[oid]
            address = later.address if others is other else server.address
            with wire.Connection(address) as newcomer:
                assert newcomer.register() >= tids[oid]
                assert newcomer.call("loadBefore", oid, wire.maxtid)[1] == tids[oid]
        # When the one that leads is stopped in order, clients of the other go on.
        server.stop()
        tid = other.commit([(more[0], tids[more[0]], wire.record({"data": {"n": 2}}))])
        assert other.call("loadBefore", more[0], wire.maxtid)[1] == tid
    with open_db(later).transaction() as connection:
        assert connection.root()["n"] == 1


@pytest.mark.s3storage
def test_a_transaction_voted_before_the_leader_is_lost_is_not_half_there(
        server, new_server):
    old = wire.Connection(server.address)
    old.register()
    a, b = old.call("new_oids", 2)
    [bucket] = server.storages.values()
    later = new_server(bucket)
    through = wire.Connection(later.address)  # voted at the leader, by way of the other
    through.register()
    [c] = through.call("new_oids", 1)
    for connection, oids in (old, (a, b)), (through, (c,)):
        connection.begin(1)
        for oid in oids:
            connection.store(1, oid, z64, wire.record({"data": {"n": 1}}))
        assert not connection.call("vote", 1)
    server.kill()
    with pytest.raises((wire.ServerError, wire.Closed, OSError)):
        old.call("tpc_finish", 1)
    with pytest.raises((wire.ServerError, wire.Closed)):
        through.call("tpc_finish", 1)
    old.close()
    through.close()
    with wire.Connection(later.address) as connection:
        connection.register()
        connection.commit([(c, z64, wire.record({"data": {"n": 3}}))])
        for oid in a, b:
            with pytest.raises(wire.ServerError) as caught:
                connection.call("loadBefore", oid, wire.maxtid)
            assert caught.value.name == "POSKeyError"


@pytest.mark.s3storage
def test_a_client_of_both_servers_finds_the_one_that_leads(
        server, new_server, open_db):
    import transaction
    from ZEO.Exceptions import ClientDisconnected
    from ZODB.POSException import ReadOnlyError
    [bucket] = server.storages.values()
    later_port = f"127.0.0.1:{harness.free_port()}"
    db = open_db([server.address, harness.parse_address(later_port)])
    with db.transaction() as connection:
        connection.root()["n"] = 1
    later = new_server(bucket, listen=later_port)

    def commits():
        try:
            with db.transaction() as connection:
                connection.root()["n"] = 2
            return True
        except Exception as e:
            transaction.abort()
            assert isinstance(e, (ReadOnlyError, ClientDisconnected)) or (
                "ServerException" in type(e).__name__), repr(e)
            return False
    commits()
    server.kill()
    wait_until("the client commits at the later server", commits, interval=0.2)
    with open_db(later).transaction() as connection:
        assert connection.root()["n"] == 2


def test_sigterm_while_clients_commit_loses_nothing(server):
    """Each acknowledged commit is there, whenever the signal comes."""
    acknowledged = {}
    started = threading.Event()

    def work(n):
        try:
            with wire.Connection(server.address) as connection:
                connection.register()
                while True:
                    [oid] = connection.call("new_oids", 1)
                    tid = connection.commit(
                        [(oid, z64, wire.record({"data": {"by": n}}))])
                    acknowledged[oid] = tid
                    if len(acknowledged) >= 20:
                        started.set()
        except (OSError, wire.Closed, wire.ServerError):
            pass
    threads = [threading.Thread(target=work, args=(n,), daemon=True) for n in range(4)]
    for thread in threads:
        thread.start()
    assert started.wait(harness.HANG)
    server.stop()
    for thread in threads:
        thread.join(harness.HANG)
        assert not thread.is_alive()
    server.start()
    with wire.Connection(server.address) as connection:
        connection.register()
        for oid, tid in acknowledged.items():
            assert connection.call("loadBefore", oid, wire.maxtid)[1] == tid
