"""doc/format.md is complete: a reader written from it finds all that was stored."""

import io
import pickle
import random
import re
import subprocess
import sys

import harness
import pytest
import read_bucket
import transaction
from persistent.mapping import PersistentMapping
from ZODB.utils import p64, u64

pytestmark = pytest.mark.s3storage

DOCUMENT = harness.ROOT / "doc" / "format.md"
MB = 1 << 20


def _commit(db, change, user="", description="", **extension):
    """Commit a change of the root, and tell the transaction's tid."""
    manager = transaction.TransactionManager()
    connection = db.open(manager)
    try:
        t = manager.get()
        t.user, t.description, t.extension = user, description, extension
        change(connection.root())
        manager.commit()
    finally:
        manager.abort()
        connection.close()
    return db.storage.lastTransaction()


def _stored(db, oids):
    """What the server says it has, of every revision of these objects."""
    return {(oid, u64(entry["tid"])): db.storage.loadSerial(p64(oid), entry["tid"])
            for oid in oids for entry in db.storage.history(p64(oid), 1000)}


def _read(bucket):
    """What is in the bucket: transactions, and the data of every revision."""
    transactions = list(read_bucket.Database(bucket.path).transactions())
    return transactions, {(record.oid, t.tid): record.data
                          for t in transactions for record in t.records}


def test_the_reader_finds_every_revision_and_every_transaction(new_bucket, new_server, open_db):
    bucket = new_bucket("directory")
    server = new_server(bucket)
    db = open_db(server)
    commits = []

    def commit(change, user="", description="", **extension):
        commits.append((u64(_commit(db, change, user, description, **extension)),
                        user, description, extension))

    def many(root):
        for n in range(200):
            root[n] = PersistentMapping({"n": n})

    def large(root):
        for n in range(12):
            root[f"large {n}"] = PersistentMapping(
                {"data": random.Random(n).randbytes(MB)})

    def changed(root):
        root["large 3"]["data"] = b"small now"
        root[7]["n"] = -7

    commit(many, "grüßer", "many objects, 日本語", weather="rain", wind=3)
    commit(large, description="in payload objects")
    server.restart()  # from here on in the next epoch
    harness.wait_until("the client is back", db.storage.is_connected)
    commit(changed)
    for n in range(5):
        commit(lambda root, n=n: root.__setitem__("last", n), user=f"user {n}")

    connection = db.open()
    root = connection.root()
    oids = {0} | {u64(o._p_oid) for o in root.values() if hasattr(o, "_p_oid")}
    connection.close()
    assert len(oids) == 1 + 200 + 12
    stored = _stored(db, oids)
    current = {oid: max(tid for o, tid in stored if o == oid) for oid in oids}
    db.close()
    server.stop()

    transactions, found = _read(bucket)
    assert found == stored
    # The first is ZODB's own, which makes the root.
    assert [(t.tid, t.user.decode(), t.description.decode(),
             pickle.loads(t.extension) if t.extension else {})
            for t in transactions[1:]] == commits
    assert {t.status for t in transactions} == {b" "}
    assert any(t.payloads for t in transactions)
    assert {oid: serial for oid, (serial, _) in
            read_bucket.Database(bucket.path).current().items()} == current
    # Each record says what it replaces.
    before = {}
    for t in transactions:
        for record in t.records:
            assert record.replaces == before.get(record.oid, 0)
            before[record.oid] = t.tid
    seals = [o for o in read_bucket.Database(bucket.path).log() if o.seal]
    assert [(o.epoch, o.seal.next_epoch) for o in seals] == [(0, 1), (1, 2)]

    printed = subprocess.run(
        [sys.executable, read_bucket.__file__, str(bucket.path)],
        capture_output=True, text=True, check=True).stdout
    assert printed.count("\ntransaction ") == len(transactions)
    assert printed.count("\n  object ") == len(stored)


def _state(data):
    """The state in a record: it follows the pickle of the class."""
    stream = io.BytesIO(data)
    pickle.load(stream)
    return pickle.load(stream)


@pytest.fixture
def stopped(new_bucket, new_server, open_db):
    """A bucket of two epochs whose server has stopped, and its log by name."""
    bucket = new_bucket("directory")
    server = new_server(bucket)
    for n in range(6):
        db = open_db(server)
        _commit(db, lambda root: root.__setitem__("n", n))
        db.close()
        if n == 2:
            server.restart()
    server.stop()
    database = read_bucket.Database(bucket.path)
    return bucket, [o.name for o in database.log()]


def _info(bucket):
    """Whether the program itself can read the log."""
    return subprocess.run([harness.BINARY, "info", str(bucket.path)],
                          capture_output=True, text=True, timeout=harness.HANG)


def test_a_hole_in_the_log_is_found(stopped):
    bucket, names = stopped
    for name in names[:-1]:
        path = bucket.path / name
        aside = path.rename(path.parent / "aside")
        with pytest.raises(read_bucket.Damaged, match=name):
            _read(bucket)
        done = _info(bucket)
        assert done.returncode == 1 and name in done.stderr
        aside.rename(path)
    assert _info(bucket).returncode == 0


def test_a_flipped_bit_is_found(stopped):
    bucket, names = stopped
    for name in ["format"] + names:
        path = bucket.path / name
        good = path.read_bytes()
        bit = random.Random(name).randrange(8 * len(good))
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bad)
        with pytest.raises((read_bucket.Damaged, read_bucket.Newer), match=name):
            _read(bucket)
        assert _info(bucket).returncode == 1
        path.write_bytes(good)
    assert _info(bucket).returncode == 0


def test_what_a_dead_leader_left_is_no_part_of_the_log(stopped):
    bucket, names = stopped
    transactions, _ = _read(bucket)
    epoch, slot = (int(digits, 16) for digits in names[-1].split("/")[1:])
    last = (bucket.path / names[-1]).read_bytes()
    # One slot is free, and objects of this epoch and of the sealed one follow.
    for e in 1, epoch:
        (bucket.path / f"log/{e:016x}/{slot + 2:016x}").write_bytes(last)
    (bucket.path / "payload").mkdir(exist_ok=True)
    (bucket.path / "payload" / ("ab" * 16)).write_bytes(b"garbage")
    assert _read(bucket)[0] == transactions
    done = _info(bucket)
    assert done.returncode == 0 and re.search(rf"^transactions +{len(transactions)}$", done.stdout, re.M)


def test_the_example_of_the_document_is_a_database(tmp_path, new_bucket):
    """By the reader and by the program; the numbers beside the bytes are right."""
    bucket = new_bucket("directory")
    text = DOCUMENT.read_text()
    files = re.findall(r"^`(\S+)`, (\d+) bytes:\n\n```hex\n(.*?)^```", text, re.M | re.S)
    assert len(files) == 4
    for name, size, dump in files:
        data = bytearray()
        for line in dump.splitlines():
            offset, digits, note = re.fullmatch(
                r"([0-9a-f]{4})  ((?:[0-9a-f]{2,4} ?)+?)(?:  +(\S.*))?", line).groups()
            assert int(offset, 16) == len(data), line
            data += bytes.fromhex(digits)
        assert len(data) == int(size)
        path = bucket.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    first, second = _read(bucket)[0]
    times = re.findall(r"tid, (\S+)Z$", text, re.M)
    assert [read_bucket.tid_time(t.tid).isoformat() for t in (first, second)] == [
        time + "+00:00" for time in times]
    assert first.description == b"initial database creation"
    [record] = second.records
    assert record.replaces == first.tid and b"greeting" in record.data
    assert _state(record.data) == {"data": {"greeting": "hello"}}
    assert read_bucket.crc32c(b"123456789") == 0xE3069283

    done = _info(bucket)
    assert done.returncode == 0, done.stderr
    assert second.records[0].oid == 0 and f"{second.tid:016x}" in done.stdout
