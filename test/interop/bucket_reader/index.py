"""Index tables: where the revisions of an object are."""

import bisect
import collections

from .files import crc32c

# Transaction tid wrote record number k of object oid, or deleted the object.
Entry = collections.namedtuple("Entry", "oid tid k deleted")

FOOTER = 44
MAX_LEAF = 32768


class Table:

    def __init__(self, bucket, database, entry):
        self.bucket, self.id, self.name = bucket, entry.id, entry.name
        start = bucket.part(self.name, 0, 52)
        start.check(start.start(b"s3zidx\r\n", 1) == 64, "groups of another size")
        start.check(start.take(32) == database + entry.id,
                    "it is another table, or of another database")
        start.check(crc32c(start.data[:48]) == start.u32(), "the CRC-32C does not match")
        begin = entry.size - entry.tail
        tail = bucket.part(self.name, begin, entry.tail)
        tail.check(bucket.size(self.name) == entry.size, f"it does not have {entry.size} bytes")
        directory = tail.sub(entry.tail - FOOTER)
        size, leaves = tail.u32(), tail.u32()
        said = tail.u64(), tail.u64(), tail.u64(), tail.u64()
        tail.check(said == (entry.entries, entry.first, entry.last, entry.max_oid)
                   and size == entry.tail - FOOTER, "it is not what the base says of it")
        tail.check(crc32c(database, self.id, tail.data[:-4]) == tail.u32(),
                   "the CRC-32C of the directory does not match")
        self.leaves = []  # (first oid, tid of the first entry or 0), offset, size
        oid, tid, offset = 0, 0, 52
        for number in range(leaves):
            step = directory.varint()
            oid += step >> 1
            before, tid = tid if step < 2 else 0, directory.u64() if step & 1 else 0
            size = directory.u16()
            directory.check(size <= MAX_LEAF and (not number or step > 1 or tid > before),
                            f"leaf {number} is too large or out of order")
            self.leaves.append(((oid, tid), offset, size))
            offset += size
        directory.done()
        directory.check(offset == begin, "the leaves do not end where the directory begins")

    def entries(self, start=0):
        """All entries, from the leaf on in which the oid would begin."""
        first = max(0, bisect.bisect_left(self.leaves, ((start, 0),)) - 1)
        before = None
        for (oid, tid), offset, size in self.leaves[first:]:
            cursor = self.bucket.part(self.name, offset, size)
            for number, entry in enumerate(self.leaf(cursor, offset)):
                cursor.check(before is None or before[:2] < entry[:2], f"{entry} is out of order")
                if not number:
                    cursor.check(entry.oid == oid and (entry.tid == tid if tid else
                                                       not before or before.oid < oid),
                                 "a leaf does not begin as the directory says")
                before = entry
                yield entry

    def leaf(self, cursor, offset):
        crc = int.from_bytes(cursor.data[-4:], "big")
        cursor.check(crc32c(self.id, offset.to_bytes(8, "big"), cursor.data[:-4]) == crc,
                     "the CRC-32C of a leaf does not match")
        cursor.end -= 4
        count, width = cursor.u16(), cursor.u8()
        cursor.zero(1)
        base = cursor.u64()
        cursor.check(count and width <= 8, f"a leaf of {count} entries, tids of {width} bytes")
        groups = [(cursor.u64(), cursor.u64(), cursor.u16()) for _ in range((count + 63) // 64)]
        for number, (oid, tid, at) in enumerate(groups):
            cursor.check(at == cursor.at, "a group begins at another place")
            rank, last = -1, {0: (tid, -1)}  # of each rank: tid and k
            for _ in range(min(64, count - 64 * number)):
                tag = cursor.u8()
                step = tag & 7
                if step == 7:
                    step += cursor.varint()
                oid += step
                rank = 0 if step else min(rank + 1, 7)
                tid, k = last.get(rank, (0, 0))
                k += 1
                if not tag & 16:
                    tid, k = base + int.from_bytes(cursor.take(width), "big"), 0
                size = (0, 1, 2, 4)[tag >> 5 & 3]
                if size:
                    k = int.from_bytes(cursor.take(size), "big")
                cursor.check(tid and not tag & 128, f"an entry with tag {tag:#04x}")
                last[rank] = tid, k
                yield Entry(oid, tid, k, bool(tag & 8))
        cursor.done()

    def revisions(self, oid):
        """The entries of one object, the oldest first."""
        for entry in self.entries(oid):
            if entry.oid > oid:
                return
            if entry.oid == oid:
                yield entry
