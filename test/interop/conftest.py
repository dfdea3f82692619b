import contextlib
import os
import warnings

import harness
import pytest
import transaction
import ZEO.ClientStorage
import ZODB

warnings.filterwarnings("ignore", category=DeprecationWarning)


def pytest_collection_modifyitems(items):
    if harness.REFERENCE:
        skip = pytest.mark.skip(reason="not a matter of the reference server")
        for item in items:
            if item.get_closest_marker("s3storage"):
                item.add_marker(skip)


@pytest.fixture(scope="session")
def gateway(tmp_path_factory):
    """The S3 server, one for all tests of this process."""
    gateway = harness.Gateway(tmp_path_factory.mktemp("gateway"))
    yield gateway
    gateway.stop()


@pytest.fixture(scope="session")
def catalog(tmp_path_factory):
    """The PostgreSQL server, one for all tests of this process."""
    catalog = harness.Catalog(tmp_path_factory.mktemp("catalog"))
    yield catalog
    catalog.stop()


@pytest.fixture
def new_bucket(tmp_path, request):
    """A function that makes fresh buckets of a kind."""
    def new(kind="directory"):
        if kind == "s3":
            if harness.REFERENCE:
                pytest.skip("the reference server knows no S3")
            return harness.Bucket("s3", tmp_path, request.getfixturevalue("gateway"))
        if kind == "eventual":
            if harness.REFERENCE:
                pytest.skip("the reference server knows no catalog")
            return harness.Bucket("eventual", tmp_path, request.getfixturevalue("catalog"))
        return harness.Bucket("directory", tmp_path)
    return new


@pytest.fixture(params=["directory", "s3"])
def bucket(request, new_bucket):
    """A fresh bucket; the test runs once for each kind."""
    return new_bucket(request.param)


@pytest.fixture
def new_server(tmp_path):
    """A function that starts servers, which end with the test."""
    servers = []

    def new(storages, start=True, **options):
        server = harness.Server(tmp_path / f"server-{len(servers)}", storages, **options)
        servers.append(server)
        return server.start() if start else server
    yield new
    with contextlib.ExitStack() as stack:
        for server in servers:
            stack.callback(server.check_log)
            stack.callback(server.stop)


@pytest.fixture
def server(bucket, new_server):
    """A server over a fresh bucket; the test runs once for each kind of bucket."""
    return new_server(bucket)


@pytest.fixture(params=[False, True], ids=["Z5", "M5"])
def served(request, new_bucket, new_server):
    """A server over a directory, speaking each of the two encodings.

    What its packs drop is gone at once, as with the reference server.
    """
    return new_server(new_bucket("directory"), msgpack=request.param,
                      arguments=["--pack-grace", "0s"])


@pytest.fixture
def directory_server(new_bucket, new_server):
    """A server over a fresh directory, where the kind of bucket is no matter."""
    return new_server(new_bucket("directory"))


class _DB:
    """What a storage wants of a database, for tests that need none."""

    def invalidate(self, *args, **kw):
        pass

    def invalidateCache(self):
        pass

    transform_record_data = untransform_record_data = staticmethod(lambda data: data)


@pytest.fixture
def open_storage():
    """A function that opens client storages, which close with the test."""
    storages = []

    def open_storage(server, **options):
        options.setdefault("wait_timeout", harness.HANG)
        # A cache takes up its whole size on disk at once.
        options.setdefault("cache_size", 2 << 20)
        address = getattr(server, "address", server)
        storage = ZEO.ClientStorage.ClientStorage(address, **options)
        storages.append(storage)
        storage.registerDB(_DB())
        return storage
    yield open_storage
    transaction.abort()
    for storage in reversed(storages):
        storage.close()


@pytest.fixture
def open_db(open_storage):
    """A function that opens databases, which close with the test."""
    databases = []

    def open_db(server, db_options=None, **options):
        db = ZODB.DB(open_storage(server, **options), **(db_options or {}))
        databases.append(db)
        return db
    yield open_db
    transaction.abort()
    for db in reversed(databases):
        db.close()


@pytest.fixture(autouse=True)
def clean_transaction():
    transaction.abort()
    yield
    transaction.abort()


@pytest.fixture(autouse=True)
def in_own_directory(tmp_path, monkeypatch):
    """Clients that leave files behind leave them there."""
    home = tmp_path / "cwd"
    home.mkdir()
    monkeypatch.chdir(home)
    os.environ.pop("ZEO_MSGPACK", None)
