"""Large transactions, and many clients."""

import hashlib
import random
import threading

import transaction
import wire
from persistent.mapping import PersistentMapping


def _bytes(seed, size):
    return random.Random(seed).randbytes(size)


def test_fifty_megabytes_commit_and_come_back_byte_for_byte(server, open_db):
    MB = 1 << 20
    db = open_db(server)
    connection = db.open()
    root = connection.root()
    sums = {}
    for n in range(20):
        data = _bytes(n, MB)
        sums[n] = hashlib.sha256(data).digest()
        root[n] = PersistentMapping({"data": data})
    data = _bytes("one", 30 * MB)
    sums["one"] = hashlib.sha256(data).digest()
    root["one"] = PersistentMapping({"data": data})
    del data
    transaction.commit()
    connection.close()
    db.close()

    def check():
        with open_db(server).transaction() as connection:
            root = connection.root()
            assert {k: hashlib.sha256(v["data"]).digest() for k, v in root.items()} == sums
    check()
    server.kill()
    server.start()
    check()


def test_a_transaction_of_many_small_objects_commits(server, open_db):
    with open_db(server).transaction() as connection:
        root = connection.root()
        for n in range(5000):
            root[n] = PersistentMapping({"n": n})
    server.restart()
    with open_db(server).transaction() as connection:
        root = connection.root()
        assert [root[n]["n"] for n in range(0, 5000, 7)] == list(range(0, 5000, 7))


def test_two_hundred_clients_at_once_read_and_some_write(server, open_db):
    with open_db(server).transaction() as connection:
        for n in range(10):
            connection.root()[n] = PersistentMapping({"n": n})
        connection.root()["counter"] = PersistentMapping({"n": 0})
    connections = [wire.Connection(server.address) for _ in range(200)]
    failures = []

    def work(numbers):
        try:
            for n in numbers:
                connections[n].register()
            for n in numbers:
                data, serial, end = connections[n].call("loadBefore", wire.z64, wire.maxtid)
                assert end is None
            for n in numbers:
                if n % 10 == 0:
                    [oid] = connections[n].call("new_oids", 1)
                    connections[n].commit([(oid, wire.z64, wire.record({"data": {"by": n}}))])
        except BaseException as e:
            failures.append(e)

    threads = [threading.Thread(target=work, args=(range(k, 200, 8),), daemon=True)
               for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(240)
        assert not thread.is_alive()
    assert not failures, failures
    # All have heard of the same last transaction, and of each once and in order.
    last = connections[0].call("lastTransaction")
    for connection in connections:
        assert connection.call("ping") is None
        assert connection.call("lastTransaction") == last
        heard = [args[0] for name, args in connection.notices
                 if name == "invalidateTransaction"]
        assert heard == sorted(set(heard))
    for connection in connections:
        connection.close()
