"""The log: format, log objects, payload objects, checkpoints, the hint."""

import dataclasses

from .files import crc32c, open_file
from .records import MAX_DATA, MAX_META, Record, Transaction

MAX_OFFSET = 256 << 20
MAX_PAYLOADS = 1 << 16
MAX_NAME = 4096

TRANSACTION, SEAL, BASE = 1, 2, 3
DATA, DELETION, REFERENCE, SHARED = 1, 2, 3, 4
HAS_BLOB, EXISTED = 1, 2


@dataclasses.dataclass
class Format:
    database: bytes
    created: int
    creator: str
    fields: dict


@dataclasses.dataclass
class Position:
    epoch: int = 0
    slot: int = 1
    chain: bytes = bytes(32)
    oid_mark: int = 0
    last_tid: int = 0
    leader: str = ""
    address: str = ""


@dataclasses.dataclass
class Checkpoint:
    number: int
    time: int
    base: bytes
    adopted: int
    position: Position


@dataclasses.dataclass
class Head:
    database: bytes
    checkpoint: int
    epoch: int
    settled: int


@dataclasses.dataclass
class Seal:
    next_epoch: int
    leader: str
    address: str


@dataclasses.dataclass
class LogObject:
    name: str
    database: bytes
    epoch: int
    slot: int
    put_id: bytes
    chain: bytes
    log_start: int
    checkpoint: int
    settled: int
    oid_mark: int
    last_tid: int
    digest: bytes
    transactions: list
    base: "bytes | None"  # the base that it has adopted
    seal: "Seal | None"


def parse_format(data, name="format"):
    """The file format, or the claim of a log's bucket, which has the same bytes."""
    cursor, size, _ = open_file(name, data, b"s3zfmt\r\n")
    found = Format(cursor.take(16), cursor.u64(), cursor.take(size).decode(), {})
    known = ["log", "parent", "catalog"]
    for _ in range(cursor.u32()):
        name, value = cursor.text(MAX_NAME), cursor.text(MAX_NAME)
        cursor.check(name in known and value, f"a field {name!r}")
        known = known[known.index(name) + 1:]
        found.fields[name] = value
    cursor.done()
    return found


def parse_position(cursor):
    found = Position(cursor.u64(), cursor.u64(), cursor.take(32), cursor.u64(), cursor.u64(),
                     cursor.text(MAX_NAME), cursor.text(MAX_NAME))
    cursor.check(found.slot, "a position in slot 0")
    return found


def parse_checkpoint(number, data, database):
    cursor, zero, _ = open_file(checkpoint_name(number), data, b"s3zckp\r\n")
    cursor.check(not zero and cursor.take(16) == database and cursor.u64() == number,
                 "it is of another database, or has another number")
    found = Checkpoint(number, cursor.u64(), cursor.take(16), cursor.u64(),
                       parse_position(cursor))
    cursor.done()
    return found


def checkpoint_name(number):
    return f"checkpoint/{number:016x}"


def parse_head(data):
    cursor, zero, _ = open_file("head", data, b"s3zhed\r\n")
    cursor.check(not zero, "reserved bytes are not zero")
    found = Head(cursor.take(16), cursor.u64(), cursor.u64(), cursor.u64())
    cursor.done()
    return found


def log_name(epoch, slot):
    return f"log/{epoch:016x}/{slot:016x}"


def parse_log_object(name, data):
    cursor, entries, digest = open_file(name, data, b"s3zlog\r\n")
    found = LogObject(
        name=name, database=cursor.take(16), epoch=cursor.u64(), slot=cursor.u64(),
        put_id=cursor.take(16), chain=cursor.take(32), log_start=cursor.u64(),
        checkpoint=cursor.u64(), settled=cursor.u64(), oid_mark=cursor.u64(),
        last_tid=cursor.u64(), digest=digest, transactions=[], base=None, seal=None)
    for _ in range(entries):
        kind = cursor.u8()
        cursor.zero(3)
        body = cursor.sub(cursor.u32())
        if kind == TRANSACTION:
            found.transactions.append(parse_transaction(body))
        elif kind == BASE and found.base is None:
            found.base, _ = body.take(16), body.u8()
            body.zero(3)
        elif kind == SEAL and entries == 1:
            found.seal = Seal(body.u64(), body.text(MAX_NAME), body.text(MAX_NAME))
        else:
            raise body.damaged(f"an entry of kind {kind} among {entries}")
        body.done()
    cursor.done()
    return found


def parse_transaction(body):
    start = body.at
    tid, status = body.u64(), body.take(1)
    body.zero(3)
    records, user, description, extension, payloads = (body.u32() for _ in range(5))
    body.check(max(user, description, extension) <= MAX_META and payloads <= MAX_PAYLOADS,
               "the head of a transaction is too large")
    found = Transaction(
        tid, status, body.take(user), body.take(description), body.take(extension), [],
        [body.take(16) for _ in range(payloads)], records)
    want = crc32c(body.data[start:body.at])
    body.check(body.u32() == want, "the CRC-32C of the head of a transaction does not match")
    for number in range(records):
        record = parse_record(body, number)
        body.check(record.kind != REFERENCE or record.payload < payloads,
                   f"a record is in payload object {record.payload} of {payloads}")
        found.records.append(record)
    body.check(len({r.oid for r in found.records}) == records, "an oid occurs twice")
    return found


def parse_record(cursor, number=0):
    start = cursor.at
    oid, replaces, kind, flags = cursor.u64(), cursor.u64(), cursor.u8(), cursor.u8()
    cursor.zero(2)
    size = cursor.u32()
    head = cursor.data[start:cursor.at]
    crc = cursor.u32()
    record = Record(oid, replaces, kind == DELETION, size, number, kind=kind,
                    existed=bool(flags & EXISTED))
    rest = cursor.at
    cursor.check(not flags & ~(HAS_BLOB | EXISTED) and size <= MAX_DATA
                 and not (flags & HAS_BLOB and kind == DELETION),
                 f"a record of kind {kind}, flags {flags:#04x} and {size} bytes")
    if flags & HAS_BLOB:
        record.blob, record.blob_size = cursor.take(16), cursor.u64()
    if kind == DATA:
        record.data = cursor.take(size)
    elif kind == REFERENCE:
        record.payload, record.offset = cursor.u32(), cursor.u64()
    elif kind == SHARED:
        record.source = cursor.u64()
    else:
        cursor.check(kind == DELETION and not size, f"a record of kind {kind} and {size} bytes")
    cursor.check(crc32c(head, cursor.data[rest:cursor.at]) == crc,
                 f"the CRC-32C of a record of object {oid:016x} does not match")
    return record


def payload_name(identity):
    return f"payload/{identity.hex()}"


def read_payload_record(bucket, transaction, record):
    """The data of a record of the log, out of a payload object."""
    name = payload_name(transaction.payloads[record.payload])
    cursor = bucket.part(name, record.offset, 28 + record.size)
    cursor.check(record.offset <= MAX_OFFSET, "a record beyond the limit")
    there = parse_record(cursor)
    cursor.done()
    cursor.check((there.kind, there.oid, there.replaces, there.size, there.existed)
                 == (DATA, record.oid, record.replaces, record.size, False)
                 and there.blob is None, f"it is not the record of object {record.oid:016x}")
    return there.data


def check_payload(bucket, database, identity):
    """Check a payload object as a whole."""
    name = payload_name(identity)
    cursor, count, _ = open_file(name, bucket.needed(name), b"s3zpay\r\n")
    cursor.check(cursor.take(16) == database and cursor.take(16) == identity,
                 "it is another payload object, or of another database")
    for _ in range(count):
        cursor.check(parse_record(cursor).kind == DATA, "a record without data")
    cursor.done()
