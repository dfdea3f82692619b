"""What those who run a server see of it by HTTP."""

import re

import harness
import pytest
import wire
from harness import get, wait_until

pytestmark = pytest.mark.s3storage


def metrics(address):
    code, text = get(address, "/metrics")
    assert code == 200
    return {name: float(value) for name, value in re.findall(r"^(s3storage_\S+) (\S+)$", text, re.M)}


def stages(address, stage):
    """How many transactions have come by a stage."""
    return metrics(address)[f's3storage_commit_stage_duration_seconds_count{{stage="{stage}",storage="1"}}']


@pytest.fixture
def watched(bucket, new_server):
    """A function that starts a server over the bucket, and returns it and where it shows its metrics."""
    def new(**options):
        server = new_server(bucket, arguments=["--http", "127.0.0.1:0"] + options.pop("arguments", []), **options)
        [address] = re.findall(r"url=http://(\S+)/metrics", server.stderr())
        return server, address
    return new


def test_a_leader_and_its_follower_are_ready_and_count(watched, open_db):
    (first, at_first), (second, at_second) = watched(), watched()
    for address in at_first, at_second:
        wait_until("it is ready", lambda: get(address, "/readyz") == (200, "ok\n"))
        assert get(address, "/healthz") == (200, "ok\n")
        assert get(address, "/debug/pprof/goroutine?debug=1")[1].startswith("goroutine profile:")
    before = metrics(at_first)["s3storage_commits_total{storage=\"1\"}"]
    db = open_db(second)
    for n in range(3):
        with db.transaction() as connection:
            connection.root()["n"] = n
    leader, follower = metrics(at_first), metrics(at_second)
    storage = '{storage="1"}'
    if harness.FOLLOWER:  # both follow another one
        assert not leader["s3storage_leads" + storage]
    else:
        assert leader["s3storage_leads" + storage] == 1
        assert leader["s3storage_followers" + storage] == 1
        puts = '{operation="put-if-absent",storage="1"}'
        assert leader["s3storage_bucket_requests_total" + puts] > 0
        assert leader["s3storage_bucket_price_usd_total" + puts] > 0
        assert leader["s3storage_commits_total" + storage] >= before + 3
        for stage in "locks", "judge", "client", "queue", "put", "apply":
            wait_until(f"the commits have come by the stage {stage}", lambda stage=stage: stages(at_first, stage) >= 3)
        assert 0 < leader["s3storage_unflushed_bytes" + storage] < leader["s3storage_unflushed_limit_bytes" + storage]
        for stage in "leader-vote", "leader-finish":
            wait_until(f"the commits have come by the stage {stage}", lambda stage=stage: stages(at_second, stage) >= 3)
        assert stages(at_second, "put") == 0
    assert follower["s3storage_leads" + storage] == 0
    assert follower["s3storage_linked" + storage] == 1
    assert follower["s3storage_commits_total" + storage] >= 3
    assert follower["s3storage_stores_total" + storage] >= 3
    assert follower["s3storage_connections" + storage] >= 1
    assert follower["s3storage_log_epoch" + storage] == leader["s3storage_log_epoch" + storage] >= 1


@pytest.mark.skipif(harness.FOLLOWER, reason="the leader there takes the cache's directory")
def test_caches_count_what_they_have_and_what_they_have_not(watched, open_db, tmp_path):
    arguments = ["--cache-dir", str(tmp_path / "cache"), "--flush-bytes", "1KiB"]
    first, _ = watched(arguments=arguments)
    db = open_db(first)
    with db.transaction() as connection:
        for n in range(100):
            connection.root()[n] = "some text of page %d" % n
    db.close()
    first.stop()
    first.start()  # it has nothing in memory now
    [address] = re.findall(r"url=http://(\S+)/metrics", first.stderr())[-1:]

    def cached(what, cache):
        return metrics(address)[f's3storage_cache_{what}{{cache="{cache}",storage="1"}}']
    before = cached("misses_total", "memory")
    with open_db(first).transaction() as connection:
        assert len(connection.root()) == 100
    assert cached("misses_total", "memory") > before
    hits = cached("hits_total", "memory")
    with wire.Connection(first.address) as connection:
        connection.register()
        connection.call("loadBefore", bytes(8), wire.maxtid)
    assert cached("hits_total", "memory") > hits
    for cache, limit in ("memory", 64 << 20), ("disk", 1 << 30):
        assert 0 < cached("bytes", cache) < cached("limit_bytes", cache) == limit
    assert cached("misses_total", "disk") > 0
    first.stop()
    first.start()
    [address] = re.findall(r"url=http://(\S+)/metrics", first.stderr())[-1:]
    with wire.Connection(first.address) as connection:
        connection.register()
        connection.call("loadBefore", bytes(8), wire.maxtid)
    assert cached("hits_total", "disk") > 0


@pytest.mark.skipif(harness.FOLLOWER, reason="the leader there outlives the test's server")
def test_a_server_for_reading_that_has_lost_its_leader_is_not_ready(watched):
    (first, _), (reader, address) = watched(), watched(read_only=True)
    wait_until("it follows", lambda: get(address, "/readyz")[0] == 200)
    first.stop()
    wait_until("it waits", lambda: get(address, "/readyz")[0] == 503)
    assert "storage 1: " in get(address, "/readyz")[1]
    assert get(address, "/healthz") == (200, "ok\n")
    first.start()
    wait_until("it follows again", lambda: get(address, "/readyz")[0] == 200)


def test_an_address_that_is_taken_is_refused_with_a_reason(new_bucket, new_server, watched):
    _, address = watched()
    other = new_server(new_bucket("directory"), start=False, arguments=["--http", address])
    other.spawn()
    process, other.process = other.process, None
    assert process.wait(harness.HANG) != 0
    assert f"--http {address}" in other.stderr()
