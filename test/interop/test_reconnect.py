"""A client with a persistent cache comes back after it missed something."""

import transaction
from persistent.mapping import PersistentMapping

from harness import wait_until


def _verify_result(storage):
    return storage._server.client.verify_result


def _fill(db, count):
    with db.transaction() as connection:
        root = connection.root()
        for i in range(count):
            root[i] = PersistentMapping({"n": 0})


def _read(db):
    connection = db.open(transaction.TransactionManager())
    try:
        return [connection.root()[i]["n"] for i in range(len(connection.root()))]
    finally:
        connection.close()


def test_a_reopened_cache_learns_of_missed_transactions(server, open_db, tmp_path):
    cache = str(tmp_path / "client.zec")
    writer = open_db(server)
    _fill(writer, 20)
    away = open_db(server, cache=cache)
    assert _read(away) == [0] * 20
    away.close()
    for n in range(1, 6):
        with writer.transaction() as connection:
            connection.root()[n]["n"] = n
    back = open_db(server, cache=cache)
    assert _verify_result(back.storage) == "quick verification"
    assert _read(back) == [0, 1, 2, 3, 4, 5] + [0] * 14
    # What did not change is still in the cache.
    assert len(list(back.storage._cache.contents())) >= 15


def test_a_reopened_cache_learns_of_them_after_the_server_was_restarted(
        server, open_db, tmp_path):
    cache = str(tmp_path / "client.zec")
    writer = open_db(server)
    _fill(writer, 20)
    away = open_db(server, cache=cache)
    assert _read(away) == [0] * 20
    away.close()
    with writer.transaction() as connection:
        connection.root()[1]["n"] = 1
    server.kill()
    server.start()
    wait_until("the writer is back", writer.storage.is_connected)
    with writer.transaction() as connection:
        connection.root()[2]["n"] = 2
    server.restart()
    back = open_db(server, cache=cache)
    assert _verify_result(back.storage) == "quick verification"
    assert _read(back) == [0, 1, 2] + [0] * 17


def test_a_live_client_learns_of_them_when_it_reconnects(
        server, open_db, new_server, tmp_path):
    # The client connects through an address that goes away, while another
    # server over the same bucket takes the missed commits.
    away = open_db(server, cache=str(tmp_path / "client.zec"))
    _fill(away, 5)
    assert _read(away) == [0] * 5
    server.stop()
    wait_until("the client knows", lambda: not away.storage.is_connected())
    [bucket] = server.storages.values()
    elsewhere = new_server(bucket)
    with open_db(elsewhere).transaction() as connection:
        connection.root()[3]["n"] = 3
    elsewhere.stop()
    server.start()
    wait_until("the client is back", away.storage.is_connected)
    assert _verify_result(away.storage) == "quick verification"
    assert _read(away) == [0, 0, 0, 3, 0]


def test_a_cache_that_missed_nothing_is_up_to_date(directory_server, open_db, tmp_path):
    cache = str(tmp_path / "client.zec")
    db = open_db(directory_server, cache=cache)
    _fill(db, 3)
    db.close()
    directory_server.restart()
    back = open_db(directory_server, cache=cache)
    assert _verify_result(back.storage) == "Cache up to date"
    assert _read(back) == [0] * 3


def test_invalidations_reach_the_other_clients(server, open_db):
    one, two = open_db(server), open_db(server)
    tm = transaction.TransactionManager()
    reader = two.open(tm)
    for n in range(5):
        with one.transaction() as connection:
            connection.root()["n"] = n
        wait_until("the other client has heard of it",
                   lambda: two.lastTransaction() == one.lastTransaction())
        tm.begin()
        assert reader.root()["n"] == n
    reader.close()
