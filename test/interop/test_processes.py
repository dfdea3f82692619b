"""Several processes, one database."""

import threading

import pytest
import workers
from BTrees.Length import Length
from BTrees.OOBTree import OOBTree


def test_eight_processes_lose_no_increment_and_no_key(server, open_db):
    processes, commits = 8, 20
    with open_db(server).transaction() as connection:
        root = connection.root()
        root["length"] = Length()
        root["tree"] = OOBTree()
    workers.run_processes(workers.increment_and_insert, [
        (server.address, worker, commits) for worker in range(processes)])
    with open_db(server).transaction() as connection:
        root = connection.root()
        assert root["length"]() == processes * commits
        root["tree"]._check()
        assert dict(root["tree"]) == {
            f"{i:04}-{worker}": (worker, i)
            for worker in range(processes) for i in range(commits)}
    # The same from the bucket alone.
    server.kill()
    server.start()
    with open_db(server).transaction() as connection:
        assert connection.root()["length"]() == processes * commits
        assert len(connection.root()["tree"]) == processes * commits


ACCOUNTS, BALANCE = 12, 100


def test_readers_in_processes_keep_their_snapshot_while_writers_commit(server, open_db):
    with open_db(server).transaction() as connection:
        connection.root()["accounts"] = workers.new_accounts(ACCOUNTS, BALANCE)
    done = workers.event()
    results = workers.queue()
    readers = [workers.start_process(_watch, server.address, done, results)
               for _ in range(2)]
    workers.run_processes(workers.move_money, [
        (server.address, seed, 60) for seed in range(3)])
    done.set()
    for reader in readers:
        outcome = results.get(timeout=60)
        assert isinstance(outcome, int), outcome
        assert outcome >= 1
    for reader in readers:
        reader.join(60)


def _watch(address, done, results):
    results.put(workers.watch_sum(address, done, ACCOUNTS * BALANCE))


@pytest.mark.parametrize("msgpack", [False, True], ids=["Z5", "M5"])
def test_readers_in_threads_keep_their_snapshot_while_writers_commit(
        new_bucket, new_server, open_db, msgpack):
    server = new_server(new_bucket("directory"), msgpack=msgpack)
    with open_db(server).transaction() as connection:
        connection.root()["accounts"] = workers.new_accounts(ACCOUNTS, BALANCE)
    done = threading.Event()
    outcomes = []

    def read():
        outcomes.append(workers.watch_sum(server.address, done, ACCOUNTS * BALANCE))

    def write(seed):
        workers.move_money(server.address, seed, 60)

    readers = [threading.Thread(target=read, daemon=True) for _ in range(2)]
    writers = [threading.Thread(target=write, args=(n,), daemon=True) for n in range(3)]
    for thread in readers + writers:
        thread.start()
    for thread in writers:
        thread.join(240)
        assert not thread.is_alive()
    done.set()
    for thread in readers:
        thread.join(60)
        assert not thread.is_alive()
    assert len(outcomes) == len(readers)
    for outcome in outcomes:
        assert isinstance(outcome, int), outcome


def test_a_long_reader_sees_its_state_to_the_end(server, open_db):
    db = open_db(server)
    with db.transaction() as connection:
        connection.root()["accounts"] = workers.new_accounts(ACCOUNTS, BALANCE)
    import transaction
    tm = transaction.TransactionManager()
    reader = open_db(server).open(tm)
    tm.begin()
    accounts = reader.root()["accounts"]
    assert accounts["account 0"]["balance"] == BALANCE
    for n in range(10):
        with db.transaction() as connection:
            for account in connection.root()["accounts"].values():
                account["balance"] += 1
    # These were not loaded before the writers came.
    assert [a["balance"] for a in accounts.values()] == [BALANCE] * ACCOUNTS
    # The writer's client has heard of the commits; the reader's may have yet to.
    reader.db().storage.ping()
    tm.begin()
    assert [a["balance"] for a in accounts.values()] == [BALANCE + 10] * ACCOUNTS
    tm.abort()
    reader.close()
