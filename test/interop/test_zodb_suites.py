"""ZODB's and ZEO's own test suites, and ZODB's race tests, on this server.

The suites are mixins that expect a storage in self._storage; here it is a
ClientStorage, set up as in ZEO's own testZEO.py.

RACETEST_REPEAT says how often each race test runs, by default once or twice.
"""

import os
import pathlib
import tempfile

import harness
import pytest
import transaction
import ZEO.tests.ConnectionTests
from ZEO.ClientStorage import ClientStorage
from ZEO.tests import CommitLockTests
from ZEO.tests import InvalidationTests
from ZEO.tests import testZEO
from ZEO.tests import ThreadTests
from ZODB.tests import BasicStorage
from ZODB.tests import ConflictResolution
from ZODB.tests import MTStorage
from ZODB.tests import PersistentStorage
from ZODB.tests import RevisionStorage
from ZODB.tests import StorageTestBase
from ZODB.tests import Synchronization
from ZODB.tests.racetest import RaceTests
from ZODB.utils import z64

# A serial is bytes; in this module of ZEO's tests it has remained a str, which
# the server refuses.
ThreadTests.ZERO = z64

REPEAT = int(os.environ.get("RACETEST_REPEAT", "0"))

# What is left out, and why. Whole suites first:
#   PackableStorage, PackableUndoStorage      pack does not exist yet
#   TransactionalUndoStorage, Cache           undo does not exist yet
#   IteratorStorage, IterationTests           iteration does not exist yet
#   ReadOnlyStorage                           opens a Data.fs of its own
#   ReconnectionTests, TimeoutTests,          need server options of ZEO's (a
#   InvqTests in part                         read-only storage, a transaction
#                                             timeout, a short queue)
#   testblob                                  blobs do not exist yet
EXCLUDED = {
    "testLoadBeforeUndo": "undo does not exist yet",
    "testUndoConflictResolution": "undo does not exist yet",
    "testUndoUnresolvable": "undo does not exist yet",
    "testLoadBeforeConsecutiveTids":
        "stores under tids of its own choice, 1 2 3; tids are the server's",
    "checkReadOnlyServer": "wants a server option read-only",
    "checkReadOnlyFallbackReadOnlyServer": "wants a server option read-only",
    "checkCheckForOutOfDateServer": "starts a second, empty database in the old one's place",
    "checkConcurrentUpdates2Storages_emulated": "runs ten seconds and tests little",
    "checkConcurrentUpdates2Storages": "runs ten seconds; covered by 19Storages",
    "checkConcurrentUpdates1Storage": "runs ten seconds; covered by 2StoragesMT",
}


@pytest.fixture(autouse=True)
def use_gateway(request):
    """Hands the session's S3 gateway to the TestCase that wants one."""
    kind = getattr(request.cls, "bucket_kind", "directory")
    if kind == "s3":
        if harness.REFERENCE:
            pytest.skip("the reference server knows no S3")
        request.cls.gateway = request.getfixturevalue("gateway")
    elif request.cls is not None:
        request.cls.gateway = None


def suite(cls):
    """Have pytest find the checkX methods, and take out what is excluded."""
    for name in dir(cls):
        if name in EXCLUDED:
            setattr(cls, name, None)
        elif name.startswith("check") and callable(getattr(cls, name)):
            alias = "test_" + name[len("check"):]
            if not hasattr(cls, alias):
                setattr(cls, alias, getattr(cls, name))
    return cls


class ServerTestCase(StorageTestBase.StorageTestBase):
    """A fresh server over a fresh bucket for each test."""

    bucket_kind = "directory"
    msgpack = False
    gateway = None

    def setUp(self):
        # Before ZODB's own setUp, which moves to a directory that goes first.
        self.directory = pathlib.Path(tempfile.mkdtemp())
        super().setUp()
        self.server = harness.Server(
            self.directory / "server",
            harness.Bucket(self.bucket_kind, self.directory, self.gateway),
            msgpack=self.msgpack)
        self.addCleanup(harness.remove, self.directory)
        self.addCleanup(self.server.check_log)
        self.addCleanup(self.server.stop)
        self.server.start()
        self._clients = []
        self._storage = self._new_storage_client()

    def tearDown(self):
        transaction.abort()
        self._storage.close()
        for client in self._clients:
            client.close()
        super().tearDown()

    def _new_storage_client(self):
        client = ClientStorage(self.server.address, wait=1, cache_size=2 << 20,
                               wait_timeout=harness.HANG)
        client.registerDB(testZEO.DummyDB())
        return client


@suite
class TestStorage(
        ServerTestCase,
        BasicStorage.BasicStorage,
        Synchronization.SynchronizedStorage,
        MTStorage.MTStorage,
        CommitLockTests.CommitLockVoteTests,
        ThreadTests.ThreadTests,
        ConflictResolution.ConflictResolvingStorage,
        RevisionStorage.RevisionStorage,
        testZEO.MiscZEOTests):
    """What ZEO's GenericTests and FullGenericTests run."""


# The race tests are inherited by BasicStorage; they have classes of their own.
for _name in dir(RaceTests):
    if _name.startswith("test"):
        setattr(TestStorage, _name, None)


@suite
class TestStorageMsgpack(
        ServerTestCase,
        BasicStorage.BasicStorage,
        ConflictResolution.ConflictResolvingStorage,
        RevisionStorage.RevisionStorage):
    """The same in the other encoding."""

    msgpack = True


@suite
class TestStorageS3(
        ServerTestCase,
        BasicStorage.BasicStorage,
        MTStorage.MTStorage,
        ConflictResolution.ConflictResolvingStorage,
        RevisionStorage.RevisionStorage):
    """The same over S3."""

    bucket_kind = "s3"


for _name in dir(RaceTests):
    if _name.startswith("test"):
        setattr(TestStorageMsgpack, _name, None)
        setattr(TestStorageS3, _name, None)


def _race_tests(kind, msgpack=False):
    class Races(ServerTestCase, RaceTests):
        bucket_kind = kind
    Races.msgpack = msgpack
    for name in dir(RaceTests):
        if not name.startswith("test"):
            continue
        setattr(Races, name, None)
        # Those that ZODB marks as long run once unless more are asked for.
        long = getattr(getattr(RaceTests, name), "level", 1) > 1
        for n in range(REPEAT or (1 if long else 2)):
            def test(self, name=name):
                getattr(RaceTests, name)(self)
            setattr(Races, f"{name}_{n}", test)
    return Races


class TestRaces(_race_tests("directory")):
    """ZODB's race tests over a directory."""


class TestRacesMsgpack(_race_tests("directory", msgpack=True)):
    """ZODB's race tests in the other encoding."""


class TestRacesS3(_race_tests("s3")):
    """ZODB's race tests over S3."""


class _Connections(ZEO.tests.ConnectionTests.CommonSetupTearDown):
    """ZEO's connection tests, which start and stop the server themselves."""

    bucket_kind = "directory"
    gateway = None

    def setUp(self):
        self.directory = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(harness.remove, self.directory)
        self.running = {}
        self.buckets = {}
        super().setUp()

    def _getAddr(self):
        return "127.0.0.1", harness.free_port()

    def startServer(self, create=1, index=0, read_only=0, ro_svr=0, keep=None,
                    path=None, **kw):
        assert not (read_only or ro_svr), "this server has no such option"
        if self.addr[index][1] == 0:
            self.addr[index] = self._getAddr()
        # A server at another address with the same path serves the same database.
        key = path or f"{self.file}.{index}"
        if create and index not in self.running or key not in self.buckets:
            self.buckets[key] = harness.Bucket(
                self.bucket_kind, self.directory, self.gateway)
        server = harness.Server(
            self.directory / f"server-{len(self._servers)}-{len(self.running)}",
            self.buckets[key], listen="%s:%d" % self.addr[index])
        server.start()
        self.running[index] = server
        stop = self._stopper(server)
        if index < len(self._servers):
            self._servers[index] = stop
        else:
            while len(self._servers) < index:
                self._servers.append(lambda: None)
            self._servers.append(stop)

    def _stopper(self, server):
        def stop():
            server.stop()
            server.check_log()
        return stop


@suite
class TestConnections(_Connections, ZEO.tests.ConnectionTests.ConnectionTests):
    """Caches, bad messages, several addresses."""


@suite
class TestInvalidations(_Connections, InvalidationTests.InvalidationTests):
    """Many clients insert into one tree at the same time."""

    MINTIME = 3


@suite
class TestReconnections(_Connections):
    """Those of ZEO's reconnection tests that need no special server."""

    keep = 1
    _all = ZEO.tests.ConnectionTests.ReconnectionTests
    checkReconnectWritable = _all.checkReconnectWritable
    checkNoVerificationOnServerRestart = _all.checkNoVerificationOnServerRestart
    checkNoVerificationOnServerRestartWith2Clients = (
        _all.checkNoVerificationOnServerRestartWith2Clients)
    checkDisconnectedAbort = _all.checkDisconnectedAbort
    checkReconnection = _all.checkReconnection
    checkMultipleServers = _all.checkMultipleServers
    checkQuickVerificationWith2Clients = (
        ZEO.tests.ConnectionTests.InvqTests.checkQuickVerificationWith2Clients)
    del _all


class TestUpdatesPersist(ServerTestCase, PersistentStorage.PersistentStorage):
    """What was stored is there for the next client."""

    def open(self, **kw):
        self._storage = self._new_storage_client()
