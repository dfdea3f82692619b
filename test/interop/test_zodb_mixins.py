"""Tests of ZODB's for any storage that ZEO's suites leave out; its race tests, often.

test_zodb_suites.py runs the race tests once for each of its classes. Here they
run as often as RACETEST_REPEAT says, over a directory, in the other encoding,
and over S3.
"""

import os
import pathlib
import tempfile

import harness
import pytest
import transaction
from ZEO.ClientStorage import ClientStorage
from ZEO.tests import testZEO
from ZODB.tests import HistoryStorage
from ZODB.tests import IteratorStorage
from ZODB.tests import PersistentStorage
from ZODB.tests import StorageTestBase
from ZODB.tests.racetest import RaceTests

REPEAT = int(os.environ.get("RACETEST_REPEAT", "1"))


@pytest.fixture(autouse=True)
def use_gateway(request):
    """Hands the session's S3 gateway to the TestCase that wants one."""
    if getattr(request.cls, "bucket_kind", None) == "s3":
        if harness.REFERENCE:
            pytest.skip("the reference server knows no S3")
        request.cls.gateway = request.getfixturevalue("gateway")


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


class TestMore(
        ServerTestCase,
        HistoryStorage.HistoryStorage,
        IteratorStorage.ExtendedIteratorStorage,
        PersistentStorage.PersistentStorage):
    """History, parts of the database by tid, and what the next client finds."""

    def open(self, **kw):
        self._storage = self._new_storage_client()


class TestMoreMsgpack(TestMore):
    msgpack = True


class TestMoreS3(TestMore):
    bucket_kind = "s3"


def _race_tests(kind, msgpack=False):
    class Races(ServerTestCase, RaceTests):
        bucket_kind = kind
    Races.msgpack = msgpack
    for name in dir(RaceTests):
        if not name.startswith("test"):
            continue
        setattr(Races, name, None)
        for n in range(REPEAT):
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
