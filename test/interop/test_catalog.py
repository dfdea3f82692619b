"""A database in an eventually consistent store, with a catalog in PostgreSQL."""

import threading

import harness
import pytest
import read_bucket
from persistent.mapping import PersistentMapping
from test_log_bucket import fill, state, stored

pytestmark = pytest.mark.s3storage


@pytest.fixture
def bucket(new_bucket, catalog, monkeypatch):
    monkeypatch.setenv("S3STORAGE_CATALOG", catalog.url)  # for the tools
    return new_bucket("eventual")


def read(bucket):
    """What the store has by itself, by the reader that follows the document."""
    database = read_bucket.Database(bucket.path)
    assert list(database.check()) == []
    return [(t.tid, {(r.oid, r.data) for r in t.records}) for t in database.transactions()]


def root(db):
    with db.transaction() as connection:
        return dict(connection.root())


def check(bucket):
    assert "no damage was found" in harness.tool("check", "--full", bucket.url)


def test_a_database_with_a_catalog_is_one_like_others(bucket, new_server, open_db, tmp_path):
    blobs = {"blob_dir": str(tmp_path / "blobs")}
    server = new_server(bucket, arguments=["--flush-objects", "6", "--memory", "1B", "--pack-grace", "0s"])
    db = open_db(server, **blobs)
    fill(db, 1)
    expected, transactions = state(db), stored(db)
    server.kill()
    check(bucket)
    server.start()
    db = open_db(server, **blobs)
    assert state(db) == expected and stored(db) == transactions
    fill(db, 2)
    with db.transaction() as connection:
        for n in range(50):
            del connection.root()[1, n]
    db.pack()
    expected, transactions = state(db), stored(db)
    server.stop()
    check(bucket)
    # All of it is in the store.
    assert read(bucket) == transactions
    server.start()
    db = open_db(server, **blobs)
    assert state(db) == expected and stored(db) == transactions


def test_two_servers_see_one_database(bucket, new_server, open_db):
    leader, follower = new_server(bucket), new_server(bucket)
    first, second = open_db(leader), open_db(follower)
    expected = {}
    for n in range(20):
        for db in first, second:
            harness.wait_until("what the other has written is seen", lambda: root(db) == expected)
            with db.transaction() as connection:
                connection.root()["n"] = expected["n"] = expected.get("n", 0) + 1
    leader.kill()
    with second.transaction() as connection:
        connection.root()["last"] = PersistentMapping()
    first.close()
    follower.stop()
    check(bucket)


def test_commits_wait_while_postgresql_is_down(bucket, catalog, new_server, open_db):
    server = new_server(bucket)
    db = open_db(server)
    with db.transaction() as connection:
        connection.root()["before"] = 1
    catalog.kill()

    def commit():
        with db.transaction() as connection:
            connection.root()["meanwhile"] = 2
    committing = threading.Thread(target=commit)
    committing.start()
    harness.wait_until("a put has failed", lambda: "putting it again" in server.stderr())
    catalog.start()
    committing.join(harness.HANG)
    assert not committing.is_alive()
    server.kill()
    server.start()
    assert root(open_db(server)) == {"before": 1, "meanwhile": 2}


def test_a_server_without_the_catalog_is_refused(bucket, new_server, monkeypatch):
    new_server(bucket).stop()
    monkeypatch.delenv("S3STORAGE_CATALOG")
    bucket.options, bucket.faults = [], ""
    refused = new_server(bucket, start=False)
    with pytest.raises(AssertionError, match="--catalog postgres://"):
        refused.start()
    refused.kill()


def test_a_store_that_shows_writes_late_is_refused_without_a_catalog(bucket, new_server, monkeypatch):
    monkeypatch.delenv("S3STORAGE_CATALOG")
    bucket.options = []
    refused = new_server(bucket, start=False)
    with pytest.raises(AssertionError, match="does not keep put-if-absent"):
        refused.start()
    refused.kill()
