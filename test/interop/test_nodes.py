"""Several servers on one bucket: one leads, the others follow it."""

import threading
import time

import harness
import pytest
import transaction
import wire
from harness import status, wait_until

pytestmark = pytest.mark.s3storage

z64 = bytes(8)


def test_clients_of_three_servers_share_one_database(bucket, new_server, open_db):
    servers = [new_server(bucket) for _ in range(3)]
    dbs = [open_db(server) for server in servers]
    with dbs[0].transaction() as connection:
        connection.root()["n"] = 0
    wait_until("the second client sees it", lambda: _read(dbs[1]) == 0)
    for n in range(1, 31):
        db, other = dbs[n % 3], dbs[(n + 1) % 3]
        with db.transaction() as connection:
            assert connection.root()["n"] == n - 1
            connection.root()["n"] = n
        # The other client learns of it by an invalidation.
        wait_until("the other client sees it", lambda: _read(other) == n)
        # A client that comes anew sees it at once.
        with wire.Connection(servers[(n + 2) % 3].address) as newcomer:
            last = newcomer.register()
        with wire.Connection(servers[n % 3].address) as connection:
            assert connection.register() == last
    code, text = status(bucket)
    assert code == 0 and text.count("follower ") == 2, text


def _read(db):
    with db.transaction() as connection:
        return connection.root().get("n")


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_leader_that_goes_is_replaced(how, bucket, new_server, open_db):
    """Reads go on at the other server, and commits after a moment."""
    first, second = new_server(bucket), new_server(bucket)
    db = open_db(second)
    with db.transaction() as connection:
        connection.root()["n"] = 0
    stop = threading.Event()
    failed, committed = [], []

    def read():
        with wire.Connection(second.address) as connection:
            connection.register()
            while not stop.is_set():
                try:
                    connection.call("loadBefore", z64, wire.maxtid)
                except Exception as e:
                    failed.append(e)
                    return

    def write():
        while not stop.is_set():
            try:
                with db.transaction() as connection:
                    n = connection.root()["n"] + 1
                    connection.root()["n"] = n
                committed.append((time.monotonic(), n))
            except transaction.interfaces.TransientError:
                transaction.abort()
    threads = [threading.Thread(target=f, daemon=True) for f in (read, write)]
    for thread in threads:
        thread.start()
    wait_until("commits come in", lambda: len(committed) > 20)
    getattr(first, how)()
    before = len(committed)
    wait_until("commits go on", lambda: len(committed) > before + 20)
    stop.set()
    for thread in threads:
        thread.join(harness.HANG)
        assert not thread.is_alive()
    assert not failed
    numbers = [n for _, n in committed]
    assert numbers == sorted(set(numbers))
    with db.transaction() as connection:
        assert connection.root()["n"] >= numbers[-1]
    pause = max(b - a for (a, _), (b, _) in zip(committed, committed[1:]))
    print(f"longest time without commits after {how}: {pause:.2f} s")
    code, text = status(bucket)
    assert code == 0 and f"{second.address[0]}:{second.address[1]}" in text, text


def test_status_says_when_nobody_leads(bucket, new_server):
    server = new_server(bucket)
    server.kill()
    code, text = status(bucket)
    assert code == 1 and "not reached" in text, text
    server.start()  # a server that is started again leads at once
    assert status(bucket)[0] == 0


def test_a_server_for_reading_follows_and_never_leads(bucket, new_server, open_db):
    first = new_server(bucket)
    reader = new_server(bucket, read_only=True)
    with open_db(first).transaction() as connection:
        connection.root()["n"] = 1
    with wire.Connection(reader.address) as connection:
        tid = connection.register(read_only=True)
        assert connection.call("loadBefore", z64, wire.maxtid)[1] == tid
    first.stop()
    time.sleep(1)  # in which others would lead
    assert status(bucket)[0] == 1
    with wire.Connection(reader.address) as connection:
        assert connection.register(read_only=True) == tid
