"""Bases: which files make up the part of the database that is not in the log."""

import dataclasses

from .files import open_file
from .log import MAX_NAME, Position, parse_position


@dataclasses.dataclass
class Base:
    id: "bytes | None" = None  # None for that of an empty database, which is no file
    number: int = 0
    position: Position = dataclasses.field(default_factory=Position)
    packed: int = 0
    rolled: int = 0
    live: int = 0
    blob_bytes: int = 0
    origins: list = dataclasses.field(default_factory=list)
    segments: list = dataclasses.field(default_factory=list)
    tables: list = dataclasses.field(default_factory=list)
    snapshots: list = dataclasses.field(default_factory=list)
    rewrites: list = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Origin:
    database: bytes
    location: str


@dataclasses.dataclass
class SegmentEntry:
    id: bytes
    origin: int
    size: int
    tail: int
    scan: int
    transactions: int
    records: int
    data: int
    first: int
    last: int
    limit: int

    @property
    def name(self):
        return f"segment/{self.id.hex()}"


@dataclasses.dataclass
class TableEntry:
    id: bytes
    origin: int
    size: int
    tail: int
    entries: int
    first: int
    last: int
    max_oid: int
    limit: int

    @property
    def name(self):
        return f"index/{self.id.hex()}"


@dataclasses.dataclass
class Snapshot:
    base: bytes
    last: int
    created: int
    name: str


@dataclasses.dataclass
class Rewrite:
    """What a pack that has not ended has made of some segments."""
    what: bytes
    of: "list[bytes]"
    into: "SegmentEntry | None"


def end(entry):
    """The tid above which nothing of a segment or table is part of the database."""
    return min(entry.last, entry.limit) if entry.limit else entry.last


def base_name(identity):
    return f"base/{identity.hex()}"


def parse_base(identity, data, database):
    cursor, segments, _ = open_file(base_name(identity), data, b"s3zbas\r\n", version=3)
    cursor.check(cursor.take(16) == database and cursor.take(16) == identity,
                 "it is another base, or of another database")
    found = Base(identity, cursor.u64(), parse_position(cursor), cursor.u64(), cursor.u64(),
                 cursor.u64(), cursor.u64())
    tables, snapshots, origins, rewrites = (cursor.u32() for _ in range(4))
    for _ in range(origins):
        found.origins.append(Origin(cursor.take(16), cursor.text(MAX_NAME)))
    for _ in range(segments):
        found.segments.append(parse_segment(cursor))
    for _ in range(tables):
        found.tables.append(TableEntry(
            cursor.take(16), cursor.u32(), cursor.u64(), cursor.u32(),
            *(cursor.u64() for _ in range(5))))
    for entries in found.segments, found.tables:
        last = 0
        for entry in entries:
            check_entry(cursor, entry, last, origins)
            last = end(entry)
    for _ in range(snapshots):
        found.snapshots.append(Snapshot(cursor.take(16), cursor.u64(), cursor.u64(),
                                        cursor.text(MAX_NAME)))
    for _ in range(rewrites):
        found.rewrites.append(parse_rewrite(cursor))
    cursor.done()
    return found


def parse_segment(cursor):
    return SegmentEntry(cursor.take(16), cursor.u32(), cursor.u64(), cursor.u32(),
                        *(cursor.u64() for _ in range(7)))


def check_entry(cursor, entry, last, origins):
    cursor.check(last < entry.first <= entry.last and entry.origin <= origins,
                 f"the entry of {entry.name} makes no sense")


def parse_rewrite(cursor):
    what, of, became = cursor.take(32), cursor.u32(), cursor.u32()
    cursor.check(of and became <= 1, f"a rewrite of {of} segments into {became}")
    found = Rewrite(what, [cursor.take(16) for _ in range(of)], None)
    if became:
        found.into = parse_segment(cursor)
        check_entry(cursor, found.into, 0, 0)
        cursor.check(found.into.transactions, f"{found.into.name} has no transactions")
    return found
