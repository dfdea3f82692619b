"""Snapshots, branches and restore, as real ZODB clients see them."""

import harness
import pytest
import transaction
import ZEO
from persistent.mapping import PersistentMapping
from ZODB.blob import Blob

pytestmark = pytest.mark.s3storage


def change(db, **values):
    with db.transaction() as connection:
        state = connection.root().setdefault("state", PersistentMapping())
        state.update(values)


def state(db):
    with db.transaction() as connection:
        return dict(connection.root()["state"])


def test_no_client_reads_from_its_cache_what_was_rolled_back(directory_server, open_db, tmp_path):
    server = directory_server
    bucket, = server.storages.values()
    cached = {"client": "persistent", "var": str(tmp_path)}
    writer = open_db(server)
    change(writer, a="first")
    server.stop()
    harness.tool("snapshot", "create", bucket.url, "before")
    server.start()
    harness.wait_until("the server is there again", lambda: connected(writer))

    reader = open_db(server, **cached)
    change(writer, a="rolled back", b="rolled back")
    harness.wait_until("the reader sees the change", lambda: state(reader) == {"a": "rolled back", "b": "rolled back"})
    reader.close()  # its cache file stays, with what is about to be rolled back
    server.stop()
    restored = harness.tool("restore", bucket.url, "--to", "before")
    assert "before-restore" in restored
    server.start()

    reader = open_db(server, **cached)
    assert state(reader) == {"a": "first"}
    # One that was connected all the time comes back to the same.
    harness.wait_until("the writer is connected again", lambda: connected(writer))
    assert state(writer) == {"a": "first"}
    change(writer, c="new")
    harness.wait_until("the reader sees the change", lambda: state(reader) == {"a": "first", "c": "new"})
    server.stop()
    assert "cannot be taken back" in harness.tool("snapshot", "delete", bucket.url, restored.split()[-1])
    assert harness.tool("check", "--full", bucket.url)


def connected(db):
    try:
        db.storage.ping()
    except ZEO.Exceptions.ClientDisconnected:
        return False
    return db.storage.is_connected()


def test_a_branch_is_a_database_of_its_own(directory_server, open_db, tmp_path):
    server = directory_server
    bucket, = server.storages.values()
    blobs = {"blob_dir": str(tmp_path / "blobs")}
    parent = open_db(server, **blobs)
    change(parent, a="common")
    with parent.transaction() as connection:
        connection.root()["blob"] = Blob(b"common content")
    server.stop()
    branch = harness.Bucket("directory", tmp_path)
    harness.tool("branch", branch.url, "--from", bucket.url)
    server.start()
    harness.wait_until("the server is there again", lambda: connected(parent))
    change(parent, a="parent's")
    with parent.transaction() as connection:
        del connection.root()["blob"]
    parent.pack()

    child = harness.Server(tmp_path / "server", branch)
    child.start()
    try:
        db = open_db(child, blob_dir=str(tmp_path / "child's blobs"))
        assert state(db) == {"a": "common"}
        with db.transaction() as connection, connection.root()["blob"].open() as f:
            assert f.read() == b"common content"
        change(db, a="child's")
        assert state(db) == {"a": "child's"}
        db.close()
    finally:
        child.stop()
    assert state(parent) == {"a": "parent's"}
    server.stop()
    for where in bucket.url, branch.url:
        harness.tool("check", "--full", where)
