"""ZODB's and ZEO's own test suites on this server, as they are installed.

forker.py starts s3storage where they start ZEO's server. All else is theirs.
Some of their tests start no server; they run too, as they are quick.

SUITES_BUCKET=s3 runs everything over S3, and not only what S3 lists.
"""

import fnmatch
import os
import unittest

import forker
import harness
import pytest
from as_user import permissions_hold
from suites_left_out import LEFT_OUT
from ZEO.tests import test_client_side_conflict_resolution
from ZEO.tests import test_sync
from ZEO.tests import testConnection
from ZEO.tests import testssl
from ZEO.tests import testZEO

# What runs over S3 and in the other encoding, besides a directory and pickles.
S3 = ["*"] if os.environ.get("SUITES_BUCKET") == "s3" else []
MSGPACK = []


def cases(suite, layer=None):
    """The tests of a suite, each with the layer that it asks for."""
    layer = getattr(suite, "layer", layer)
    if isinstance(suite, unittest.TestSuite):
        for inner in suite:
            yield from cases(inner, layer)
    else:
        yield suite, layer


def all_cases():
    """Fresh tests by name; most can run only once."""
    load = unittest.defaultTestLoader.loadTestsFromModule
    named = {}
    for suite in (testZEO.test_suite(), testConnection.test_suite(),
                  testssl.test_suite(), load(test_sync),
                  load(test_client_side_conflict_resolution)):
        for case, layer in cases(suite):
            name = case.id().removeprefix("ZEO.tests.").removeprefix("ZODB.tests.")
            if layer is not None and layer.__name__.endswith("BlobTests"):
                # The same doctests run for two storages.
                name = f"{layer.__name__}.{name.removeprefix('testblob.')}"
            assert name not in named, name
            named[name] = case, layer
    return named


def matches(name, patterns):
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def variants():
    for kind, msgpack, wanted in (("directory", False, ["*"]), ("s3", False, S3),
                                  ("directory", True, MSGPACK)):
        for name, (case, layer) in all_cases().items():
            if matches(name, wanted) and not matches(name, LEFT_OUT):
                yield pytest.param(
                    kind, msgpack, case, layer,
                    id="-".join([name, kind] + ["msgpack"] * msgpack))


@pytest.mark.parametrize("kind, msgpack, case, layer", list(variants()))
def test_suite(kind, msgpack, case, layer, tmp_path, request, monkeypatch):
    gateway = None
    if kind == "s3":
        if harness.REFERENCE:
            pytest.skip("the reference server knows no S3")
        gateway = request.getfixturevalue("gateway")
    server = forker.Forker(tmp_path, kind, gateway, msgpack)
    server.install(monkeypatch)
    request.addfinalizer(server.close)
    if hasattr(layer, "testSetUp"):
        layer.testSetUp()
        request.addfinalizer(layer.testTearDown)
    result = unittest.TestResult()
    with permissions_hold():
        case.run(result)
    for _, text in result.failures + result.errors:
        pytest.fail(text, pytrace=False)
    for _, reason in result.skipped:
        pytest.skip(reason)


def test_what_is_left_out_exists():
    names = all_cases()
    for pattern in LEFT_OUT:
        assert any(fnmatch.fnmatchcase(name, pattern) for name in names), pattern
