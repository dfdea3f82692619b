"""Each call of the protocol answers as ZODB's storages do."""

import json
import subprocess
import sys
import threading

import harness
import pytest
import transaction
import wire
from persistent.mapping import PersistentMapping
from ZODB.Connection import TransactionMetaData
from ZODB.POSException import POSKeyError
from ZODB.POSException import ReadOnlyError
from ZODB.POSException import StorageTransactionError
from ZODB.utils import maxtid
from ZODB.utils import p64
from ZODB.utils import u64
from ZODB.utils import z64

from harness import wait_until


def _store(storage, oid, serial, data, **meta):
    txn = TransactionMetaData(**meta)
    storage.tpc_begin(txn)
    try:
        storage.store(oid, serial, data, "", txn)
        storage.tpc_vote(txn)
        return storage.tpc_finish(txn)
    except BaseException:
        storage.tpc_abort(txn)
        raise


@pytest.fixture
def three(served, open_storage):
    """A storage with one object in three revisions: (storage, oid, tids)."""
    storage = open_storage(served)
    oid = storage.new_oid()
    tids = [z64]
    for n in range(3):
        tids.append(_store(storage, oid, tids[-1], wire.record({"data": {"n": n}}),
                           user="root joe", description=f"change {n}",
                           extension={"path": f"/a/{n}", "rank": n}))
    return storage, oid, tids[1:]


def test_the_encoding_is_the_one_asked_for(served):
    with wire.Connection(served.address) as connection:
        assert connection.announced == (b"M5" if served.msgpack else b"Z5")


def test_load_before_answers_data_serial_and_next(three):
    storage, oid, tids = three
    load = storage._server.load_before
    for n, tid in enumerate(tids):
        data, serial, end = load(oid, p64(u64(tid) + 1))
        assert data == wire.record({"data": {"n": n}})
        assert serial == tid
        assert end == (tids[n + 1] if n < 2 else None)
    assert load(oid, tids[0]) is None
    assert load(oid, tids[2])[1] == tids[1]
    assert load(oid, maxtid)[1:] == (tids[2], None)


def test_an_unknown_object_is_a_pos_key_error(three):
    storage, _, tids = three
    unknown = p64(1 << 40)
    for call in (lambda: storage.loadBefore(unknown, maxtid),
                 lambda: storage.load(unknown),
                 lambda: storage.loadSerial(unknown, tids[0]),
                 lambda: storage.getTid(unknown),
                 lambda: storage.history(unknown)):
        with pytest.raises(POSKeyError) as caught:
            call()
        assert caught.value.args[0] == unknown


def test_load_serial_answers_one_revision(three):
    storage, oid, tids = three
    for n, tid in enumerate(tids):
        assert storage.loadSerial(oid, tid) == wire.record({"data": {"n": n}})
    with pytest.raises(POSKeyError):
        storage.loadSerial(oid, p64(u64(tids[1]) - 1))


def test_get_tid_and_last_transaction_answer_the_newest_tid(three):
    storage, oid, tids = three
    assert storage.getTid(oid) == tids[-1]
    assert storage.lastTransaction() == tids[-1]
    assert storage._call("lastTransaction") == tids[-1]
    assert tids == sorted(set(tids))


def test_history_tells_who_what_and_when(three, served, open_storage):
    storage, oid, tids = three

    def check(history, size):
        assert [h["tid"] for h in history] == tids[::-1][:size]
        for n, h in zip((2, 1, 0), history):
            assert h["user_name"] == b"root joe"
            assert h["description"] == b"change %d" % n
            assert h["size"] == len(wire.record({"data": {"n": n}}))
            assert h["path"] == f"/a/{n}" and h["rank"] == n
            assert isinstance(h["time"], float)
    check(storage.history(oid), 1)
    check(storage.history(oid, size=2), 2)
    check(storage.history(oid, size=100), 3)
    served.restart()
    check(open_storage(served).history(oid, size=100), 3)


def test_history_is_there_for_zodb_users(served, open_db):
    db = open_db(served)
    for n in range(3):
        with db.transaction(note=f"note {n}") as connection:
            connection.root()["n"] = n
    assert [h["description"] for h in db.history(z64, size=3)] == [
        "note 2", "note 1", "note 0"]


def test_get_info_describes_the_storage(three):
    storage, oid, tids = three
    info = storage._call("get_info")
    assert {"length", "size", "name", "supportsUndo",
            "supports_record_iternext", "interfaces"} <= set(info)
    assert info["length"] >= 1
    assert info["size"] > 0
    assert isinstance(info["name"], str)
    for interface in info["interfaces"]:
        module, name = interface
        assert isinstance(module, str) and isinstance(name, str)
    assert len(storage) >= 1
    assert storage.getSize() > 0


def test_server_status_counts(three):
    storage, oid, tids = three
    status = storage.server_status()
    assert {"connections", "waiting", "active_txns", "commits", "aborts", "loads",
            "stores", "conflicts", "last-transaction", "start"} <= set(status)
    assert status["connections"] == 1
    assert status["last-transaction"] == tids[-1].hex()
    assert status["commits"] == 3
    assert status["stores"] == 3
    assert status["waiting"] == 0


def test_ping_answers(three):
    assert three[0].ping() is None


def test_new_oids_answers_at_most_a_hundred(served):
    with wire.Connection(served.address) as connection:
        connection.register()
        oids = connection.call("new_oids")
        assert len(oids) == 100
        oids += connection.call("new_oids", 3)
        assert len(oids) == 103
        more = connection.call("new_oids", 100000)
        assert 1 <= len(more) <= 100
        oids += more
        assert len(set(oids)) == len(oids)
        assert all(len(oid) == 8 and oid != z64 for oid in oids)


def test_get_invalidations_tells_what_changed_since(three, open_storage, served):
    storage, oid, tids = three
    second = storage.new_oid()
    tid = _store(storage, second, z64, wire.record({"data": {}}))
    last, oids = storage._call("getInvalidations", tids[0])
    assert last == tid and sorted(set(oids)) == sorted([oid, second])
    last, oids = storage._call("getInvalidations", tids[2])
    assert last == tid and list(oids) == [second]
    last, oids = storage._call("getInvalidations", tid)
    assert last == tid and list(oids) == []


def test_vote_of_an_unknown_transaction_is_a_storage_transaction_error(served):
    with wire.Connection(served.address) as connection:
        connection.register()
        with pytest.raises(wire.ServerError) as caught:
            connection.call("vote", 4711)
        assert caught.value.name == "StorageTransactionError"
        assert connection.call("tpc_abort", 4711) is None
        assert connection.call("ping") is None


def test_an_empty_transaction_commits_and_keeps_the_order_of_tids(served, open_storage):
    # The reference gives it a tid of its own; this server, which has nothing to
    # write for it, answers the tid of the last transaction.
    storage, other = open_storage(served), open_storage(served)
    oid, serial, tids = storage.new_oid(), z64, []
    for n in range(3):
        serial = _store(storage, oid, serial, wire.record({"data": {"n": n}}))
        tids.append(serial)
        for check in False, True:
            txn = TransactionMetaData()
            storage.tpc_begin(txn)
            if check:
                storage.checkCurrentSerialInTransaction(oid, serial, txn)
            storage.tpc_vote(txn)
            tids.append(storage.tpc_finish(txn))
        assert storage.lastTransaction() == storage._call("lastTransaction") == tids[-1]
    assert tids == sorted(tids)
    wait_until("the other client's last tid moves",
               lambda: other.lastTransaction() == tids[-1])


def test_an_abort_lets_go_of_the_locks(served, open_storage):
    one, other = open_storage(served), open_storage(served)
    oid = one.new_oid()
    tid = _store(one, oid, z64, wire.record({"data": {"n": 0}}))
    txn = TransactionMetaData()
    one.tpc_begin(txn)
    one.store(oid, tid, wire.record({"data": {"n": 1}}), "", txn)
    one.tpc_vote(txn)
    one.tpc_abort(txn)
    assert _store(other, oid, tid, wire.record({"data": {"n": 2}})) > tid


def test_a_disconnect_lets_go_of_the_locks(served, open_storage):
    one, other = open_storage(served), open_storage(served)
    oid = one.new_oid()
    tid = _store(one, oid, z64, wire.record({"data": {"n": 0}}))
    txn = TransactionMetaData()
    one.tpc_begin(txn)
    one.store(oid, tid, wire.record({"data": {"n": 1}}), "", txn)
    one.tpc_vote(txn)
    done = []
    waiting = threading.Thread(daemon=True, target=lambda: done.append(
        _store(other, oid, tid, wire.record({"data": {"n": 2}}))))
    waiting.start()
    one.close()
    waiting.join(harness.HANG)
    assert done and done[0] > tid


def test_a_read_only_client_reads_and_cannot_write(three, served, open_storage):
    _, oid, tids = three
    reader = open_storage(served, read_only=True)
    assert reader.is_read_only()
    assert reader.load(oid)[1] == tids[-1]
    with pytest.raises(ReadOnlyError):
        reader.new_oid()
    with pytest.raises(ReadOnlyError):
        reader.tpc_begin(TransactionMetaData())


@pytest.mark.parametrize("call", [("new_oids",), ("tpc_begin",)])
def test_a_read_only_connection_cannot_write_behind_the_clients_back(served, call):
    with wire.Connection(served.address) as connection:
        connection.register(read_only=True)
        if call == ("new_oids",):
            with pytest.raises(wire.ServerError) as caught:
                connection.call("new_oids")
            assert caught.value.name == "ReadOnlyError"
        else:
            connection.begin(1)
            connection.store(1, p64(77), z64, wire.record({"data": {}}))
            with pytest.raises((wire.ServerError, wire.Closed)):
                connection.call("vote", 1)
    with wire.Connection(served.address) as connection:
        connection.register(read_only=True)
        with pytest.raises(wire.ServerError):
            connection.call("loadBefore", p64(77), maxtid)


def test_read_only_fallback_writes_where_it_may(served, open_db):
    db = open_db(served, read_only_fallback=True)
    with db.transaction() as connection:
        connection.root()["n"] = 1
    assert not db.storage.is_read_only()


def test_a_client_label_is_taken(served, open_storage):
    storage = open_storage(served, client_label="instance 7")
    assert storage.ping() is None
    storage.close()
    if not harness.REFERENCE:
        wait_until("the log names the client", lambda: "instance 7" in served.stderr())


def test_an_unknown_storage_name_is_refused_by_name(served):
    with wire.Connection(served.address) as connection:
        with pytest.raises(wire.ServerError) as caught:
            connection.register("no such storage")
        assert "no such storage" in str(caught.value)
        assert caught.value.name == "ValueError"


def test_ruok_answers_json_and_closes(three, served):
    connection = harness.dial(served.address)
    connection.sendall(b"\0\0\0\x04ruok")
    received = b""
    while chunk := connection.recv(65536):
        received += chunk
    connection.close()
    size = int.from_bytes(received[:4], "big")
    frame = received[4 + size:]
    assert int.from_bytes(frame[:4], "big") == len(frame) - 4
    status = json.loads(frame[4:])
    assert list(status) == ["1"]
    assert status["1"]["last-transaction"] == three[2][-1].hex()


def test_zeo_nagios_says_ok(three, served, tmp_path):
    command = [sys.executable, "-m", "ZEO.nagios", "-m",
               "-s", str(tmp_path / "status"), "%s:%s" % served.address]
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, text=True,
                              timeout=harness.HANG)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.startswith("OK|active_txns=0"), done.stdout
        assert "connections=" in done.stdout
    assert "commits=" in done.stdout


def test_zeo_nagios_knows_an_empty_storage(served):
    done = subprocess.run(
        [sys.executable, "-m", "ZEO.nagios", "%s:%s" % served.address],
        capture_output=True, text=True, timeout=harness.HANG)
    assert done.stdout.strip() == "Empty storage '1'", done.stdout + done.stderr


def test_transaction_ids_of_other_kinds_than_numbers_are_echoed(served):
    with wire.Connection(served.address) as connection:
        connection.register()
        [oid] = connection.call("new_oids", 1)
        tid = connection.commit([(oid, z64, wire.record({"data": {}}))],
                                txn=(1 << 62) + 3)
        assert connection.call("getTid", oid) == tid


def test_a_heartbeat_is_not_answered(served):
    with wire.Connection(served.address) as connection:
        connection.register()
        connection.write_frame(connection.encode(-1, 0, ".reply", None))
        assert connection.call("ping") is None


def test_user_and_description_of_any_text_are_kept(served, open_storage):
    storage = open_storage(served)
    oid = storage.new_oid()
    _store(storage, oid, z64, wire.record({"data": {}}), user="Jürgen 山",
           description="über\n" * 1000, extension={"nested": {"a": [1, 2.5, None, True]}})
    [h] = storage.history(oid)
    assert h["user_name"].decode() == "Jürgen 山"
    assert h["description"].decode() == "über\n" * 1000
    assert h["nested"] == {"a": [1, 2.5, None, True]} or h["nested"] == {"a": (1, 2.5, None, True)}


def test_the_last_of_several_stores_of_one_object_counts(served):
    with wire.Connection(served.address) as connection:
        connection.register()
        [oid] = connection.call("new_oids", 1)
        tid = connection.commit([
            (oid, z64, wire.record({"data": {"n": 1}})),
            (oid, z64, wire.record({"data": {"n": 2}}))])
        assert connection.call("loadSerial", oid, tid) == wire.record({"data": {"n": 2}})


def test_a_duplicate_begin_is_refused_by_the_client(served, open_storage):
    storage = open_storage(served)
    txn = TransactionMetaData()
    storage.tpc_begin(txn)
    with pytest.raises(StorageTransactionError):
        storage.tpc_begin(txn)
    storage.tpc_abort(txn)


def test_two_databases_commit_together(new_bucket, new_server, open_storage):
    import ZODB
    server = new_server({"main": new_bucket(), "catalog": new_bucket()})
    databases = {}
    main = ZODB.DB(open_storage(server, storage="main"),
                   database_name="main", databases=databases)
    catalog = ZODB.DB(open_storage(server, storage="catalog"),
                      database_name="catalog", databases=databases)
    with main.transaction() as connection:
        other = connection.get_connection("catalog")
        other.root()["target"] = PersistentMapping({"n": 1})
        other.add(other.root()["target"])
        connection.root()["reference"] = other.root()["target"]
    main.close()
    catalog.close()

    server.restart()
    databases = {}
    main = ZODB.DB(open_storage(server, storage="main"),
                   database_name="main", databases=databases)
    catalog = ZODB.DB(open_storage(server, storage="catalog"),
                      database_name="catalog", databases=databases)
    connection = main.open()
    assert connection.root()["reference"]["n"] == 1
    assert connection.root()["reference"]._p_jar.db() is catalog
    transaction.abort()
    connection.close()
    main.close()
    catalog.close()


def test_storages_of_one_server_are_apart(new_bucket, new_server, open_db):
    server = new_server({"one": new_bucket(), "two": new_bucket(), "1": new_bucket()})
    for name in "one", "two", "1":
        with open_db(server, storage=name).transaction() as connection:
            assert not connection.root()
            connection.root()["name"] = name
    for name in "one", "two", "1":
        with open_db(server, storage=name).transaction() as connection:
            assert connection.root()["name"] == name
    with wire.Connection(server.address) as connection:
        connection.write_frame(b"ruok")
        assert sorted(json.loads(connection.read_frame())) == ["1", "one", "two"]
