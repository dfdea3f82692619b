"""The tools that come with ZEO, and what they ask the server."""

import json
import pathlib
import re
import subprocess
import sys
import time

import harness
import pytest
import wire
from ZODB.utils import z64

from harness import wait_until

pack_is_missing = pytest.mark.xfail(
    not harness.REFERENCE, reason="pack does not exist yet", strict=True)


def run(tool, *arguments):
    """Run a program that was installed with ZEO."""
    path = pathlib.Path(sys.executable).with_name(tool)
    return subprocess.run([path, *map(str, arguments)],
                          capture_output=True, text=True, timeout=harness.HANG)


@pytest.fixture
def used(directory_server, open_db):
    """A server on which something was committed, stored anew and aborted."""
    db = open_db(directory_server)
    for n in range(3):
        with db.transaction() as connection:
            connection.root()["n"] = n
    return directory_server


def metrics(text):
    """What stands behind the bars of a plug-in's output, as numbers."""
    words = re.sub(r"^[^|]*\|", "", text, count=1).replace("|", " ").split()
    return {name: float(value) for name, _, value in (w.rpartition("=") for w in words)}


def test_nagios_tells_numbers_and_then_rates(used, tmp_path, open_storage):
    status = tmp_path / "status"
    done = run("zeo-nagios", "-m", "-s", status, used.host_port)
    assert done.returncode == 0, done.stdout + done.stderr
    assert metrics(done.stdout) == {"active_txns": 0, "connections": 1, "waiting": 0}
    before = json.loads(status.read_text())["1"]
    storage = open_storage(used)
    for _ in range(5):
        storage.loadBefore(z64, wire.maxtid)
    for unit in "seconds", "minutes", "hours", "days":
        done = run("zeo-nagios", "--output-metrics", "--status-path", status,
                   "--time-units", unit, used.host_port)
        assert done.returncode == 0, done.stdout + done.stderr
        got = metrics(done.stdout)
        assert set(got) == {
            "active_txns", "connections", "waiting", "aborts", "commits", "conflicts",
            "conflicts_resolved", "loads", "stores"}, done.stdout
        assert got["connections"] == 2
    after = json.loads(status.read_text())["1"]
    assert after["loads"] > before["loads"]
    assert after["commits"] == before["commits"]


def test_nagios_names_every_storage(new_bucket, new_server, open_db):
    server = new_server({"main": new_bucket(), "other": new_bucket()})
    with open_db(server, storage="main").transaction() as connection:
        connection.root()["n"] = 1
    done = run("zeo-nagios", "-m", server.host_port)
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout.startswith("Empty storage 'other'|main:active_txns=0\n")
    assert "other:connections=0" in done.stdout


def test_nagios_reports_a_server_that_is_not_there(used):
    used.stop()
    done = run("zeo-nagios", used.host_port)
    assert done.returncode == 2
    assert "Can't connect" in done.stdout


def test_nagios_over_a_socket(new_bucket, new_server, tmp_path):
    path = tmp_path / "zeo.sock"
    new_server(new_bucket(), listen=f"unix:{path}")
    done = run("zeo-nagios", path)
    assert (done.returncode, done.stdout) == (1, "Empty storage '1'\n"), done.stderr


def test_status_has_what_the_reference_has_in_the_types_it_has(used):
    with wire.Connection(used.address) as connection:
        connection.register()
        status = connection.call("server_status")
    assert {name: type(value) for name, value in status.items()} == {
        "aborts": int, "active_txns": int, "commits": int, "conflicts": int,
        "conflicts_resolved": int, "connections": int, "last-transaction": str,
        "loads": int, "lock_time": type(None), "start": str, "stores": int,
        "timeout-thread-is-alive": str, "waiting": int}
    assert time.strptime(status["start"])
    assert re.fullmatch("[0-9a-f]{16}", status["last-transaction"])


def test_status_counts_what_clients_do(used):
    def status():
        return connection.call("server_status")
    with wire.Connection(used.address) as connection:
        connection.register()
        first = status()
        oid, other_oid = connection.call("new_oids", 2)
        connection.commit([(oid, z64, wire.record({"data": {}})),
                           (other_oid, z64, wire.record({"data": {}}))])
        connection.call("loadBefore", oid, wire.maxtid)
        connection.begin(2)
        assert status()["active_txns"] == first["active_txns"] + 1
        connection.call("tpc_abort", 2)
        last = status()
        gained = {name: last[name] - first[name] for name in (
            "aborts", "active_txns", "commits", "conflicts", "connections",
            "loads", "stores", "waiting")}
        assert gained == {"aborts": 1, "active_txns": 0, "commits": 1, "conflicts": 0,
                          "connections": 0, "loads": 1, "stores": 2, "waiting": 0}
        assert first["connections"] == 2


def test_status_tells_of_votes_that_wait(directory_server):
    voted, waiting, watcher = (wire.Connection(directory_server.address) for _ in range(3))
    for connection in voted, waiting, watcher:
        connection.register()
    [oid] = voted.call("new_oids", 1)
    for connection in voted, waiting:
        connection.begin(1)
        connection.store(1, oid, z64, wire.record({"data": {}}))
    assert not voted.call("vote", 1)
    waiting.send("vote", 1)
    status = wait_until("a vote waits", lambda: (
        watcher.call("server_status") if watcher.call("server_status")["waiting"] else None))
    assert status["waiting"] == 1
    assert status["active_txns"] == 2
    assert isinstance(status["lock_time"], float)
    for connection in voted, waiting, watcher:
        connection.close()


@pack_is_missing
def test_zeopack_packs_every_storage_it_is_told(new_bucket, new_server, open_db):
    server = new_server({"1": new_bucket(), "other": new_bucket()})
    host, port = server.address
    for name in "1", "other":
        db = open_db(server, storage=name)
        for n in range(5):
            with db.transaction() as connection:
                connection.root()["n"] = n
        assert len(db.history(z64, 10)) == 6
    done = run("zeopack", f"{host}:{port}", f"{host}:{port}:other")
    assert done.returncode == 0 and not done.stderr, done.stdout + done.stderr
    for name in "1", "other":
        db = open_db(server, storage=name)
        assert len(db.history(z64, 10)) == 1
        with db.transaction() as connection:
            assert connection.root()["n"] == 4


@pack_is_missing
def test_zeopack_keeps_the_days_it_is_told_to_keep(used, open_db):
    host, port = used.address
    done = run("zeopack", "-d", 1, f"{host}:{port}")
    assert done.returncode == 0 and not done.stderr, done.stdout + done.stderr
    assert len(open_db(used).history(z64, 10)) == 4


@pack_is_missing
def test_zeopack_over_a_socket(new_bucket, new_server, open_db, tmp_path):
    path = tmp_path / "zeo.sock"
    new_server(new_bucket(), listen=f"unix:{path}")
    db = open_db(str(path))
    for n in range(3):
        with db.transaction() as connection:
            connection.root()["n"] = n
    done = run("zeopack", "-u", path)
    assert done.returncode == 0 and not done.stderr, done.stdout + done.stderr
    assert len(open_db(str(path)).history(z64, 10)) == 1
