"""What all files of a bucket have in common: numbers, checksums, magic words."""

import hashlib
import pathlib
import struct


class Damaged(Exception):
    """The bytes are not what doc/format.md says; the message names the place."""


class Newer(Exception):
    """Written by a newer version than this reader knows."""


class Missing(Damaged):
    """An object that something names is not there."""


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


class Bucket:
    """The objects of a directory, by name."""

    def __init__(self, directory):
        self.directory = pathlib.Path(directory)

    def whole(self, name):
        """The bytes of an object, or None."""
        try:
            return (self.directory / name).read_bytes()
        except FileNotFoundError:
            return None

    def needed(self, name):
        """The bytes of an object that something names."""
        data = self.whole(name)
        if data is None:
            raise Missing(f"{name} is missing")
        return data

    def has(self, name):
        return (self.directory / name).exists()

    def size(self, name):
        try:
            return (self.directory / name).stat().st_size
        except FileNotFoundError:
            raise Missing(f"{name} is missing") from None

    def part(self, name, offset, size):
        """A cursor over a part of an object that something names."""
        try:
            with open(self.directory / name, "rb") as file:
                file.seek(offset)
                data = file.read(size)
        except FileNotFoundError:
            raise Missing(f"{name} is missing") from None
        if len(data) != size:
            raise Damaged(f"{name} ends {len(data)} bytes after offset {offset}, not {size}")
        return Cursor(name, data, origin=offset)

    def names(self, prefix):
        """The names of all objects below a prefix, sorted."""
        return sorted(path.relative_to(self.directory).as_posix()
                      for path in (self.directory / prefix).glob("**/*") if path.is_file())


class Cursor:
    """Takes bytes apart from the front, and complains by name and offset."""

    def __init__(self, name, data, at=0, end=None, origin=0):
        self.name, self.data, self.at, self.origin = name, data, at, origin
        self.end = len(data) if end is None else end

    def damaged(self, what):
        return Damaged(f"{self.name}, offset {self.origin + self.at}: {what}")

    def check(self, right, what):
        if not right:
            raise self.damaged(what)

    def take(self, size):
        if size > self.end - self.at:
            raise self.damaged(f"{size} bytes expected, {self.end - self.at} are left")
        self.at += size
        return self.data[self.at - size:self.at]

    def u8(self):
        return self.take(1)[0]

    def u16(self):
        return struct.unpack(">H", self.take(2))[0]

    def u32(self):
        return struct.unpack(">I", self.take(4))[0]

    def u64(self):
        return struct.unpack(">Q", self.take(8))[0]

    def varint(self):
        value = shift = 0
        while True:
            byte = self.u8()
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                self.check((byte or shift == 7) and value < 1 << 64, "a wrong varint")
                return value

    def text(self, limit):
        size = self.u32()
        self.check(size <= limit, f"a text of {size} bytes")
        return self.take(size).decode()

    def zero(self, size):
        self.check(not any(self.take(size)), "reserved bytes are not zero")

    def sub(self, size):
        start = self.at
        self.take(size)
        return Cursor(self.name, self.data, start, self.at, self.origin)

    def more(self):
        return self.at < self.end

    def done(self):
        self.check(not self.more(), f"{self.end - self.at} bytes too many")

    def start(self, magic, version):
        """The 16 bytes that files begin with; returns the number in them."""
        self.check(self.data[self.at:self.at + 8] == magic, f"the magic word {magic!r} expected")
        self.take(8)
        found, flags = self.u16(), self.u16()
        if found != version or flags != 0:
            raise Newer(f"{self.name} has format version {found} and flags {flags:#06x}")
        return self.u32()


def open_file(name, data, magic, version=2):
    """A file that ends with its SHA-256: a cursor behind the start, the number
    in that, and the hash."""
    cursor = Cursor(name, data)
    number = cursor.start(magic, version)
    cursor.check(len(data) >= 16 + 32, f"it ends after {len(data)} bytes")
    cursor.end = len(data) - 32
    digest = hashlib.sha256(data[:-32]).digest()
    cursor.check(digest == data[-32:], "the SHA-256 at the end does not match")
    return cursor, number, digest
