"""Reads an s3storage database in a directory, without s3storage.

    python read_bucket.py DIRECTORY            transactions and their records
    python read_bucket.py --current DIRECTORY  the current revision of each object
    python read_bucket.py --data ...           with the data, in hexadecimal

It needs nothing but the standard library, writes nothing, and follows
doc/format.md and nothing else: it is the proof that that document is complete.
Whoever has to get at a database without the server can start from here.
"""

import argparse
import dataclasses
import datetime
import functools
import hashlib
import pathlib
import re
import struct
import sys

MAX_OBJECT = 256 << 20
MAX_META = 1 << 20
MAX_PAYLOADS = 1 << 16
MAX_LISTS = 1 << 16

TRANSACTION, SEAL, PACK = 1, 2, 3
DATA, DELETION, REFERENCE, SHARED = 1, 2, 3, 4
HAS_BLOB = 1
PACKED = b"p"

LOG_NAME = re.compile(r"log/([0-9a-f]{16})/([0-9a-f]{16})")


class Damaged(Exception):
    """The bytes are not what doc/format.md says; the message names the place."""


class Newer(Exception):
    """Written by a newer version than this reader knows."""


# -- checksums and times


def _crc32c_table():
    table = []
    for n in range(256):
        for _ in range(8):
            n = n >> 1 ^ (0x82F63B78 if n & 1 else 0)
        table.append(n)
    return table


_TABLE = _crc32c_table()


def crc32c(*parts):
    crc = 0xFFFFFFFF
    table = _TABLE
    for part in parts:
        for byte in part:
            crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def tid_time(tid):
    """The time of a tid, in UTC."""
    minutes, fraction = divmod(tid, 1 << 32)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    months, day = divmod(days, 31)
    year, month = divmod(months, 12)
    start = datetime.datetime(1900 + year, 1 + month, 1 + day, hour, minute,
                              tzinfo=datetime.timezone.utc)
    return start + datetime.timedelta(microseconds=round(fraction * 60e6 / (1 << 32)))


# -- what there is


@dataclasses.dataclass
class Format:
    database: bytes
    created: int
    creator: str


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
    packs: list
    seal: "Seal | None"


@dataclasses.dataclass
class Seal:
    next_epoch: int
    leader: str


@dataclasses.dataclass
class Pack:
    tid: int
    at: int
    lists: list


@dataclasses.dataclass
class Transaction:
    tid: int
    status: bytes
    user: bytes
    description: bytes
    extension: bytes
    payloads: list
    records: list


@dataclasses.dataclass
class Record:
    oid: int
    replaces: int  # the serial of the revision before, 0 for none
    kind: int
    size: int
    data: "bytes | None"  # None for a deletion, and while it is elsewhere
    payload: int = 0
    offset: int = 0
    source: int = 0  # the serial of the revision whose data it shares
    blob: "bytes | None" = None
    blob_size: int = 0


# -- parsing


class Cursor:
    """Takes bytes apart from the front, and complains by name and offset."""

    def __init__(self, name, data, at=0, end=None):
        self.name, self.data, self.at = name, data, at
        self.end = len(data) if end is None else end

    def damaged(self, what):
        return Damaged(f"{self.name}, offset {self.at}: {what}")

    def take(self, size):
        if size > self.end - self.at:
            raise self.damaged(f"{size} bytes expected, {self.end - self.at} are left")
        self.at += size
        return self.data[self.at - size:self.at]

    def u32(self):
        return struct.unpack(">I", self.take(4))[0]

    def u64(self):
        return struct.unpack(">Q", self.take(8))[0]

    def zero(self, size):
        if any(self.take(size)):
            raise self.damaged("reserved bytes are not zero")

    def sub(self, size):
        start = self.at
        self.take(size)
        return Cursor(self.name, self.data, start, self.at)

    def done(self):
        if self.at != self.end:
            raise self.damaged(f"{self.end - self.at} bytes too many")


def open_file(name, data, magic):
    """What all files have in common: a cursor behind it, the number, the hash."""
    if data[:8] != magic:
        raise Damaged(f"{name} does not start with {magic!r}")
    if len(data) < 16 + 32:
        raise Damaged(f"{name} ends after {len(data)} bytes")
    version, flags, number = struct.unpack(">HHI", data[8:16])
    if version != 1 or flags != 0:
        raise Newer(f"{name} has format version {version} and flags {flags:#06x}")
    digest = hashlib.sha256(data[:-32]).digest()
    if digest != data[-32:]:
        raise Damaged(f"{name}: the SHA-256 at its end does not match")
    return Cursor(name, data, 16, len(data) - 32), number, digest


def parse_format(data):
    cursor, size, _ = open_file("format", data, b"s3zfmt\r\n")
    found = Format(cursor.take(16), cursor.u64(), cursor.take(size).decode())
    cursor.done()
    return found


def parse_log_object(name, data):
    cursor, entries, digest = open_file(name, data, b"s3zlog\r\n")
    found = LogObject(
        name=name, database=cursor.take(16), epoch=cursor.u64(), slot=cursor.u64(),
        put_id=cursor.take(16), chain=cursor.take(32), log_start=cursor.u64(),
        checkpoint=cursor.u64(), settled=cursor.u64(), oid_mark=cursor.u64(),
        last_tid=cursor.u64(), digest=digest, transactions=[], packs=[], seal=None)
    for _ in range(entries):
        kind = cursor.take(1)[0]
        cursor.zero(3)
        body = cursor.sub(cursor.u32())
        if kind == TRANSACTION:
            found.transactions.append(parse_transaction(body))
        elif kind == PACK:
            found.packs.append(parse_pack(body))
        elif kind == SEAL and entries == 1:
            found.seal = Seal(body.u64(), body.take(body.u32()).decode())
            body.done()
        else:
            raise body.damaged(f"an entry of kind {kind} among {entries}")
    cursor.done()
    return found


def parse_pack(body):
    tid, at, lists = body.u64(), body.u64(), body.u32()
    if lists > MAX_LISTS:
        raise body.damaged(f"a pack with {lists} lists")
    found = Pack(tid, at, [body.take(16) for _ in range(lists)])
    body.done()
    return found


def parse_transaction(body):
    start = body.at
    tid, status = body.u64(), body.take(1)
    body.zero(3)
    records, user, description, extension, payloads = (body.u32() for _ in range(5))
    if max(user, description, extension) > MAX_META or payloads > MAX_PAYLOADS:
        raise body.damaged("the head of a transaction is too large")
    found = Transaction(
        tid, status, body.take(user), body.take(description), body.take(extension),
        [body.take(16) for _ in range(payloads)], [])
    want = crc32c(body.data[start:body.at])
    if body.u32() != want:
        raise body.damaged("the CRC-32C of the head of a transaction does not match")
    for _ in range(records):
        record = parse_record(body)
        if record.kind == REFERENCE and record.payload >= payloads:
            raise body.damaged(f"a record is in payload object {record.payload} of {payloads}")
        found.records.append(record)
    body.done()
    return found


def parse_record(cursor):
    start = cursor.at
    oid, replaces, kind, flags = cursor.u64(), cursor.u64(), *cursor.take(2)
    cursor.zero(2)
    size = cursor.u32()
    head = cursor.data[start:cursor.at]
    crc = cursor.u32()
    record = Record(oid, replaces, kind, size, None)
    tail = cursor.at
    if flags & ~HAS_BLOB or flags and kind == DELETION:
        raise cursor.damaged(f"a record of kind {kind} with flags {flags:#04x}")
    if flags & HAS_BLOB:
        record.blob, record.blob_size = cursor.take(16), cursor.u64()
    if kind == DATA:
        record.data = cursor.take(size)
    elif kind == REFERENCE:
        record.payload, record.offset = cursor.u32(), cursor.u64()
    elif kind == SHARED:
        record.source = cursor.u64()
    elif kind != DELETION or size != 0:
        raise cursor.damaged(f"a record of kind {kind} and {size} bytes")
    if crc32c(head, cursor.data[tail:cursor.at]) != crc:
        raise cursor.damaged(f"the CRC-32C of a record of object {oid:016x} does not match")
    return record


# -- the database


class Database:

    def __init__(self, directory):
        self.directory = pathlib.Path(directory)
        data = self.read("format")
        if data is None:
            raise FileNotFoundError(f"there is no database in {directory}")
        self.format = parse_format(data)

    def read(self, name):
        """The bytes of an object, or None."""
        try:
            return (self.directory / name).read_bytes()
        except FileNotFoundError:
            return None

    def log(self):
        """The objects of the log, in order."""
        epoch, slot, chain, oid_mark, last_tid = 0, 1, bytes(32), 0, 0
        while True:
            name = f"log/{epoch:016x}/{slot:016x}"
            data = self.read(name)
            if data is None:
                witness = self.witness(epoch, slot, name)
                if witness is None:
                    return
                data = self.read(name)
                if data is None:
                    raise Damaged(f"{name} is missing, but {witness} shows that it was there")
            found = parse_log_object(name, data)
            for wrong, what in (
                    (found.database != self.format.database, "it is of another database"),
                    ((found.epoch, found.slot) != (epoch, slot), "it is of another slot"),
                    (found.seal and (any(found.chain) or found.oid_mark or found.last_tid),
                     "a seal says what it cannot know"),
                    (not found.seal and found.chain != chain, "it does not follow the slot before"),
                    (not found.seal and found.oid_mark < oid_mark, "its oid mark is too low"),
                    (not found.seal and found.last_tid < last_tid, "its last tid is too low"),
                    (epoch == 0 and not found.seal, "epoch 0 holds something but a seal"),
                    (found.seal and found.seal.next_epoch <= epoch, "its seal leads backward")):
                if wrong:
                    raise Damaged(f"{name}: {what}")
            for transaction in found.transactions:
                if transaction.tid <= last_tid:
                    raise Damaged(f"{name}: tid {transaction.tid:016x} is too low")
                last_tid = transaction.tid
            if found.transactions and found.last_tid != last_tid:
                raise Damaged(f"{name}: its last tid is not that of its last transaction")
            yield found
            slot += 1
            if found.seal:
                epoch = found.seal.next_epoch
                chain = hashlib.sha256(chain + found.digest).digest()
            else:
                chain, oid_mark, last_tid = found.digest, found.oid_mark, found.last_tid

    def witness(self, epoch, slot, free):
        """The name of an object that shows that the free slot was taken, or None."""
        for path in sorted((self.directory / "log").glob("*/*")):
            name = path.relative_to(self.directory).as_posix()
            match = LOG_NAME.fullmatch(name)
            if not match or name <= free:
                continue
            if int(match[1], 16) > epoch:
                return name
            try:
                if parse_log_object(name, self.read(name) or b"").settled >= slot:
                    return name
            except (Damaged, Newer):
                pass
        return None

    def transactions(self):
        """All transactions, in order, with the data of their records.

        What packs have dropped is left out.
        """
        for transaction, places in self.kept:
            for record, place in zip(transaction.records, places):
                record.data = self.resolve(*place)
            yield transaction

    def needed(self):
        """The names of all objects that are needed beside the log and the format."""
        names = {f"pack/{name.hex()}" for found in self.objects
                 for pack in found.packs for name in pack.lists}
        for transaction, places in self.kept:
            names.update(f"blob/{record.blob.hex()}"
                         for record in transaction.records if record.blob)
            names.update(self.payload(*place) for place in places if place[1].kind == REFERENCE)
        return names

    @functools.cached_property
    def objects(self):
        """The objects of the log, as they were at the first look."""
        return list(self.log())

    @functools.cached_property
    def kept(self):
        """All transactions without what packs have dropped, and for each record
        the place of its data: a transaction and a record of it."""
        log, kept = self.objects, []
        dropped, packed = set(), 0
        for pack in (pack for found in log for pack in found.packs):
            packed = max(packed, pack.tid)
            for name in pack.lists:
                dropped.update(self.listed(name))
        places = {}  # of the data of each revision
        for transaction in (t for found in log for t in found.transactions):
            for record in transaction.records:
                place = transaction, record
                if record.kind == SHARED:
                    place = places.get((record.oid, record.source))
                    if place is None:
                        raise Damaged(f"transaction {transaction.tid:016x}: object "
                                      f"{record.oid:016x} shares the data of "
                                      f"{record.source:016x}, which is not there")
                places[record.oid, transaction.tid] = place
        for transaction in (t for found in log for t in found.transactions):
            records = [record for record in transaction.records
                       if (record.oid, transaction.tid) not in dropped]
            if records or not transaction.records:
                status = PACKED if transaction.tid <= packed else transaction.status
                kept.append((dataclasses.replace(transaction, status=status, records=records),
                             [places[record.oid, transaction.tid] for record in records]))
        return kept

    def listed(self, name):
        """What a list of a pack has dropped: pairs of oid and serial."""
        name_, data = f"pack/{name.hex()}", self.read(f"pack/{name.hex()}")
        if data is None:
            raise Damaged(f"{name_} is missing, and a pack names it")
        cursor, count, _ = open_file(name_, data, b"s3zpck\r\n")
        if cursor.take(16) != self.format.database or cursor.take(16) != name:
            raise cursor.damaged("it is another list, or of another database")
        found = [(cursor.u64(), cursor.u64()) for _ in range(count)]
        cursor.done()
        return found

    def resolve(self, transaction, record):
        """The data of a record, also where it is in a payload object."""
        if record.kind != REFERENCE:
            return record.data
        name = self.payload(transaction, record)
        if record.offset > MAX_OBJECT:
            raise Damaged(f"{name}: a record at offset {record.offset}")
        try:
            with open(self.directory / name, "rb") as file:
                file.seek(record.offset)
                data = file.read(28 + record.size)
        except FileNotFoundError:
            raise Damaged(f"{name} is missing, and transaction {transaction.tid:016x} is in it")
        cursor = Cursor(f"{name} from {record.offset} on", data)
        there = parse_record(cursor)
        cursor.done()
        if (there.kind, there.oid, there.replaces, there.size) != (
                DATA, record.oid, record.replaces, record.size):
            raise Damaged(f"{cursor.name}: it is not the record of object {record.oid:016x}")
        return there.data

    def payload(self, transaction, record):
        """The name of the payload object that holds a record."""
        return f"payload/{transaction.payloads[record.payload].hex()}"

    def current(self):
        """The current revision of each object: {oid: (serial, data)}."""
        objects = {}
        for transaction in self.transactions():
            for record in transaction.records:
                objects[record.oid] = transaction.tid, record.data
        return {oid: revision for oid, revision in objects.items() if revision[1] is not None}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory")
    parser.add_argument("--current", action="store_true", help="only the current revisions")
    parser.add_argument("--data", action="store_true", help="print the data")
    options = parser.parse_args()

    def show(indent, oid, data, rest=""):
        what = "deleted" if data is None else f"{len(data)} bytes"
        print(f"{indent}object {oid:016x} {what}{rest}")
        if options.data and data is not None:
            print(f"{indent}  {data.hex()}")

    try:
        database = Database(options.directory)
        created = datetime.datetime.fromtimestamp(database.format.created, datetime.timezone.utc)
        print(f"database {database.format.database.hex()}, "
              f"created {created:%Y-%m-%d %H:%M:%S} by {database.format.creator}")
        if options.current:
            for oid, (serial, data) in sorted(database.current().items()):
                show("", oid, data, f", serial {serial:016x}")
            return
        for transaction in database.transactions():
            print(f"transaction {transaction.tid:016x} {tid_time(transaction.tid)} "
                  f"status {transaction.status!r} user {transaction.user!r} "
                  f"description {transaction.description!r}")
            for record in transaction.records:
                rest = f", replaces {record.replaces:016x}" if record.replaces else ", new"
                show("  ", record.oid, record.data, rest)
    except (Damaged, Newer, OSError) as e:
        sys.exit(f"read_bucket.py: {e}")


if __name__ == "__main__":
    main()
