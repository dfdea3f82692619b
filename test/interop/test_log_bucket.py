"""A database whose log is in a bucket of its own, as real ZODB clients see it."""

import random
import subprocess
import sys

import harness
import pytest
import read_bucket
import transaction
from persistent.mapping import PersistentMapping
from ZODB.blob import Blob
from ZODB.utils import u64

pytestmark = pytest.mark.s3storage

READER = harness.ROOT / "test" / "interop" / "read_bucket.py"
OF_THE_LOG = "log", "checkpoint", "head"


@pytest.fixture(params=[("directory", "directory"), ("directory", "s3"), ("s3", "directory")],
                ids="-".join)
def buckets(request, new_bucket):
    """The main bucket, and that of the log."""
    main, log = map(new_bucket, request.param)
    return main, log


def names(bucket):
    return {path.relative_to(bucket.path).parts[0] for path in bucket.objects()} - {".tmp"}


def fill(db, seed):
    """Commit some of everything: small, large, blobs, an undo."""
    made = random.Random(seed)
    with db.transaction() as connection:
        root = connection.root()
        for n in range(50):
            root[seed, n] = PersistentMapping({"n": n, "data": made.randbytes(100)})
        root[seed, "blob"] = Blob(made.randbytes(1000))
    with db.transaction() as connection:
        connection.root()[seed, "large"] = PersistentMapping({"data": made.randbytes(6 << 20)})
    for n in range(5):
        with db.transaction() as connection:
            connection.root()[seed, 7]["n"] = n
    db.undo(db.undoLog(0, 1)[0]["id"])
    transaction.commit()


def state(db):
    with db.transaction() as connection:
        root = connection.root()
        return {key: value.open().read() if isinstance(value, Blob) else dict(value)
                for key, value in root.items()}


def stored(db):
    """All transactions, and the data of all their records."""
    return [(u64(t.tid), {(u64(r.oid), r.data) for r in t}) for t in db.storage.iterator()]


def read(main, log):
    """The same by the reader that follows the document."""
    database = read_bucket.Database(main.path, log.path)
    assert list(database.check()) == []
    return [(t.tid, {(r.oid, r.data) for r in t.records}) for t in database.transactions()]


def check(main):
    assert "no damage was found" in harness.tool("check", "--full", main.url)


def test_a_database_with_a_log_of_its_own_is_one_like_others(buckets, new_server, open_db, tmp_path):
    main, log = buckets
    blobs = {"blob_dir": str(tmp_path / "blobs")}
    server = new_server(main, arguments=["--log-bucket", log.url, "--flush-objects", "6"])
    db = open_db(server, **blobs)
    fill(db, 1)
    expected, transactions = state(db), stored(db)
    harness.wait_until("a checkpoint stands", lambda: "checkpoint" in names(log))
    server.kill()
    assert names(log) <= {*OF_THE_LOG, "claim"} and "log" in names(log)
    assert not names(main) & set(OF_THE_LOG) and {"format", "segment", "blob"} <= names(main)
    assert read(main, log) == transactions
    check(main)
    assert ["log", "in", log.url] in [line.split() for line in harness.tool("info", main.url).splitlines()]

    server.arguments = []  # the database knows it
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
    assert read(main, log) == transactions
    check(main)
    assert not names(main) & set(OF_THE_LOG)

    # A copy under the same names is all that is needed, and the export tells the same.
    harness.tool("export", main.url, tmp_path / "Data.fs", "--blobs", tmp_path / "exported")
    again, again_log = (harness.Bucket("directory", tmp_path) for _ in range(2))
    harness.tool("import", tmp_path / "Data.fs", "--blobs", tmp_path / "exported",
                 again.url, "--log-bucket", again_log.url)
    assert names(again_log) <= {*OF_THE_LOG, "claim"}
    assert not names(again) & set(OF_THE_LOG)
    check(again)
    server = new_server(again)
    db = open_db(server, blob_dir=str(tmp_path / "blobs of the copy"))
    assert state(db) == expected


def test_snapshots_branches_and_restores_need_not_know_where_the_log_is(
        buckets, new_server, open_db, tmp_path):
    main, log = buckets
    server = new_server(main, arguments=["--log-bucket", log.url])
    fill(open_db(server, blob_dir=str(tmp_path / "blobs")), 1)
    expected = state(open_db(server, blob_dir=str(tmp_path / "blobs")))
    server.stop()
    harness.tool("snapshot", "create", main.url, "first")
    branch = harness.Bucket("directory", tmp_path)
    harness.tool("branch", branch.url, "--from", main.url)
    server.start()
    fill(open_db(server, blob_dir=str(tmp_path / "blobs")), 2)
    server.stop()
    harness.tool("restore", main.url, "--to", "first")
    harness.tool("pack", main.url)
    check(main)
    check(branch)
    for number, bucket in enumerate([main, branch]):
        server = new_server(bucket)
        assert state(open_db(server, blob_dir=str(tmp_path / f"blobs-{number}"))) == expected
        server.stop()
    assert not names(main) & set(OF_THE_LOG)


def test_a_second_server_takes_over_in_the_bucket_of_the_log(buckets, new_server, open_db):
    main, log = buckets
    first = new_server(main, arguments=["--log-bucket", log.url])
    with open_db(first).transaction() as connection:
        connection.root()["by"] = "first"
    second = new_server(main)
    db = open_db(second)
    with db.transaction() as connection:
        assert connection.root()["by"] == "first"
        connection.root()["by"] = "second"
    first.stop()
    second.stop()
    check(main)


def test_a_log_bucket_is_refused_to_another_database(new_bucket, new_server):
    main, log, other = new_bucket(), new_bucket(), new_bucket()
    new_server(main, arguments=["--log-bucket", log.url]).stop()
    for arguments, reason in [
            (["--bucket", other.url, "--log-bucket", log.url], "the log of another database"),
            (["--bucket", main.url, "--log-bucket", other.url], "leave out --log-bucket"),
            (["--storage", f"main={main.url}", "--log-bucket", log.url], "--log-bucket is for"),
            (["--bucket", log.url], "not empty")]:
        done = subprocess.run(
            [harness.BINARY, "serve", "--listen", f"127.0.0.1:{harness.free_port()}", *arguments],
            capture_output=True, text=True, timeout=harness.HANG, env=harness.environment())
        assert done.returncode == 1 and reason in done.stderr, done.stderr


def test_the_reader_follows_the_format_to_the_log_or_says_what_to_give(new_bucket, new_server, open_db):
    main, log = new_bucket(), new_bucket()
    server = new_server(main, arguments=["--log-bucket", log.url])
    with open_db(server).transaction() as connection:
        connection.root()["key"] = "value"
    server.stop()

    def run(*arguments):
        return subprocess.run([sys.executable, READER, "--check", *map(str, arguments), main.path],
                              capture_output=True, text=True, timeout=harness.HANG)
    done = run()
    assert done.returncode == 0, done.stderr
    moved = log.path.with_name("moved")
    log.path.rename(moved)
    assert "--log" in run().stderr
    assert run("--log", moved).returncode == 0
    assert harness.tool("check", main.url, status=2) == ""
