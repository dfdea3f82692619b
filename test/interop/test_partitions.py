"""Several databases in one set of servers, each with a leader of its own, and
transactions over two of them."""

import threading

import harness
import pytest
import transaction
import ZODB
from harness import status, wait_until
from persistent.mapping import PersistentMapping
from ZEO.Exceptions import ClientDisconnected
from ZODB.POSException import POSKeyError, StorageError

pytestmark = [
    pytest.mark.s3storage,
    pytest.mark.skipif(harness.FOLLOWER, reason="the leader there is none of the test's servers"),
]

# References go from main to archive, which sorts before it: so it is committed first.
NAMES = "archive", "main"


@pytest.fixture(params=["directory", "s3"])
def buckets(request, new_bucket):
    return {name: new_bucket(request.param) for name in NAMES}


@pytest.fixture
def open_both(open_storage):
    """A function that opens main, with archive beside it, at one of the addresses."""
    opened = []

    def open_both(*servers):
        databases = {}
        for name in NAMES:
            storage = open_storage([server.address for server in servers], storage=name)
            databases[name] = ZODB.DB(storage, database_name=name, databases=databases)
        opened.extend(databases.values())
        return databases["main"]
    yield open_both
    transaction.abort()
    for db in opened:
        db.close()


def leaders(buckets, servers):
    """Which of the servers lead the databases; None where none does."""
    found = {}
    for name, bucket in buckets.items():
        code, text = status(bucket, name)
        led_by = [line for line in text.splitlines() if line.startswith("leader by the log")]
        found[name] = next((server for server in servers if code == 0 and led_by[0].endswith(" " + server.host_port)), None)
    return found


class Writer(threading.Thread):
    """Commits into both databases, in one transaction each time.

    An object of main refers to a new one in archive, which nothing else refers to."""

    def __init__(self, db, key):
        super().__init__(daemon=True)
        self.db, self.key = db, key
        self.tried = self.committed = 0
        self.unexpected = None
        self.stop = threading.Event()

    def run(self):
        manager = transaction.TransactionManager()
        while not self.stop.is_set():
            self.tried += 1
            try:
                self.commit(manager)
                self.committed = self.tried
            except (transaction.interfaces.TransientError, ClientDisconnected, StorageError):
                manager.abort()
            except Exception as e:
                self.unexpected = e
                return

    def commit(self, manager):
        manager.begin()
        connection = self.db.open(manager)
        try:
            archive = connection.get_connection("archive")
            target = PersistentMapping({"n": self.tried})
            archive.add(target)
            for root in connection.root(), archive.root():
                root[self.key]["n"] = self.tried
            connection.root()[self.key]["target"] = target
            manager.commit()
        finally:
            manager.abort()
            connection.close()

    def check(self, db):
        """What was acknowledged is in both, and what was not is whole in each."""
        assert self.unexpected is None, self.unexpected
        with db.transaction() as connection:
            page = connection.root()[self.key]
            noted = connection.get_connection("archive").root()[self.key]["n"]
            assert self.committed <= page["n"] <= noted <= self.tried
            assert page["target"]["n"] == page["n"]
            assert page["target"]._p_jar.db().database_name == "archive"


@pytest.fixture
def writers(open_both):
    """A function that has one writer at each of the servers write, until the end of the test."""
    started = []

    def writers(servers):
        for n, server in enumerate(servers):
            # Its own server comes first; which one it uses is ZEO's to choose.
            writer = Writer(open_both(server, *servers), f"writer {n}")
            with writer.db.transaction() as connection:
                for root in connection.root(), connection.get_connection("archive").root():
                    root[writer.key] = PersistentMapping({"n": 0})
            started.append(writer)
        for writer in started:
            writer.start()
        return started
    yield writers
    for writer in started:
        writer.stop.set()
    for writer in started:
        writer.join(harness.HANG)


def go_on(writers):
    """Wait until all of them have committed some more."""
    before = [writer.committed for writer in writers]
    wait_until("all go on", lambda: all(w.committed > b + 3 or w.unexpected for w, b in zip(writers, before)))


def end(writers):
    for writer in writers:
        writer.stop.set()
    for writer in writers:
        writer.join(harness.HANG)
        assert not writer.is_alive()


def test_leads_are_spread_and_two_databases_commit_together(buckets, new_server, open_both, writers):
    servers = [new_server(buckets, pack_gc=False) for _ in range(3)]
    assert set(leaders(buckets, servers).values()) == {servers[0]}  # it was the first
    writing = writers(servers)
    go_on(writing)
    for server in servers[0], servers[1]:  # as an upgrade does it
        server.restart()
        wait_until("all have leaders", lambda: None not in leaders(buckets, servers).values())
        go_on(writing)
    assert len(set(leaders(buckets, servers).values())) == len(buckets)

    killed = leaders(buckets, servers)["main"]
    killed.kill()
    living = [server for server in servers if server is not killed]
    go_on(writing)
    assert set(leaders(buckets, living).values()) <= set(living)
    end(writing)
    db = open_both(*living)
    for writer in writing:
        writer.check(db)

    # Nothing in archive itself refers to the targets.
    db.databases["archive"].pack()
    fresh = open_both(*reversed(living))
    for writer in writing:
        writer.check(fresh)
    killed.start()
    fresh = open_both(killed)
    for writer in writing:
        writer.check(fresh)


@pytest.mark.parametrize("pack_gc", [False, True])
def test_only_a_pack_without_garbage_collection_keeps_what_another_database_refers_to(
        pack_gc, buckets, new_server, open_both):
    server = new_server(buckets, pack_gc=pack_gc, arguments=["--pack-grace", "0s"])
    db = open_both(server)
    with db.transaction() as connection:
        archive = connection.get_connection("archive")
        target = PersistentMapping({"n": 1})
        archive.add(target)
        connection.root()["target"] = target
    for n in 2, 3:  # so that there is something to drop
        with db.transaction() as connection:
            connection.root()["target"]["n"] = n
    oid = target._p_oid
    for each in db.databases.values():
        each.pack()
    with open_both(server).transaction() as connection:
        if pack_gc:
            with pytest.raises(POSKeyError):
                connection.root()["target"]["n"]
        else:
            assert connection.root()["target"]["n"] == 3
            assert connection.root()["target"]._p_oid == oid


def test_a_conflict_in_one_database_leaves_the_other_as_it_was(buckets, new_server, open_both):
    servers = [new_server(buckets) for _ in range(2)]
    first, second = open_both(servers[0]), open_both(servers[1])
    with first.transaction() as connection:
        for root in connection.root(), connection.get_connection("archive").root():
            root["n"] = 0

    def state(db):
        with db.transaction() as connection:
            return connection.root().get("n"), connection.get_connection("archive").root().get("n")
    wait_until("the second one sees it", lambda: state(second) == (0, 0))
    with pytest.raises(transaction.interfaces.TransientError):
        with first.transaction() as connection:
            for root in connection.root(), connection.get_connection("archive").root():
                root["n"] += 1
            with second.transaction() as other:
                other.root()["n"] = 10
    wait_until("the first one sees the other's", lambda: state(first)[0] == 10)
    for db in first, second:
        assert state(db) == (10, 0)
