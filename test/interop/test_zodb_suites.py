"""ZODB's and ZEO's own test suites on this server, as they are installed.

forker.py starts s3storage where they start ZEO's server. All else is theirs;
suites_left_out.py says what does not apply. Everything runs over a directory,
and a selection over S3, with msgpack, and over an eventually consistent store with
a catalog as well. SUITES_BUCKET=s3 or eventual runs everything over those.
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

# One class that has nearly everything, without the long race tests, which
# test_zodb_mixins.py has for all kinds of buckets.
SELECTION = [
    "testZEO.BlobAdaptedFileStorageTests.check*",
    "testZEO.BlobAdaptedFileStorageTests.test[!_]*",
    "testZEO.FileStorageRecoveryTests.*",
    "testZEO.ZRPCConnectionTests.*",
    "ClientStorageNonSharedBlobsBlobTests.*",
    "IExternalGC_test",
    "nagios_rst",
    "zeo-fan-out_test",
    "testConnection.FileStorageReconnectionTests.checkMultipleServers",
]

# What is left to a store that shows nothing at once, in little time.
EVENTUAL_SELECTION = [
    "testZEO.BlobAdaptedFileStorageTests.check[LMPU]*",
    "testZEO.FileStorageRecoveryTests.*",
    "ClientStorageNonSharedBlobsBlobTests.ClientStorageNonSharedBlobsBlobUndoTests.*",
]


def wanted(kind, selection):
    """What runs over a kind of bucket."""
    return ["*"] if os.environ.get("SUITES_BUCKET") == kind else selection


VARIANTS = [
    # kind of bucket, msgpack, what runs
    ("directory", False, ["*"]),
    ("directory", True, SELECTION),
    ("s3", False, wanted("s3", SELECTION)),
    ("eventual", False, wanted("eventual", EVENTUAL_SELECTION)),
]

# What takes ten seconds and more begins first, so that it does not end last.
SLOW = ["*.test_race_external_invalidate_vs_disconnect", "*.checkConcurrent*"]


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
    params = []
    for kind, msgpack, wanted in VARIANTS:
        for name, (case, layer) in all_cases().items():
            if matches(name, wanted) and not matches(name, LEFT_OUT):
                variant = "msgpack" if msgpack else kind
                params.append((not matches(name, SLOW), pytest.param(
                    kind, msgpack, case, layer, id=f"{name}-{variant}")))
    params.sort(key=lambda param: param[0])
    return [param for _, param in params]


@pytest.mark.parametrize("kind, msgpack, case, layer", variants())
def test_suite(kind, msgpack, case, layer, tmp_path, request, monkeypatch):
    gateway = None
    if kind != "directory":
        if harness.REFERENCE:
            pytest.skip("the reference server knows no S3, and no catalog")
        gateway = request.getfixturevalue("gateway" if kind == "s3" else "catalog")
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
