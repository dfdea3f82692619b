"""One of the two servers that the oracle test compares, seen through stock clients.

A Side does operations and answers queries. The two servers give different tids,
so both speak of transactions by marks:

"#17"        the transaction that step 17 committed ("#17b" its second one)
"#17+"       just after it, "#17-" just before it
"zero"       the serial of an object that does not exist yet
"max"        after everything

Answers come back in plain values, with marks for tids and numbers for oids.
What an operation or a query raises is an answer too.
"""

import base64
import contextlib
import hashlib
import os
import pathlib
import threading
import time

import harness
import oracle_records
import ZEO.ClientStorage
from persistent.TimeStamp import TimeStamp
from ZEO.Exceptions import ServerException
from ZODB.Connection import TransactionMetaData
from ZODB.POSException import MultipleUndoErrors
from ZODB.POSException import POSKeyError
from ZODB.utils import maxtid
from ZODB.utils import p64
from ZODB.utils import u64
from ZODB.utils import z64

# A restore brings its tid: so many units after the last one.
RESTORE_STEP = 1000
# The interfaces that make a client offer more.
INTERFACES = {"IStorageRestoreable", "IStorageIteration", "IStorageUndoable",
              "IStorageCurrentRecordIteration", "IBlobStorage", "IExternalGC"}


class UnknownMark(Exception):
    """A transaction that is not there: a step that was taken out of a log of steps."""


class Raised(tuple):
    """An answer: (name of the error's class, oids and serials that it names)."""


class Watcher:
    """A database, as far as a storage tells it something."""

    transform_record_data = untransform_record_data = staticmethod(lambda data: data)

    def __init__(self):
        self.events = []

    def invalidate(self, tid, oids):
        self.events.append((tid, set(oids)))

    def invalidateCache(self):
        pass


class Side:
    def __init__(self, name, directory, server):
        self.name = name
        self.directory = pathlib.Path(directory)
        self.directory.mkdir(parents=True)
        self.server = server
        self.tids = {}  # mark -> tid, in the order of the commits
        self.marks = {}  # tid -> mark
        self.opened = 0
        self.tamper = None  # (query, answer) -> answer, to see that lies are found
        self.writers = {name: self._open(name)[0] for name in "AB"}
        self.open_reader()
        self.away = None

    def _open(self, name, **options):
        self.opened += 1
        watcher = Watcher()
        blobs = self.directory / f"blobs-{name}-{self.opened}"
        storage = ZEO.ClientStorage.ClientStorage(
            self.server.address, blob_dir=str(blobs), wait_timeout=harness.HANG,
            cache_size=4 << 20, **options)
        storage.registerDB(watcher)
        return storage, watcher

    def open_reader(self):
        """The client that never writes: it answers the queries and watches."""
        self.reader, self.watcher = self._open("reader")

    def reopen_reader(self):
        """A reader that has nothing in its cache that a pack has dropped."""
        self.reader.close()
        self.open_reader()

    def close(self):
        for storage in [*self.writers.values(), self.reader, self.away]:
            if storage is not None:
                storage.close()
        self.server.stop()

    # -- marks

    def tid(self, mark):
        if mark is None:
            return None
        if mark in ("zero", "max"):
            return z64 if mark == "zero" else maxtid
        name = mark.rstrip("+-")
        if name not in self.tids:
            raise UnknownMark(mark)
        return p64(u64(self.tids[name]) + {"+": 1, "-": -1}.get(mark[-1], 0))

    def _committed(self, mark, tid):
        self.tids[mark] = tid
        self.marks[tid] = mark

    def plain(self, value):
        """The value with marks for tids and numbers for oids, so that it compares."""
        if isinstance(value, bytes) and len(value) == 8:
            if value in self.marks:
                return self.marks[value]
            return u64(value) if u64(value) < 1 << 32 else f"unknown tid {value.hex()}"
        if isinstance(value, dict):
            value = {k: self.plain(v) for k, v in value.items()}
            tid = self.tids.get(value.get("tid") or value.get("id"))
            # Not all ways to compute a time give the same last digit.
            if tid and abs(value.get("time", 0) - TimeStamp(tid).timeTime()) < 1e-6:
                value["time"] = "that of the tid"
            return value
        if isinstance(value, (list, tuple)):
            return type(value)(self.plain(v) for v in value)
        return value

    def _error(self, error):
        if isinstance(error, ServerException):
            return Raised((error.args[0].rpartition(".")[2],))
        name = type(error).__name__
        if isinstance(error, MultipleUndoErrors):
            return Raised((name, sorted(self.plain(oid) for oid, _ in error._errs)))
        if hasattr(error, "serials"):
            return Raised((name, self.plain(error.oid), self.plain(error.serials)))
        return Raised((name, *(self.plain(a) for a in error.args if isinstance(a, bytes))))

    # -- operations

    def do(self, operation, mark):
        """Do it; what it committed is known by the mark from then on."""
        try:
            return getattr(self, "_" + operation["op"])(operation, mark)
        except (UnknownMark, AssertionError):
            raise
        except Exception as error:
            return self._error(error)

    @contextlib.contextmanager
    def _transaction(self, operation, **begin):
        storage = self.writers[operation.get("client", "A")]
        txn = TransactionMetaData(
            operation.get("user", ""), operation.get("description", ""),
            operation.get("extension") or {})
        storage.tpc_begin(txn, **begin)
        try:
            yield storage, txn
        finally:
            storage.tpc_abort(txn)  # does nothing to what has finished

    def _end(self, operation, storage, txn, mark):
        """Vote, then what the operation says; the answer is the client's."""
        if operation.get("end") == "abort":
            return "aborted before vote", []
        voted = storage.tpc_vote(txn)
        voted = sorted({u64(oid) for oid in voted or ()})
        if operation.get("end") == "abort after vote":
            return "aborted after vote", voted
        told = []
        tid = storage.tpc_finish(txn, told.append)
        if told != [tid] or tid <= max(self.marks, default=z64):
            return "finished with a tid that is not new", self.plain([tid, *told])
        self._committed(mark, tid)
        return "committed", voted

    def _write(self, storage, txn, write):
        kind, oid, base, *rest = write
        oid, base = p64(oid), self.tid(base)
        if kind == "check":
            storage.checkCurrentSerialInTransaction(oid, base, txn)
        elif kind == "delete":
            storage.deleteObject(oid, base, txn)
        elif kind == "blob":
            [size] = rest
            path = self.directory / f"upload-{threading.get_ident()}"
            path.write_bytes(oracle_records.content(size))
            storage.storeBlob(oid, base, oracle_records.record(("blob",)), str(path), "", txn)
        else:
            storage.store(oid, base, oracle_records.record(rest[0]), "", txn)

    def _commit(self, operation, mark):
        with self._transaction(operation) as (storage, txn):
            for write in operation["writes"]:
                self._write(storage, txn, write)
            return self._end(operation, storage, txn, mark)

    def _race(self, operation, mark):
        """A has voted when B, who wants one of its objects, comes; then A ends."""
        first, second = operation["first"], operation["second"]
        answers = []

        def compete():
            try:
                answers.append(self._commit(second, mark + "b"))
            except Exception as error:
                answers.append(error)

        other = threading.Thread(target=compete)
        with self._transaction(first) as (storage, txn):
            for write in first["writes"]:
                self._write(storage, txn, write)
            storage.tpc_vote(txn)
            other.start()
            if first["end"] == "finish":
                self._committed(mark, storage.tpc_finish(txn))
        other.join()
        self.tids = dict(sorted(self.tids.items(), key=lambda item: item[1]))
        [answer] = answers
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _undo(self, operation, mark):
        with self._transaction(operation) as (storage, txn):
            for undone in operation["undone"]:
                storage.undo(base64.encodebytes(self.tid(undone)).rstrip(), txn)
            return self._end(operation, storage, txn, mark)

    def _restore(self, operation, mark):
        tid = p64(u64(self.query_tid()) + RESTORE_STEP)
        with self._transaction(
                operation, tid=tid, status=operation["status"]) as (storage, txn):
            for oid, spec, previous in operation["records"]:
                data = None if spec is None else oracle_records.record(spec)
                storage.restore(p64(oid), tid, data, "", self.tid(previous), txn)
            return self._end(operation, storage, txn, mark)

    def pack_time(self, mark):
        """A time between that transaction and the next."""
        if mark is None:
            return time.time()
        tids = list(self.tids)
        after = tids[tids.index(mark) + 1:][:1]
        first = TimeStamp(self.tids[mark]).timeTime()
        return (first + TimeStamp(self.tids[after[0]]).timeTime()) / 2 if after else first + 1e-5

    def _pack(self, operation, mark):
        try:
            return self.reader.pack(self.pack_time(operation["until"]), wait=True)
        finally:
            self.reopen_reader()

    def stop_for_restart(self, operation):
        """The first half of a restart."""
        if operation["how"] == "kill" and not self.server.reference:
            self.server.kill()
        else:
            self.server.stop()
        self.server.spawn()

    def _restart(self, operation, mark):
        harness.wait_until("the server is ready", self.server.ready)
        for storage in [*self.writers.values(), self.reader]:
            harness.wait_until("the client is back", storage.is_connected)
            storage.ping()

    def _leave(self, operation, mark):
        """A client with a cache in a file goes, after it has read a little."""
        storage, self.away = self.away, None
        if storage is None:  # an empty one is false
            storage, _ = self._open("away", client="away", var=str(self.directory))
        answers = self._loads(storage, operation["reads"])
        storage.close()
        return answers

    def _return(self, operation, mark):
        """It comes back, and must not believe what has changed meanwhile."""
        if self.away is None:
            self.away, _ = self._open("away", client="away", var=str(self.directory))
        return self._loads(self.away, operation["reads"])

    def _loads(self, storage, oids):
        answers = {}
        for oid in oids:
            try:
                answers[oid] = self.plain(storage.load(p64(oid)))
            except Exception as error:
                answers[oid] = self._error(error)
        return answers

    # -- queries

    def ask(self, query):
        """The answer to a query: (name, *arguments)."""
        name, *arguments = query
        try:
            answer = getattr(self, "query_" + name)(*arguments)
        except UnknownMark:
            raise
        except Exception as error:
            return self._error(error)
        if self.tamper is not None:
            answer = self.tamper(query, answer)
        return self.plain(answer)

    def query_tid(self):
        return self.reader._call("lastTransaction")

    def query_client_tids(self):
        """What the clients take for the last transaction, once they know of all."""
        clients = [*self.writers.values(), self.reader]
        for storage in clients:
            storage.ping()
        return [storage.lastTransaction() for storage in clients]

    def query_load(self, oid):
        """The current revision: a client's cache and the server agree on it."""
        told = self.reader._call("loadBefore", p64(oid), maxtid)
        # The reference announces neither deletions nor what was restored.
        if not self.server.reference:
            cached = self.reader.loadBefore(p64(oid), maxtid)
            if cached != told:
                return "a client's cache says", cached, "the server says", told
        return told

    def query_loadBefore(self, oid, mark):
        return self.reader._call("loadBefore", p64(oid), self.tid(mark))

    def query_loadSerial(self, oid, mark):
        return self.reader.loadSerial(p64(oid), self.tid(mark))

    def query_getTid(self, oid):
        return self.reader.getTid(p64(oid))

    def query_history(self, oid, size):
        return list(self.reader.history(p64(oid), size))

    def _undo_list(self, entries):
        result = []
        for entry in entries:
            entry = dict(entry)
            # The length of the transaction's record in a Data.fs.
            entry.pop("size")
            if isinstance(entry["id"], bytes):
                entry["id"] = base64.decodebytes(entry["id"] + b"\n")
            result.append(entry)
        return result

    def query_undoLog(self, first, last):
        return self._undo_list(self.reader.undoLog(first, last))

    def query_undoInfo(self, first, last, specification):
        return self._undo_list(self.reader.undoInfo(first, last, specification))

    def query_iterate(self, start, stop):
        """Transactions with their records; a record that comes twice, once.

        ZEO's client sends the record of a blob twice in a transaction, and a
        FileStorage keeps both.
        """
        return [
            (t.tid, t.status, t.user, t.description, t.extension,
             # The last of several records of an object counts, their order does not.
             [record for _, record in sorted(
                 {r.oid: (r.oid, r.tid, r.data, r.data_txn) for r in t}.items())])
            for t in self.reader.iterator(self.tid(start), self.tid(stop))]

    def query_records(self):
        """All current records, by record_iternext; an error ends the walk.

        The reference fails at objects that were deleted: then it goes on behind.
        """
        result, position = [], None
        while True:
            try:
                oid, tid, data, position = self.reader.record_iternext(position)
            except POSKeyError as error:
                if not self.server.reference:
                    return [*result, self._error(error)]
                position = p64(u64(error.args[0]) + 1)
                continue
            except Exception as error:
                if self._error(error) == ("ValueError",):  # there is none
                    return result
                return [*result, self._error(error)]
            result.append((oid, tid, data))
            if position is None:
                return result

    def query_info(self):
        info = self.reader._call("get_info")
        return {"length": info["length"], "supportsUndo": bool(info["supportsUndo"]),
                "supports_record_iternext": info["supports_record_iternext"],
                "interfaces": INTERFACES & {name for _, name in info["interfaces"]}}

    def query_loadBlob(self, oid, mark):
        """Length and hash of a blob that comes from the server, not from a cache."""
        path = self.reader.fshelper.getBlobFilename(p64(oid), self.tid(mark))
        with contextlib.suppress(FileNotFoundError):
            os.remove(path)
        content = pathlib.Path(self.reader.loadBlob(p64(oid), self.tid(mark))).read_bytes()
        return len(content), hashlib.sha256(content).hexdigest()

    def query_getInvalidations(self, mark):
        answer = self.reader._call("getInvalidations", self.tid(mark))
        return answer and (answer[0], sorted(set(answer[1])))

    def query_events(self):
        """What the reader was told since the last time: tids, each with its oids."""
        self.reader.ping()
        events, self.watcher.events = self.watcher.events, []
        return [(tid, sorted(oids)) for tid, oids in events]
