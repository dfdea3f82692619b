"""TLS, with the stock client and the certificates of ZEO's own tests.

These are self-signed with SHA-1, and each is its own authority:
client.pem has no common name, server.pem and serverpw.pem have zodb.org.
"""

import os
import pathlib
import shutil
import signal
import ssl
import subprocess
import sys
import threading

import harness
import pytest
import wire
import ZEO.Exceptions
from harness import wait_until
from ZEO.tests import testssl
from ZODB.utils import z64

HERE = pathlib.Path(testssl.here)
TLS = {"certificate": testssl.server_cert, "key": testssl.server_key,
       "authenticate": testssl.client_cert}


def context(certificate=testssl.client_cert, key=testssl.client_key,
            server=testssl.server_cert):
    """A client's context, with testssl's own password for the keys."""
    context = ssl.create_default_context(cafile=server)
    context.check_hostname = False
    if certificate:
        context.load_cert_chain(certificate, key, testssl.pwfunc)
    return context


@pytest.fixture
def tls_server(new_bucket, new_server):
    return new_server(new_bucket(), tls=TLS)


def refused(server, tls):
    """Whether the server turns a client away before it says a word."""
    try:
        wire.Connection(server.address, tls=tls).close()
    except (OSError, wire.Closed):
        return True
    return False


def works(server, tls, n=1):
    with wire.Connection(server.address, tls=tls) as connection:
        connection.register()
        [oid] = connection.call("new_oids", 1)
        tid = connection.commit([(oid, z64, wire.record({"data": {"n": n}}))])
        assert connection.call("getTid", oid) == tid
    return True


def test_the_stock_client_commits_over_tls(tls_server, open_db):
    db = open_db(tls_server, ssl=testssl.client_ssl())
    with db.transaction() as connection:
        connection.root()["n"] = "x" * 3_000_000  # many TLS records
    other = open_db(tls_server, ssl=testssl.client_ssl())
    with other.transaction() as connection:
        assert connection.root()["n"] == "x" * 3_000_000
        connection.root()["n"] = 2
    db.storage.ping()  # after it, all before it was told
    with db.transaction() as connection:
        assert connection.root()["n"] == 2


def test_many_clients_commit_over_tls_at_once(tls_server):
    done = []

    def work():
        for n in range(20):
            works(tls_server, testssl.client_ssl(), n)
        done.append(1)
    threads = [threading.Thread(target=work, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(harness.HANG)
    assert len(done) == 4


def test_a_configured_client_checks_the_servers_name(tls_server):
    from ZODB.config import storageFromString

    def open_as(name, wait):
        return storageFromString(f"""
            %import ZEO
            <clientstorage>
              server {tls_server.host_port}
              wait-timeout {wait}
              <ssl>
                certificate {testssl.client_cert}
                key {testssl.client_key}
                authenticate {testssl.server_cert}
                server-hostname {name}
              </ssl>
            </clientstorage>""")
    open_as("zodb.org", harness.HANG).close()
    with pytest.raises(ZEO.Exceptions.ClientDisconnected):
        open_as("example.org", 1)


@pytest.mark.s3storage
def test_the_server_prints_the_zope_conf_for_tls(tls_server):
    from ZODB.config import databaseFromString
    text = wait_until("the snippet is printed", lambda: (
        "</zodb_db>" in tls_server.stdout() and tls_server.stdout()))
    snippet = text[text.index("%import"):].replace("zodb_db main", "zodb")
    for old, new in {
            "zodb_db": "zodb", "  mount-point /\n": "",
            "CLIENT.pem": testssl.client_cert, "CLIENT-KEY.pem": testssl.client_key,
            "SERVER.pem": f"{testssl.server_cert}\n      check-hostname false"}.items():
        assert old in snippet
        snippet = snippet.replace(old, new)
    db = databaseFromString(snippet)
    with db.transaction() as connection:
        connection.root()["n"] = 1
    db.close()


def test_clients_that_are_not_trusted_are_refused(tls_server):
    stranger = context(testssl.serverpw_cert, testssl.serverpw_key)
    assert refused(tls_server, stranger)
    assert refused(tls_server, context(certificate=None))
    assert works(tls_server, context())
    if not harness.REFERENCE:
        for why in "refused", "CN=zodb.org", "unknown authority", "didn't provide a certificate":
            wait_until(f"the log says {why}", lambda: why in tls_server.stderr())


def test_clients_at_the_wrong_address_get_a_clean_end(
        tls_server, directory_server, open_storage):
    with harness.dial(tls_server.address) as plain:
        plain.sendall(b"\0\0\0\4ruok")
        assert b"Z5" not in plain.recv(100)
    assert refused(directory_server, context())
    for server, options in (tls_server, {}), (directory_server, {"ssl": testssl.client_ssl()}):
        with pytest.raises(ZEO.Exceptions.ClientDisconnected):
            open_storage(server, wait_timeout=1, **options)
    assert works(tls_server, context())
    assert works(directory_server, None)
    if not harness.REFERENCE:
        wait_until("the log says what came", lambda:
                   "does not speak TLS" in tls_server.stderr()
                   and "speaks TLS, and this" in directory_server.stderr())


def test_the_server_stops_while_handshakes_stall(tls_server):
    stalled = [harness.dial(tls_server.address) for _ in range(10)]
    for connection in stalled[::2]:
        connection.sendall(b"\x16\x03\x01\x02\x00\x01\x00")
    assert works(tls_server, context())
    tls_server.stop()
    for connection in stalled:
        connection.close()


@pytest.mark.s3storage
def test_an_encrypted_key_is_opened_with_the_password_in_a_file(
        new_bucket, new_server, tmp_path):
    password = tmp_path / "password"
    password.write_text(testssl.pwfunc() + "\n")
    server = new_server(
        new_bucket(),
        tls=TLS | {"certificate": testssl.serverpw_cert, "key": testssl.serverpw_key},
        arguments=["--tls-key-password-file", str(password)])
    assert works(server, context(server=testssl.serverpw_cert))


@pytest.mark.s3storage
def test_tls_options_that_do_not_fit_end_the_server_with_advice(new_bucket):
    done = subprocess.run(
        [harness.BINARY, "serve", "--bucket", new_bucket().url, "--listen", "127.0.0.1:0",
         "--tls-cert", testssl.serverpw_cert, "--tls-key", testssl.serverpw_key],
        capture_output=True, text=True, timeout=harness.HANG)
    assert done.returncode == 1
    assert "--tls-key-password-file" in done.stderr


@pytest.fixture
def two_authorities(tmp_path):
    directory = tmp_path / "authorities"
    directory.mkdir()
    for path in testssl.client_cert, testssl.serverpw_cert:
        shutil.copy(path, directory)
    return str(directory)


@pytest.mark.s3storage
def test_a_certificate_may_be_limited_to_reading(
        new_bucket, new_server, open_db, two_authorities):
    server = new_server(new_bucket(), tls=TLS | {"authenticate": two_authorities},
                        arguments=["--tls-read-only", "zodb.org"])
    with open_db(server, ssl=context()).transaction() as connection:
        connection.root()["n"] = 1
    reader = context(testssl.serverpw_cert, testssl.serverpw_key)
    db = open_db(server, ssl=reader, read_only_fallback=True)
    with db.transaction() as connection:
        assert connection.root()["n"] == 1
    assert db.storage.is_read_only()
    with wire.Connection(server.address, tls=reader) as connection:
        with pytest.raises(wire.ServerError, match="zodb.org") as caught:
            connection.register()
        assert caught.value.name == "ReadOnlyError"


@pytest.mark.s3storage
def test_where_certificates_are_optional_clients_without_one_may_only_read(
        new_bucket, new_server, open_db):
    server = new_server(new_bucket(), tls=TLS, arguments=["--tls-client-auth", "optional"])
    with open_db(server, ssl=context()).transaction() as connection:
        connection.root()["n"] = 1
    db = open_db(server, ssl=context(certificate=None), read_only=True)
    with db.transaction() as connection:
        assert connection.root()["n"] == 1
    with wire.Connection(server.address, tls=context(certificate=None)) as connection:
        with pytest.raises(wire.ServerError, match="no certificate"):
            connection.register()
    assert refused(server, context(testssl.serverpw_cert, testssl.serverpw_key))


@pytest.mark.s3storage
def test_sighup_has_certificates_read_again(new_bucket, new_server, tmp_path):
    files = {}
    for name, path in TLS.items():
        files[name] = str(tmp_path / f"{name}.pem")
        shutil.copy(path, files[name])
    server = new_server(new_bucket(), tls=files)
    old = wire.Connection(server.address, tls=context())
    old.register()

    # A half-done renewal is not taken.
    lines = server.stderr().count("TLS files")
    pathlib.Path(files["certificate"]).write_text("not a certificate")
    server.process.send_signal(signal.SIGHUP)
    wait_until("it says so", lambda: server.stderr().count("TLS files") == lines + 1)
    assert works(server, context())

    # ZEO's certificates for the client and the server have the same key.
    shutil.copy(testssl.client_cert, files["certificate"])
    shutil.copy(testssl.serverpw_cert, files["authenticate"])
    server.process.send_signal(signal.SIGHUP)
    wait_until("it says so", lambda: "read again" in server.stderr())
    assert works(server, context(testssl.serverpw_cert, testssl.serverpw_key,
                                 server=testssl.client_cert))
    assert refused(server, context(server=testssl.client_cert))
    # Who is there stays.
    assert old.call("ping") is None
    old.close()


@pytest.mark.s3storage
def test_a_socket_beside_tls_serves_the_tools_that_know_no_tls(
        new_bucket, new_server, tmp_path, open_db):
    path = tmp_path / "zeo.sock"
    server = new_server(new_bucket(), tls=TLS, listen=[
        f"127.0.0.1:{harness.free_port()}", str(path)])
    with open_db(str(path)).transaction() as connection:
        connection.root()["n"] = 1
    with open_db(server, ssl=context()).transaction() as connection:
        assert connection.root()["n"] == 1
    done = subprocess.run([sys.executable, "-m", "ZEO.nagios", str(path)],
                          capture_output=True, text=True, timeout=harness.HANG)
    assert done.stdout.strip() == "OK", done.stdout + done.stderr


def test_clients_that_vanish_without_a_word_are_no_alarm(tls_server):
    connections = [wire.Connection(tls_server.address, tls=context()) for _ in range(3)]
    for connection in connections:
        connection.register()
        os.close(connection.socket.detach())  # no TLS goodbye
    assert works(tls_server, context())
    tls_server.stop()
    if not harness.REFERENCE:
        assert "level=WARN" not in tls_server.stderr(), tls_server.stderr()
