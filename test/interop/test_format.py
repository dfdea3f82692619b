"""doc/format.md is complete: a reader written from it finds all that was stored."""

import hashlib
import io
import pickle
import random
import re
import struct
import subprocess
import sys

import harness
import pytest
import read_bucket
import transaction
import zstandard
from persistent.mapping import PersistentMapping
from ZODB.blob import Blob
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
    database = read_bucket.Database(bucket.path)
    transactions = list(database.transactions())
    assert list(database.check()) == []
    return transactions, {(record.oid, t.tid): record.data
                          for t in transactions for record in t.records}


@pytest.mark.parametrize("often", [True, False], ids=["in segments", "in the log"])
def test_the_reader_finds_every_revision_and_every_transaction(
        new_bucket, new_server, open_db, often):
    """Where all is written out at once and the server stops in order, and where
    it is written out by one stop, and the next server is killed."""
    bucket = new_bucket("directory")
    server = new_server(bucket, arguments=["--flush-objects", "3"] if often else [])
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
    (server.stop if often else server.kill)()

    database = read_bucket.Database(bucket.path)
    assert len(database.tail) == (0 if often else 1 + 5)
    assert len(database.base.segments) > 1 if often else len(database.base.segments) == 1
    transactions, found = _read(bucket)
    assert found == stored
    # The first is ZODB's own, which makes the root.
    assert [(t.tid, t.user.decode(), t.description.decode(),
             pickle.loads(t.extension) if t.extension else {})
            for t in transactions[1:]] == commits
    assert {t.status for t in transactions} == {b" "}
    assert {oid: serial for oid, serial, _ in database.current()} == current
    assert all(data == stored[oid, serial] for oid, serial, data in database.current())
    # Each record says what it replaces.
    before = {}
    for t in transactions:
        for record in t.records:
            assert record.replaces == before.get(record.oid, 0)
            before[record.oid] = t.tid

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


def test_the_reader_finds_data_that_is_in_payload_objects_only(new_bucket, new_server, open_db):
    bucket = new_bucket("directory")
    server = new_server(bucket)
    db = open_db(server)
    data = random.Random(1).randbytes(5 * MB)
    _commit(db, lambda root: root.__setitem__("large", PersistentMapping({"data": data})))
    oids = {0, u64(db.open().root()["large"]._p_oid)}
    stored = _stored(db, oids)
    server.kill()
    transactions, found = _read(bucket)
    assert transactions[-1].payloads and found == stored


@pytest.fixture
def killed(new_bucket, new_server, open_db, tmp_path):
    """A bucket of two epochs with a base whose server was killed, and the names
    of the log objects behind that."""
    bucket = new_bucket("directory")
    server = new_server(bucket)
    for n in range(6):
        db = open_db(server, blob_dir=str(tmp_path / f"blobs-{n}"))
        _commit(db, lambda root: root.update(n=n, blob=Blob(b"blob" * n)))
        db.close()
        if n == 2:
            server.restart()
    server.kill()
    database = read_bucket.Database(bucket.path)
    assert database.base.tables and len(database.tail) == 3
    return bucket, [found.name for found in database.log]


def _info(bucket):
    """Whether the program itself can read what it has to read at a start."""
    return subprocess.run([harness.BINARY, "info", str(bucket.path)],
                          capture_output=True, text=True, timeout=harness.HANG)


def test_a_hole_in_the_log_is_found(killed):
    bucket, names = killed
    for name in names[:-1]:
        path = bucket.path / name
        aside = path.rename(path.parent / "aside")
        with pytest.raises(read_bucket.Damaged, match=name):
            _read(bucket)
        done = _info(bucket)
        assert done.returncode == 1 and name in done.stderr
        aside.rename(path)
    assert _info(bucket).returncode == 0


def test_a_flipped_bit_anywhere_is_found(killed):
    bucket, names = killed
    database = read_bucket.Database(bucket.path)
    at_a_start = ["format", f"checkpoint/{database.checkpoint.number:016x}", *names]
    needed = set(database.needed())
    assert {name.split("/")[0] for name in needed} == {"base", "segment", "index", "blob"}
    for name in sorted({*at_a_start, *needed}):
        path = bucket.path / name
        good = path.read_bytes()
        for bit in random.Random(name).sample(range(8 * len(good)), 20):
            bad = bytearray(good)
            bad[bit // 8] ^= 1 << bit % 8
            path.write_bytes(bad)
            with pytest.raises((read_bucket.Damaged, read_bucket.Newer), match=name):
                _read(bucket)
        if name in at_a_start or name.startswith("base"):
            assert _info(bucket).returncode == 1
        path.write_bytes(good)
    assert _info(bucket).returncode == 0


def test_a_hint_that_is_damaged_or_gone_does_no_harm(killed):
    bucket, _ = killed
    transactions, _ = _read(bucket)
    head = bucket.path / "head"
    head.write_bytes(head.read_bytes()[:-1])
    assert _read(bucket)[0] == transactions
    assert _info(bucket).returncode == 0
    head.unlink()
    assert _read(bucket)[0] == transactions
    assert _info(bucket).returncode == 0


def test_what_a_dead_leader_left_is_no_part_of_the_log(killed):
    bucket, names = killed
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


def test_what_a_pack_that_has_not_ended_has_made_is_needed_and_no_part_of_the_database(killed):
    """A base gets such a list by hand: packs make one of 1 GiB and more only."""
    bucket, _ = killed
    transactions, _ = _read(bucket)
    base = read_bucket.Database(bucket.path).base
    path = bucket.path / read_bucket.base_name(base.id)
    data = path.read_bytes()[:-32]
    segment = base.segments[0]
    entry = data[data.index(segment.id):][:88]
    copied = bytes.fromhex("ab" * 16)
    rewrites = (b"w" * 32 + struct.pack(">II", 1, 1) + segment.id + copied + entry[16:]
                + b"v" * 32 + struct.pack(">II", 2, 0) + segment.id + copied)
    count = data.index(segment.id) - 4
    assert data[count:count + 4] == bytes(4)
    data = data[:count] + struct.pack(">I", 2) + data[count + 4:] + rewrites
    path.write_bytes(data + hashlib.sha256(data).digest())
    name = f"segment/{copied.hex()}"
    with pytest.raises(read_bucket.Damaged, match=name):
        _read(bucket)
    # It is what it should be if the id in it is.
    (bucket.path / name).write_bytes((bucket.path / segment.name).read_bytes())
    with pytest.raises(read_bucket.Damaged, match=name):
        _read(bucket)

    database = read_bucket.Database(bucket.path)
    assert list(database.transactions()) == transactions and name in database.needed()
    assert [(r.what, r.of, r.into and r.into.name) for r in database.base.rewrites] == [
        (b"w" * 32, [segment.id], name), (b"v" * 32, [segment.id, copied], None)]
    done = _info(bucket)
    assert re.search(rf"^pack to go on with +2 segments written, {segment.size} bytes$",
                     done.stdout, re.M), done.stdout + done.stderr


def _bytes_of(dump):
    """The bytes of an annotated dump."""
    data = bytearray()
    for line in dump.splitlines():
        offset, digits, note = re.fullmatch(
            r"([0-9a-f]{4})  ((?:[0-9a-f]{2,4} ?)+?)(?:  +(\S.*))?", line).groups()
        assert int(offset, 16) == len(data), line
        data += bytes.fromhex(digits)
    return data


def test_the_example_of_the_document_is_a_database(tmp_path, new_bucket):
    """By the reader and by the program; the numbers beside the bytes are right."""
    bucket = new_bucket("directory")
    text = DOCUMENT.read_text()
    files = re.findall(r"^`(\S+)`, (\d+) bytes:\n\n```hex\n(.*?)^```", text, re.M | re.S)
    assert len(files) == 10
    for name, size, dump in files:
        data = _bytes_of(dump)
        assert len(data) == int(size)
        path = bucket.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    blocks = re.findall(r"^The [^\n]* at ([0-9a-f]{4}), (\d+) bytes decompressed:\n\n"
                        r"```hex\n(.*?)^```", text, re.M | re.S)
    [segment] = (bucket.path / "segment").iterdir()
    assert len(blocks) == 5
    for at, size, dump in blocks:
        frame = segment.read_bytes()[int(at, 16):]
        data = zstandard.ZstdDecompressor().decompressobj().decompress(frame)
        assert data == _bytes_of(dump) and len(data) == int(size)

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
