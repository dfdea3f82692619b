"""Where a server listens, and what it says when it does."""

import re
import subprocess

import harness
import pytest
import wire


def _works(open_db, server):
    with open_db(server).transaction() as connection:
        connection.root()["n"] = 1
    with open_db(server).transaction() as connection:
        assert connection.root()["n"] == 1


def test_unix_socket(new_bucket, new_server, open_db, tmp_path):
    path = tmp_path / "zeo.sock"
    _works(open_db, new_server(new_bucket(), listen=f"unix:{path}"))


@pytest.mark.s3storage
def test_unix_socket_given_as_a_path(new_bucket, new_server, open_db, tmp_path):
    _works(open_db, new_server(new_bucket(), listen=str(tmp_path / "zeo.sock")))


def test_a_unix_socket_left_behind_does_not_keep_the_server_from_starting(
        new_bucket, new_server, open_db, tmp_path):
    server = new_server(new_bucket(), listen=f"unix:{tmp_path / 'zeo.sock'}")
    server.kill()
    server.start()
    _works(open_db, server)


def _ipv6():
    try:
        return harness.free_port("::1")
    except (OSError, AssertionError):
        return None


@pytest.mark.skipif(_ipv6() is None, reason="this machine has no IPv6")
def test_ipv6(new_bucket, new_server, open_db):
    _works(open_db, new_server(new_bucket(), listen=f"[::1]:{_ipv6()}"))


@pytest.mark.s3storage
def test_port_zero_is_a_free_port_that_is_announced(new_bucket, new_server, open_db):
    server = new_server(new_bucket(), listen="127.0.0.1:0")
    assert server.address[1] != 0
    _works(open_db, server)


@pytest.mark.s3storage
def test_several_listeners_serve_one_database(new_bucket, new_server, open_db, tmp_path):
    server = new_server(new_bucket(), listen=[
        f"127.0.0.1:{harness.free_port()}", f"unix:{tmp_path / 'zeo.sock'}"])
    addresses = [harness.parse_address(line) for line in server.listen]
    assert len(addresses) == 2
    for n, address in enumerate(addresses):
        with open_db(address).transaction() as connection:
            assert len(connection.root()) == n
            connection.root()[n] = n


@pytest.mark.s3storage
def test_the_server_prints_the_zope_conf_that_opens_it(directory_server, open_db):
    from ZODB.config import databaseFromString
    text = harness.wait_until("the snippet is printed", lambda: (
        "</zeoclient>" in directory_server.stdout() and directory_server.stdout()))
    assert "<zeoclient>" in text
    snippet = re.search(r"<zeoclient>.*?</zeoclient>", text, re.S).group()
    assert "%s:%s" % directory_server.address in snippet
    db = databaseFromString(f"<zodb>\n{snippet}\n</zodb>")
    with db.transaction() as connection:
        connection.root()["n"] = 1
    db.close()


@pytest.mark.s3storage
def test_a_taken_port_is_named_and_the_server_ends(directory_server, new_bucket, new_server):
    other = new_server(new_bucket(), start=False, listen=directory_server.host_port)
    other.spawn()
    assert other.process.wait(harness.HANG) != 0
    other.process = None
    assert str(directory_server.address[1]) in other.stderr() + other.stdout()


@pytest.mark.s3storage
def test_a_bucket_that_cannot_be_used_is_named_and_the_server_ends(new_server, new_bucket):
    bucket = new_bucket()
    bucket.path.parent.mkdir(parents=True, exist_ok=True)
    bucket.path.write_text("a file, not a directory")
    server = new_server(bucket, start=False)
    server.spawn()
    assert server.process.wait(harness.HANG) != 0
    server.process = None
    assert bucket.path.name in server.stderr() + server.stdout()


@pytest.mark.s3storage
def test_info_prints_what_is_in_the_bucket(server, open_db, gateway):
    with open_db(server).transaction() as connection:
        connection.root()["n"] = 1
    tid = open_db(server).lastTransaction()
    server.stop()
    [bucket] = server.storages.values()
    import os
    done = subprocess.run(
        [harness.BINARY, "info", bucket.url], capture_output=True, text=True,
        timeout=harness.HANG, env=dict(
            os.environ, AWS_ACCESS_KEY_ID=harness.ACCESS_KEY,
            AWS_SECRET_ACCESS_KEY=harness.SECRET_KEY))
    assert done.returncode == 0, done.stdout + done.stderr
    assert tid.hex() in done.stdout


@pytest.mark.s3storage
def test_logs_are_json_when_asked_for(new_bucket, new_server, open_db):
    import json
    server = new_server(new_bucket(), arguments=["--log-format", "json"])
    _works(open_db, server)
    server.stop()
    lines = server.stderr().splitlines()
    assert lines
    for line in lines:
        assert "msg" in json.loads(line)


def test_the_address_is_free_again_at_once_after_a_restart(directory_server):
    for _ in range(3):
        with wire.Connection(directory_server.address) as connection:
            connection.register()
            directory_server.restart()
