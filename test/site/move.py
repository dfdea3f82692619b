"""Takes the database of a site out of its bucket and into another one.

ZODB's own tools judge what comes out: FileStorage opens it, fstest and fsrefs find
nothing wrong with it, and its iteration is that of the server.
"""

import contextlib
import io
import pathlib
import time

import datafs
import harness
import ZEO.ClientStorage
from ZODB.blob import is_blob_record
from ZODB.scripts import fsrefs, fstest


class Move:
    """From the bucket, or the Data.fs of ZEO's own server in it, to another bucket."""

    def __init__(self, bucket, target, directory, reference, say):
        self.bucket = bucket
        self.target = target
        self.directory = pathlib.Path(directory)
        self.directory.mkdir()
        self.reference = reference
        self.say = say
        # The file that is imported, and its blobs.
        self.file, self.blobs = self.directory / "Data.fs", self.directory / "blobs"
        if reference:
            self.file, self.blobs = bucket.path / "Data.fs", bucket.path / "blobs"

    def run(self):
        """Leave the same database in the target."""
        if not self.reference:
            self._check(self.bucket)
            self._export(self.bucket, self.file, self.blobs)
        transactions = self._judge(self.file)
        if not self.reference:
            self._served(self.bucket, transactions)
        took = self._timed("import", self.file, self.target.url, "--blobs", self.blobs)
        self.say(f"imported in {took:.2f} s, {_size(self.target.path):,} bytes in the bucket")
        self._check(self.target)
        self._served(self.target, transactions)
        again = self.directory / "again.fs", self.directory / "again"
        self._export(self.target, *again)
        datafs.same(transactions, self._judge(again[0]))
        assert datafs.blobs(self.blobs) == datafs.blobs(again[1])

    def _timed(self, *arguments):
        began = time.monotonic()
        harness.tool(*arguments)
        return time.monotonic() - began

    def _check(self, bucket):
        said = harness.tool("check", "--full", bucket.url)
        assert "no damage was found" in said and "warning:" not in said, said

    def _export(self, bucket, file, blobs):
        took = self._timed("export", bucket.url, file, "--blobs", blobs)
        self.say(f"exported in {took:.2f} s, {_size(bucket.path):,} bytes in the bucket")

    def _judge(self, file):
        """What is in the file, about which ZODB's own tools have to be silent."""
        fstest.check(str(file))
        with contextlib.redirect_stdout(io.StringIO()) as said:
            fsrefs.main(str(file))
        assert not said.getvalue(), said.getvalue()
        transactions = datafs.read(file)
        records = [record for t in transactions for record in t[-1]]
        shared = sum(data_txn is not None for *_, data_txn in records)
        self.say(f"{file.name}: {file.stat().st_size:,} bytes, {len(transactions)} "
                 f"transactions, {len({oid for oid, *_ in records})} objects, "
                 f"{len(records)} records, {shared} of which share data")
        return transactions

    def _served(self, bucket, transactions):
        """A server over the bucket says the same to a client, blobs too."""
        server = harness.Server(self.directory / f"server-{bucket.path.name}", bucket)
        with contextlib.ExitStack() as stack:
            stack.callback(server.stop)
            server.start()
            cache = self.directory / f"cache-{bucket.path.name}"
            cache.mkdir()
            storage = ZEO.ClientStorage.ClientStorage(
                server.address, blob_dir=str(cache), wait_timeout=harness.HANG)
            stack.callback(storage.close)
            datafs.same(transactions, datafs.transactions(storage))
            blobs = [pathlib.Path(storage.loadBlob(oid, tid)).read_bytes()
                     for *_, records in transactions for oid, tid, data, _ in records
                     if data and is_blob_record(data)]
            there = datafs.blobs(self.blobs).values()
            assert sorted(blobs) == sorted(there), f"{len(blobs)} blobs, not {len(there)}"
        self.say(f"a client finds the same transactions and {len(blobs)} blobs, "
                 f"{sum(map(len, blobs)):,} bytes")


def _size(directory):
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
