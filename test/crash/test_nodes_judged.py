"""What the test of many nodes looks at while it goes on can fail: on made-up evidence."""

import threading
import types

import disturbances
import judge
import node_reads
import pytest
import zodb_load

OIDS = ["0" * 15 + n for n in "123"]
TREE = "0" * 15 + "9"


class _Object(dict):

    def __init__(self, oid, **state):
        super().__init__(state)
        self._p_oid = bytes.fromhex(oid)


class _Connection:
    """A client's connection to a database in which the tree of client 1 and its objects
    are of these transactions."""

    def __init__(self, tree, *things):
        things = [_Object(oid, client=1, seq=seq) for oid, seq in zip(OIDS, things)]
        value = {oid: 4 for oid in OIDS}
        self.tree = _Object(TREE, client=1, seq=tree, refs=things, value=value)

    def get(self, oid):
        assert oid == self.tree._p_oid
        return self.tree

    def db(self):
        return types.SimpleNamespace(storage=types.SimpleNamespace(node=lambda: "a node"))


@pytest.mark.parametrize("number, tree, things, said", [
    (1, 7, (4, 4, 4), None),
    (2, 7, (4, 4, 4), None),
    (2, 6, (4, 4, 4), "time runs backwards"),
    (1, 6, (4, 4, 4), "was acknowledged"),
    (2, 7, (4, 3, 4), "torn"),
    (2, 7, (4, 4, 5), "torn"),
])
def test_a_client_sees_what_may_not_be(tmp_path, number, tree, things, said):
    client = zodb_load.Client(number, dict(
        addresses=[], counters=[], trees=["", TREE], directory=tmp_path, seed=1),
        threading.Event())
    client.seen[1] = client.acknowledged = 7
    client.compare(_Connection(tree, *things), 1)
    reader = node_reads.Ledger(tmp_path)
    reader.update()
    if said is None:
        assert not reader.complaints
    else:
        assert reader.complaints and said in "".join(reader.complaints)


@pytest.fixture
def disturber():
    run = types.SimpleNamespace(random=None, findings=judge.Findings())
    return disturbances.Disturber(run)


def _node(name):
    return types.SimpleNamespace(directory=types.SimpleNamespace(name=name), address=(name, 1))


def test_a_read_that_fails_counts_at_a_node_to_which_nothing_was_done(disturber):
    killed, lived = _node("killed"), _node("lived")
    event = disturbances.Disturbance("killed", [killed])
    disturber.done.append(event)
    at = event.start + 1
    for node, error in ((lived, None), (killed, "closed"), (lived, "closed")):
        disturber.was_read(node, at, error)
    assert (event.reads, event.failed) == (2, ["lived: closed"])
    event.end = at + 1
    disturber.failed_look(killed.address, at, "closed")
    assert len(event.failed) == 1
    disturber.failed_look(lived.address, at, "closed")
    assert len(event.failed) == 2
    assert not disturber.run.findings
    disturber.was_read(lived, at + 2, "closed")
    disturber.failed_look(lived.address, at + 2, "closed")
    assert disturber.run.findings.count("complaint") == 2


def test_the_longest_time_without_commits_is_that_of_all_clients(disturber):
    event = disturbances.Disturbance("killed", [])
    event.start, event.end = 10, 20
    disturber.run.ledger = node_reads.Ledger("")
    for number, at in enumerate((1, 9, 11, 17.5, 12, 19, 21, 40)):
        disturber.run.ledger.acks[number] = types.SimpleNamespace(at=at)
    assert disturber.gap(event) == 5.5
