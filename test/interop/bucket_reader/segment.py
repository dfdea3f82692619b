"""Segments: transactions and their records, compressed."""

import bisect
import collections

import zstandard

from .files import Cursor, crc32c
from .records import MAX_DATA, MAX_META, Record, Transaction

FOOTER = 60
MAX_HEADERS, MAX_REFERENCES, MAX_DIRECTORY = 4 << 20, 64 << 20, 64 << 20
MAX_CLASSES, MAX_CLASS = 16384, 1024
MASK = (1 << 64) - 1

# A key is a pair: tid, and the number of the record in the transaction.
Block = collections.namedtuple("Block", "first offset stored raw crc")


def decompress(stored, size, where):
    """The bytes of a block, which may be of several frames."""
    decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 31)
    try:
        with decompressor.stream_reader(stored, read_across_frames=True) as reader:
            data = reader.read(size + 1)
    except zstandard.ZstdError as e:
        raise where.damaged(f"zstd: {e}") from None
    where.check(len(data) == size, f"it does not decompress to {size} bytes")
    return data


def next_key(cursor, before):
    """A key as the difference to another."""
    tid, number = cursor.varint(), cursor.varint()
    key = (before[0] + tid, number) if tid else (before[0], before[1] + 1 + number)
    cursor.check(0 < key[0] < 1 << 64 and key[1] < 1 << 32, f"no key can be {key}")
    return key


def next_oid(cursor, before):
    """An oid as the difference to another."""
    value = cursor.varint()
    return before + (value >> 1 ^ -(value & 1)) & MASK


def some(cursor, limit):
    size = cursor.varint()
    cursor.check(size <= limit, f"{size} bytes, where at most {limit} may be")
    return cursor.take(size)


class Segment:

    def __init__(self, bucket, database, entry):
        self.bucket, self.entry, self.name = bucket, entry, entry.name
        identity = database + entry.id
        start = bucket.part(self.name, 0, 52)
        start.check(start.start(b"s3zseg\r\n", 1) == 0, "reserved bytes are not zero")
        start.check(start.take(32) == identity, "it is another segment, or of another database")
        start.check(crc32c(start.data[:48]) == start.u32(), "the CRC-32C does not match")
        tail = bucket.part(self.name, entry.size - entry.tail, entry.tail)
        tail.check(bucket.size(self.name) == entry.size, f"it does not have {entry.size} bytes")
        stored = tail.take(entry.tail - FOOTER)
        tail.check(crc32c(tail.data[-FOOTER:-4]) == int.from_bytes(tail.data[-4:], "big"),
                   "the CRC-32C of the footer does not match")
        tail.check(tail.start(b"s3zend\r\n", 1) == len(stored), "a directory of another length")
        tail.check(tail.take(32) == identity, "the footer is of another segment")
        raw = tail.u32()
        tail.check(raw <= MAX_DIRECTORY, f"a directory of {raw} bytes")
        tail.check(crc32c(stored) == tail.u32(), "the CRC-32C of the directory does not match")
        self.directory(Cursor(f"{self.name} (directory)", decompress(stored, raw, tail)))

    def directory(self, cursor):
        said = [cursor.varint() for _ in range(5)]
        counts = [cursor.varint() for _ in range(3)]
        offset, lists, scan = 52, [], 0
        for kind, (count, limit) in enumerate(zip(counts, (MAX_DATA + 64, MAX_HEADERS,
                                                           MAX_REFERENCES))):
            if kind == 1:
                scan = offset
            before, blocks = (0, 0), []
            for _ in range(count):
                before = next_key(cursor, before)
                blocks.append(self.lengths(cursor, before, offset, limit))
                offset += blocks[-1].stored
            lists.append(blocks)
        self.data_blocks, self.header_blocks, self.reference_blocks = lists
        classes = self.lengths(cursor, None, offset, MAX_CLASSES * (MAX_CLASS + 2) + 8)
        cursor.done()
        entry = self.entry
        cursor.check([*said, scan, offset + classes.stored] == [
            entry.transactions, entry.records, entry.data, entry.first, entry.last, entry.scan,
            entry.size - entry.tail], "it is not what the base says of it")
        table = self.block(classes)
        count = table.varint()
        table.check(count <= MAX_CLASSES, f"{count} classes")
        self.classes = [None] + [some(table, MAX_CLASS).decode() for _ in range(count)]
        table.done()

    def lengths(self, cursor, first, offset, limit):
        block = Block(first, offset, cursor.varint(), cursor.varint(), cursor.u32())
        cursor.check(0 < block.raw <= min(limit, 32768 * block.stored),
                     f"a block of {block.stored} bytes that become {block.raw}")
        return block

    def block(self, block):
        """A cursor over a block, decompressed."""
        stored = self.bucket.part(self.name, block.offset, block.stored)
        stored.check(crc32c(stored.data) == block.crc, "the CRC-32C of a block does not match")
        return Cursor(f"{self.name} (block at {block.offset})",
                      decompress(stored.data, block.raw, stored))

    # -- what is in the blocks

    def data_items(self, blocks):
        """(key, oid, data) of all records that have data."""
        for block in blocks:
            cursor = self.block(block)
            head, key, oid = cursor.sub(cursor.varint()), (0, 0), 0
            head.check(head.more(), "a block without records")
            while head.more():
                first = key == (0, 0)
                key, oid = next_key(head, key), next_oid(head, oid)
                head.check(not first or key == block.first, "it begins with another record")
                yield key, oid, cursor.take(head.varint())
            cursor.done()

    def reference_items(self):
        """(key, class or None, references or None) of all records that have data."""
        for block in self.reference_blocks:
            cursor, key, oid = self.block(block), (0, 0), 0
            while cursor.more():
                first = key == (0, 0)
                key = next_key(cursor, key)
                cursor.check(not first or key == block.first, "it begins with another record")
                klass, count = cursor.varint(), cursor.varint()
                cursor.check(klass < len(self.classes), f"class {klass}")
                references = None
                if count:
                    references = []
                    for _ in range(count - 1):
                        oid = next_oid(cursor, oid)
                        references.append(oid)
                yield key, self.classes[klass], references

    def headers(self):
        """All transactions, without data."""
        transaction = None
        for block in self.header_blocks:
            cursor, tid, oid = self.block(block), 0, 0
            while cursor.more():
                kind, begins = cursor.u8(), not tid
                if kind == 1:
                    if transaction:
                        yield transaction
                    step = cursor.varint()
                    cursor.check(step, "a tid twice")
                    tid, number = tid + step, 0
                    status, committed = cursor.take(1), cursor.varint()
                    transaction = Transaction(
                        tid, status, *(some(cursor, MAX_META) for _ in range(3)), [],
                        committed=committed)
                    key = tid, 0
                elif kind == 2 and begins:
                    key = tid, number = cursor.varint(), cursor.varint()
                    cursor.check(transaction and transaction.tid == tid and transaction.records
                                 and cursor.more() and cursor.data[cursor.at] >= 128,
                                 "a transaction goes on that did not begin")
                else:
                    cursor.check(kind >= 128 and not begins, f"an item of kind {kind}")
                    step = cursor.varint()
                    cursor.check(not (step and key[1]), "a transaction goes on with a gap")
                    number, oid = number + step, next_oid(cursor, oid)
                    cursor.check(number < transaction.committed, f"record {number}")
                    transaction.records.append(self.record(cursor, kind - 128, tid, number, oid))
                    number += 1
                    key = tid, 0
                cursor.check(not begins or key == block.first, "it begins with another record")
        if transaction:
            yield transaction

    def record(self, cursor, flags, tid, number, oid):
        cursor.check(flags < 16, f"a record with flags {flags:#04x}")
        record = Record(oid, 0, bool(flags & 1), 0, number)
        if flags & 2:
            record.replaces = tid - cursor.varint() & MASK
            cursor.check(record.replaces, "it replaces nothing")
        if not record.deleted:
            record.size = cursor.varint()
        if flags & 4:
            record.source = tid - cursor.varint() & MASK
            cursor.check(record.source, "it has no source")
        if flags & 8:
            record.blob, record.blob_size = cursor.take(16), cursor.varint()
            cursor.check(not record.deleted, "a deletion with a blob")
        return record

    def transactions(self):
        """All transactions with everything; all that is in the file is read."""
        data, references = self.data_items(self.data_blocks), self.reference_items()
        counts = [0, 0, 0]
        for transaction in self.headers():
            for record in transaction.records:
                if not record.deleted:
                    key = transaction.tid, record.number
                    at, oid, record.data = next(data, (None, None, None))
                    known, record.klass, record.references = next(references, (None,) * 3)
                    if (at, oid, known) != (key, record.oid, key) or len(record.data) != record.size:
                        raise self.differs()
                    counts[2] += record.size
            counts[0] += 1
            counts[1] += len(transaction.records)
            yield transaction
        entry = self.entry
        if counts != [entry.transactions, entry.records, entry.data] or any(data) or any(references):
            raise self.differs()

    def differs(self):
        return Cursor(self.name, b"").damaged("its headers, data and references do not agree")

    def data(self, key, oid):
        """The data of one record."""
        place = bisect.bisect_right([block.first for block in self.data_blocks], key) - 1
        for at, owner, data in self.data_items(self.data_blocks[max(place, 0):place + 1]):
            if at == key and owner == oid:
                return data
        raise Cursor(self.name, b"").damaged(f"it has no data of record {key}, object {oid:016x}")
