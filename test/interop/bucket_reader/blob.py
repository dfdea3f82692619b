"""Blob objects."""

from .files import crc32c

PIECE = 1 << 20


def blob_name(identity):
    return f"blob/{identity.hex()}"


def read_blob(bucket, database, identity, size):
    """The pieces of a blob, checked."""
    name = blob_name(identity)
    cursor = bucket.part(name, 0, 52)
    cursor.check(cursor.start(b"s3zblb\r\n", 1) == PIECE, "pieces of another size")
    cursor.check(cursor.take(32) == database + identity,
                 "it is another blob, or of another database")
    cursor.check(crc32c(cursor.data[:48]) == cursor.u32(), "the CRC-32C does not match")
    pieces = -(-size // PIECE)
    cursor.check(bucket.size(name) == 52 + size + 4 * pieces, f"it does not have {size} bytes")
    for number in range(pieces):
        length = min(PIECE, size - number * PIECE)
        piece = bucket.part(name, 52 + number * (PIECE + 4), length + 4)
        data = piece.take(length)
        piece.check(crc32c(identity, number.to_bytes(8, "big"), data) == piece.u32(),
                    "the CRC-32C of a piece does not match")
        yield data
