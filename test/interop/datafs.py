"""What is in a Data.fs, and in any other storage that can be iterated."""

import pathlib

from ZODB.FileStorage import FileStorage


def transactions(storage):
    """All that an iterator says: transaction by transaction, record by record."""
    return [(t.tid, _text(t.status), t.user, t.description, t.extension,
             [(r.oid, r.tid, r.data, r.data_txn) for r in t])
            for t in storage.iterator()]


def _text(status):
    # Over ZEO it comes as it was encoded.
    return status.decode() if isinstance(status, bytes) else status


def read(path):
    """All transactions of a file."""
    storage = FileStorage(str(path), read_only=True)
    try:
        return transactions(storage)
    finally:
        storage.close()


def same(want, got):
    """Insist that the transactions are the same."""
    for a, b in zip(want, got):
        assert a == b, f"transaction {a[0].hex()} is {b!r:.2000}, not {a!r:.2000}"
    assert len(want) == len(got), f"{len(got)} transactions, not {len(want)}"


def blobs(directory):
    """Path and bytes of every blob in a directory of blobs."""
    root = pathlib.Path(directory)
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*.blob")}
