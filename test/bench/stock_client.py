"""What run.py measures with stock Python clients, one measurement a process.

    python test/bench/stock_client.py blob ADDRESS BYTES DIRECTORY
    python test/bench/stock_client.py undo ADDRESS
    python test/bench/stock_client.py fill TARGET OBJECTS
    python test/bench/stock_client.py pack TARGET

A target is the address of a server, or a path, which is that of a FileStorage. The
answer is one line of JSON.
"""

import json
import os
import pathlib
import sys
import tempfile
import time

import transaction
import ZODB
import ZODB.FileStorage
from persistent.mapping import PersistentMapping
from ZEO.ClientStorage import ClientStorage
from ZODB.Connection import TransactionMetaData
from ZODB.serialize import referencesf
from ZODB.utils import z64

BLOCK = 1 << 20


def seconds(function, *arguments, **keywords):
    start = time.perf_counter()
    result = function(*arguments, **keywords)
    return time.perf_counter() - start, result


def connect(address, **options):
    host, _, port = address.rpartition(":")
    return ClientStorage((host, int(port)), wait_timeout=60, **options)


def target(text):
    if ":" in text:
        return connect(text)
    return ZODB.FileStorage.FileStorage(text)


def blob(address, size, directory):
    """Store a blob, and read it with another client, whose cache is empty."""
    size = int(size)
    with tempfile.TemporaryDirectory(dir=directory) as place:
        place = pathlib.Path(place)
        source = place / "source"
        block = bytes(range(256)) * (BLOCK // 256)
        with open(source, "wb") as f:
            for at in range(0, size, BLOCK):
                f.write(block[:size - at])
        # What is dirty must not hold up a server that syncs: an fsync on ext4 may
        # wait for all of it.
        os.sync()
        writer = connect(address, blob_dir=str(place / "writer"))
        oid = writer.new_oid()
        data = record()

        def store():
            txn = TransactionMetaData()
            writer.tpc_begin(txn)
            writer.storeBlob(oid, z64, data, str(source), "", txn)
            writer.tpc_vote(txn)
            return writer.tpc_finish(txn)

        up, serial = seconds(store)
        rest, _ = seconds(os.sync)
        writer.close()
        reader = connect(address, blob_dir=str(place / "reader"))
        down, path = seconds(reader.loadBlob, oid, serial)
        if pathlib.Path(path).stat().st_size != size:
            sys.exit(f"the blob has come back with {pathlib.Path(path).stat().st_size} bytes")
        reader.close()
    return {"up": up, "up and on the disk": up + rest, "down": down}


def record():
    """The data of a persistent object."""
    db = ZODB.DB(None)
    with db.transaction() as connection:
        connection.root()["x"] = PersistentMapping()
    data, _ = db.storage.load(z64)
    db.close()
    return data


def undo(address):
    """Ask for the newest transactions, by specifications."""
    storage = connect(address)
    took = {}
    for name, specification in [
            ("newest", None),
            ("by user, all match", {"user_name": b"bench"}),
            ("by user, none matches", {"user_name": b"nobody"}),
            ("by an item of the extension, none matches", {"request_type": "x"})]:
        took[name], _ = seconds(storage.undoInfo, 0, -20, specification)
    storage.close()
    return took


def fill(where, objects):
    """Write a tree of objects, each twice."""
    db = ZODB.DB(target(where), large_record_size=1 << 30)
    connection = db.open()
    root = connection.root()
    objects = int(objects)
    folders = [PersistentMapping() for _ in range(objects // 1000)]
    for n, folder in enumerate(folders):
        root[n] = folder
        for m in range(999):
            folder[m] = PersistentMapping(text="x" * 300)
        transaction.commit()
        for item in folder.values():
            item["text"] = "y" * 300
        folder["changed"] = True
        transaction.commit()
        connection.cacheMinimize()
    connection.close()
    db.close()
    return {}


def pack(where):
    """Pack to now."""
    storage = target(where)
    before = len(storage)
    if isinstance(storage, ClientStorage):
        took, _ = seconds(storage.pack, time.time(), None, wait=True)
    else:
        took, _ = seconds(storage.pack, time.time(), referencesf)
    after = len(storage)
    storage.close()
    return {"seconds": took, "objects before": before, "objects after": after}


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](*sys.argv[2:])))
