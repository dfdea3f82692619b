"""What the program shows of a database that a real ZODB has made."""

import harness
import pytest
import transaction
from BTrees.OOBTree import OOBTree
from persistent.mapping import PersistentMapping
from ZODB.blob import Blob
from ZODB.utils import u64

pytestmark = pytest.mark.s3storage


@pytest.fixture
def made(directory_server, open_db, tmp_path):
    """The bucket of a database, and oids of a tree, a mapping and a blob."""
    db = open_db(directory_server, blob_dir=str(tmp_path / "blobs"))
    connection = db.open()
    root = connection.root()
    root["tree"] = OOBTree({f"key {i:05}": i for i in range(200)})
    root["mapping"] = PersistentMapping({"a": "first"})
    root["blob"] = Blob(b"content of the blob")
    transaction.get().setUser("anna")
    transaction.get().note("made \x1b[2J all")
    transaction.commit()
    root["mapping"]["a"] = "second"
    transaction.get().note("changed")
    transaction.commit()
    oids = {name: u64(root[name]._p_oid) for name in ("tree", "mapping", "blob")}
    connection.close()
    bucket, = directory_server.storages.values()
    return bucket, oids


@pytest.mark.parametrize("stopped", [False, True], ids=["in the log", "in segments"])
def test_a_database_is_shown_and_checked(made, directory_server, stopped):
    bucket, oids = made
    if stopped:
        directory_server.stop()

    log = harness.tool("log", bucket.url, "--reverse", "--limit", 2).splitlines()
    assert len(log) == 2
    assert '"changed"' in log[0] and " 1 records " in log[0]
    assert '"made \\x1b[2J all"' in log[1] and "anna" in log[1]

    classes = {line.split()[-1]: line.split()[:-1]
               for line in harness.tool("ls", bucket.url).splitlines()[1:]}
    assert classes["ZODB.blob.Blob"][0] == "1"
    assert classes["BTrees.OOBTree.OOBTree"][0] == "1"
    current, _, revisions, _ = classes["persistent.mapping.PersistentMapping"]
    assert int(current) == 2 and int(revisions) >= 4

    history = harness.tool("history", bucket.url, oids["mapping"]).splitlines()
    assert len(history) == 2 and '"changed"' in history[0]
    first = history[1].split()[0]
    assert "'second'" in harness.tool("show", bucket.url, oids["mapping"])
    then = harness.tool("show", bucket.url, f"{oids['mapping']:#x}", "--at", first)
    assert "'first'" in then and "until revision" in then
    assert "blob of 19 bytes" in harness.tool("show", bucket.url, f"{oids['blob']:016x}")
    assert "OOBTree" in harness.tool("show", bucket.url, oids["tree"])

    assert "no damage" in harness.tool("check", bucket.url)
    assert "no damage" in harness.tool("check", "--full", bucket.url)


def test_check_tells_damage_by_its_exit_status(made, directory_server, tmp_path):
    bucket, _ = made
    directory_server.stop()
    path, = bucket.objects("segment")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    said = harness.tool("check", "--full", bucket.url, status=1)
    assert f"segment/{path.name}" in said and "DAMAGE" in said
    harness.tool("check", tmp_path / "nothing", status=2)
