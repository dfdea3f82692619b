"""A FileStorage with something of everything, for commands to work on."""

import shutil

import datafs
import transaction
import ZODB
from persistent.mapping import PersistentMapping
from ZODB.blob import Blob
from ZODB.FileStorage import FileStorage


class Source:
    """A Data.fs with blobs, and a copy of what it was halfway."""

    def __init__(self, directory, random, transactions):
        directory.mkdir()
        self.random = random
        self.file, self.blobs = directory / "Data.fs", directory / "blobs"
        self.half, self.half_blobs = directory / "half.fs", directory / "half"
        self._grow(transactions // 2)
        shutil.copy(self.file, self.half)
        shutil.copytree(self.blobs, self.half_blobs)
        self._grow(transactions - transactions // 2)
        # Transactions and blobs, as an export has to have them.
        self.first = datafs.read(self.half), datafs.blobs(self.half_blobs)
        self.whole = datafs.read(self.file), datafs.blobs(self.blobs)

    def _grow(self, transactions):
        db = ZODB.DB(FileStorage(str(self.file), blob_dir=str(self.blobs)))
        try:
            for number in range(transactions):
                if number % 15 == 14:
                    db.undo(db.undoLog(0, 1)[0]["id"])
                else:
                    with db.transaction(f"transaction {number}") as connection:
                        self._change(connection.root())
                transaction.commit()
        finally:
            db.close()

    def _change(self, root):
        """Some objects are new, some change, and what is replaced is garbage."""
        for _ in range(4):
            name = f"object {self.random.randrange(60)}"
            data = self.random.randbytes(self.random.randrange(20_000))
            if name in root and self.random.random() < 0.5:
                root[name]["data"] = data
            else:
                root[name] = PersistentMapping(data=data)
        if self.random.random() < 0.3:
            blob = root[f"blob {self.random.randrange(9)}"] = Blob()
            with blob.open("w") as f:
                f.write(self.random.randbytes(self.random.randrange(200_000)))
