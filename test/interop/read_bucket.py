"""Reads an s3storage database in a directory, without s3storage.

    python read_bucket.py DIRECTORY            transactions and their records
    python read_bucket.py --current DIRECTORY  the current revision of each object
    python read_bucket.py --check DIRECTORY    whether every byte is what it has to be
    python read_bucket.py --data ...           with the data, in hexadecimal
    python read_bucket.py --log DIRECTORY ...  where the log is, if it is in a bucket of
                                               its own and not in the directory that the
                                               database names: a copy, say

It needs the Python package zstandard and nothing else, writes nothing, and
follows doc/format.md and nothing else: with the modules of bucket_reader, it is
the proof that that document is complete. Whoever has to get at a database
without the server can start from here.
"""

import argparse
import collections
import datetime
import functools
import hashlib
import re
import sys

from bucket_reader.base import Base, base_name, end, parse_base
from bucket_reader.blob import blob_name, read_blob
from bucket_reader.files import Bucket, Damaged, Missing, Newer, crc32c  # noqa: F401 - for users
from bucket_reader.index import Entry, Table
from bucket_reader.log import (
    REFERENCE, SHARED, Position, check_payload, checkpoint_name, log_name, parse_checkpoint,
    parse_format, parse_head, parse_log_object, payload_name, read_payload_record)
from bucket_reader.segment import Segment

PACKED = b"p"
LOG_NAME = re.compile(r"log/([0-9a-f]{16})/([0-9a-f]{16})")


class Outdated(Exception):
    """A server has replaced what was about to be read: begin anew."""


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


def reading(read):
    """Has what is missing mean that a server has replaced it, if one has."""
    @functools.wraps(read)
    def wrapped(self, *args, **more):
        try:
            yield from read(self, *args, **more)
        except Missing as e:
            if self.outdated():
                raise Outdated(str(e)) from None
            raise
    return wrapped


class Database:
    """A database as it is when this is made: the base, and the objects of the log
    behind it. What they name is read when it is asked for. If a server has deleted
    it since, the error is Outdated."""

    def __init__(self, directory, log=None):
        self.bucket = Bucket(directory)
        data = self.bucket.whole("format")
        if data is None:
            raise FileNotFoundError(f"there is no database in {directory}")
        self.format = parse_format(data)
        self.database = self.format.database
        self.log_bucket = self.bucket
        if "log" in self.format.fields:
            self.log_bucket = self.open_log(log or self.format.fields["log"])
        while True:
            self.head = self.read_head()
            self.checkpoint = self.newest_checkpoint(self.head.checkpoint if self.head else 0)
            try:
                self.begin()
                return
            except Damaged:
                if not self.outdated():
                    raise

    def open_log(self, directory):
        """The bucket of its own that the log is in."""
        bucket = Bucket(directory)
        data = bucket.whole("claim")
        if data is None:
            raise FileNotFoundError(f"the log is not in the directory {directory}: give --log "
                                    "with the directory, or one with a copy of it")
        if parse_format(data, "claim").database != self.database:
            raise Damaged(f"{directory} has the log of another database")
        return bucket

    # -- where to begin

    def read_head(self):
        """The hint, or None if it cannot be used."""
        try:
            head = parse_head(self.log_bucket.needed("head"))
        except (Damaged, Newer):
            return None
        return head if head.database == self.database else None

    def newest_checkpoint(self, number):
        """The newest, at or above that number, of which is known that it is there."""
        while self.log_bucket.whole(checkpoint_name(number + 1)) is not None:
            number += 1
        if not number:
            return None
        data = self.log_bucket.needed(checkpoint_name(number))
        return parse_checkpoint(number, data, self.database)

    def outdated(self):
        """Whether there is a newer checkpoint by now."""
        number = self.checkpoint.number if self.checkpoint else 0
        return self.log_bucket.whole(checkpoint_name(number + 1)) is not None

    def begin(self):
        """Read the base and the log behind it."""
        self.base, adopted = Base(), 0
        if self.checkpoint:
            self.base, adopted = self.read_base(self.checkpoint.base), self.checkpoint.adopted
        start = self.checkpoint.position if self.checkpoint else Position()
        self.log = list(self.walk(start))
        for found in self.log:
            if found.base and found.slot > adopted:
                self.base = self.read_base(found.base)
        self.tail = [transaction for found in self.log
                     if found.slot >= self.base.position.slot
                     for transaction in found.transactions]
        self.places = [(self.bucket, self.database)] + [
            (Bucket(origin.location), origin.database) for origin in self.base.origins]
        self.opened = {}

    def read_base(self, identity):
        return parse_base(identity, self.bucket.needed(base_name(identity)), self.database)

    # -- the log

    def walk(self, at):
        """The objects of the log from a position on, in order."""
        epoch, slot, chain = at.epoch, at.slot, at.chain
        oid_mark, last_tid = at.oid_mark, at.last_tid
        while True:
            name = log_name(epoch, slot)
            data = self.log_bucket.whole(name)
            if data is None:
                if self.outdated():
                    raise Missing(f"{name} is missing")
                witness = self.witness(epoch, slot, name)
                if witness is None:
                    return
                data = self.log_bucket.whole(name)
                if data is None:
                    raise Missing(f"{name} is missing, but {witness} shows that it was there")
            found = parse_log_object(name, data)
            for wrong, what in (
                    (found.database != self.database, "it is of another database"),
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
        if self.head and self.head.settled >= slot:
            return "head"
        for name in self.log_bucket.names("log"):
            match = LOG_NAME.fullmatch(name)
            if not match or name <= free or int(match[2], 16) <= slot:
                continue
            try:
                if parse_log_object(name, self.log_bucket.whole(name) or b"").settled >= slot:
                    return name
            except (Damaged, Newer):
                pass
        return None

    # -- what the base and the log name

    def open(self, kind, entry):
        """The segment or table of an entry of a base."""
        if entry.id not in self.opened:
            self.opened[entry.id] = kind(*self.places[entry.origin], entry)
        return self.opened[entry.id]

    def segment(self, entry):
        return self.open(Segment, entry)

    def table(self, entry):
        return self.open(Table, entry)

    def blob(self, identity, size):
        """The bytes of a blob, in pieces."""
        for bucket, database in self.places:  # in a branch, it is in one of them
            if bucket.has(blob_name(identity)):
                return read_blob(bucket, database, identity, size)
        raise Missing(f"{blob_name(identity)} is missing")

    @reading
    def transactions(self, data=True):
        """All transactions, in order, with the data of their records.

        What packs have dropped is left out."""
        for entry in self.base.segments:
            segment = self.segment(entry)
            for transaction in segment.transactions() if data else segment.headers():
                if transaction.tid > end(entry):
                    continue
                if transaction.tid <= self.base.packed:
                    if not transaction.records:
                        continue
                    transaction.status = PACKED
                yield transaction
        for transaction in self.tail:
            for record in transaction.records if data else ():
                record.data = self.resolve(transaction, record)
            yield transaction

    def resolve(self, transaction, record):
        """The data of a record of the log, wherever it is."""
        if record.kind == REFERENCE:
            return read_payload_record(self.bucket, transaction, record)
        if record.kind == SHARED:
            revision = self.revision(record.oid, record.source + 1)
            if revision is None or revision.tid != record.source or revision.deleted:
                raise Damaged(f"transaction {transaction.tid:016x}: object {record.oid:016x} "
                              f"shares the data of {record.source:016x}, which is not there")
            return self.data(revision)
        return record.data

    # -- finding a revision

    @functools.cached_property
    def recent(self):
        """Of each object, its records in the log: (tid, transaction, record)."""
        found = collections.defaultdict(list)
        for transaction in self.tail:
            for record in transaction.records:
                found[record.oid].append((transaction.tid, transaction, record))
        return found

    def revision(self, oid, before=1 << 63):
        """The newest revision with a lower tid: an Entry, or None."""
        for tid, _, record in reversed(self.recent.get(oid, ())):
            if tid < before:
                return Entry(oid, tid, record.number, record.deleted)
        for entry in reversed(self.base.tables):
            found = [e for e in self.table(entry).revisions(oid)
                     if e.tid < before and e.tid <= end(entry)] if oid <= entry.max_oid else ()
            if found:
                return found[-1]
        return None

    def data(self, revision):
        """The data of a revision that is no deletion."""
        for tid, transaction, record in self.recent.get(revision.oid, ()):
            if tid == revision.tid:
                return self.resolve(transaction, record)
        for entry in self.base.segments:
            if entry.first <= revision.tid <= end(entry):
                return self.segment(entry).data((revision.tid, revision.k), revision.oid)
        raise Damaged(f"{base_name(self.base.id)}: no segment has transaction {revision.tid:016x}")

    @reading
    def current(self):
        """The current revision of each object that exists: (oid, serial, data)."""
        oids = {entry.oid for entry, _ in self.entries()} | self.recent.keys()
        for oid in sorted(oids):
            revision = self.revision(oid)
            if not revision.deleted:
                yield oid, revision.tid, self.data(revision)

    def entries(self):
        """All entries of all tables, and the tables they are in."""
        for table in self.base.tables:
            for entry in self.table(table).entries():
                if entry.tid <= end(table):
                    yield entry, table

    # -- all of it

    @reading
    def needed(self):
        """The names of all objects that are needed beside the log."""
        bases = [self.base] if self.base.id else []
        bases += [self.read_base(snapshot.base) for snapshot in self.base.snapshots]
        for base in bases:
            yield base_name(base.id)
            for entry in base.segments:
                if not entry.origin:
                    yield entry.name
                for transaction in self.segment(entry).headers():
                    yield from (blob_name(record.blob) for record in transaction.records
                                if record.blob)
            yield from (entry.name for entry in base.tables if not entry.origin)
        yield from (entry.name for entry in self.rewritten())
        for transaction in self.tail:
            yield from map(payload_name, transaction.payloads)
            yield from (blob_name(record.blob) for record in transaction.records if record.blob)

    def rewritten(self):
        """What a pack that has not ended has made of segments."""
        return [rewrite.into for rewrite in self.base.rewrites if rewrite.into]

    @reading
    def check(self):
        """What is wrong with the files, as far as reading does not fail: every byte
        is read that belongs to the database."""
        base, revisions, blobs, recent = self.base, {}, {}, {}
        for transaction in self.transactions():
            old = transaction.tid <= base.position.last_tid
            for record in transaction.records:
                if record.blob:
                    (blobs if old else recent)[record.blob] = record.blob_size
                if old:
                    revisions[record.oid, transaction.tid] = record.number, record.deleted
        live = set()
        for entry, table in self.entries():
            if revisions.pop(entry[:2], None) != entry[2:]:
                yield f"{table.name}: {entry} is not what the segments say"
            (live.discard if entry.deleted else live.add)(entry.oid)
        for oid, tid in revisions:
            yield f"no index table has revision {tid:016x} of object {oid:016x}"
        if len(live) != base.live:
            yield f"{base_name(base.id)} tells of {base.live} objects, there are {len(live)}"
        if sum(blobs.values()) != base.blob_bytes:
            yield (f"{base_name(base.id)} tells of {base.blob_bytes} bytes of blobs, "
                   f"there are {sum(blobs.values())}")
        for identity in {i for transaction in self.tail for i in transaction.payloads}:
            check_payload(self.bucket, self.database, identity)
        for identity, size in (blobs | recent).items():
            for _ in self.blob(identity, size):
                pass
        for entry in self.rewritten():
            for _ in self.segment(entry).transactions():
                pass


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory")
    parser.add_argument("--log", metavar="DIRECTORY", help="where the log is, if it is elsewhere")
    parser.add_argument("--current", action="store_true", help="only the current revisions")
    parser.add_argument("--check", action="store_true", help="only whether all is well")
    parser.add_argument("--data", action="store_true", help="print the data")
    options = parser.parse_args()

    def show(indent, oid, data, rest=""):
        what = "deleted" if data is None else f"{len(data)} bytes"
        print(f"{indent}object {oid:016x} {what}{rest}")
        if options.data and data is not None:
            print(f"{indent}  {data.hex()}")

    try:
        database = Database(options.directory, options.log)
        created = datetime.datetime.fromtimestamp(database.format.created, datetime.timezone.utc)
        print(f"database {database.format.database.hex()}, "
              f"created {created:%Y-%m-%d %H:%M:%S} by {database.format.creator}")
        if options.check:
            sys.exit("\n".join(database.check()) or None)
        if options.current:
            for oid, serial, data in database.current():
                show("", oid, data, f", serial {serial:016x}")
            return
        for transaction in database.transactions():
            print(f"transaction {transaction.tid:016x} {tid_time(transaction.tid)} "
                  f"status {transaction.status!r} user {transaction.user!r} "
                  f"description {transaction.description!r}")
            for record in transaction.records:
                rest = f", replaces {record.replaces:016x}" if record.replaces else ", new"
                show("  ", record.oid, record.data, rest)
    except (Damaged, Newer, Outdated, OSError) as e:
        sys.exit(f"read_bucket.py: {e}")


if __name__ == "__main__":
    main()
