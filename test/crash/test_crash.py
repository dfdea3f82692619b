"""The crash tests in short form, and the proof that they can fail.

`make crash-long`, `make crash-commands` and `make nodes-long` run them at length.
"""

import pathlib
import subprocess
import sys

import commands
import crash
import judge
import ledger
import pytest

pytestmark = pytest.mark.s3storage


def _run(capsys, *arguments):
    code = crash.main(list(arguments))
    output = capsys.readouterr().out
    print(output)  # for the report, should this fail
    return code, output


@pytest.mark.parametrize("arguments", [
    "--kills 6 --bucket dir",
    "--kills 4 --bucket s3",
    "--kills 4 --bucket dir --inject all",
    "--kills 2 --bucket s3 --inject all",
    "--kills 4 --bucket dir --fight",
    "--kills 2 --bucket s3 --fight",
    "--kills 2 --bucket dir --fight --inject all",
])
def test_nothing_is_lost_torn_or_given_twice(capsys, arguments):
    code, output = _run(capsys, *arguments.split())
    assert code == 0, output


def test_a_command_that_was_killed_does_its_work_when_it_is_run_again():
    commands.main(["--kills", "1", "--transactions", "40"])


@pytest.mark.timeout(900)
@pytest.mark.parametrize("arguments", [
    "--bucket s3 --lease memcached --seed 7",
    "--bucket dir --lease postgres --seed 7 --only lease",
])
def test_nodes_that_are_disturbed_lose_nothing(arguments):
    """Each kind of disturbance once. In a process of its own, for it has a network of
    its own where the machine allows it."""
    nodes = pathlib.Path(__file__).with_name("nodes.py")
    done = subprocess.run([sys.executable, nodes, *arguments.split()], text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    print(done.stdout)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("tamper, expected", [
    ("lose", "lost"), ("tear", "partial"), ("repeat", "duplicate"), ("swap", "lost"),
    ("not-undone", "undone"), ("no-blob", "blob"), ("other-blob", "blob"),
    ("half-pack", "half")])
def test_the_crash_test_fails_where_it_has_to(capsys, tamper, expected):
    code, output = _run(capsys, "--kills", "1", "--tamper", tamper)
    assert code == 1, output
    assert f"{expected} (" in output, output


# The judgement alone, on made-up evidence.

COUNTER = "c0"
TREES = {1: "t1", 2: "t2"}


def _reader(tmp_path, events):
    """A reader of a ledger with these (client, event)."""
    for client, event in events:
        ledger.Writer(tmp_path / f"client-{client}.jsonl").write(**event)
    reader = ledger.Reader(tmp_path)
    reader.update()
    return reader


def _attempt(client, seq, oids, at, **more):
    return client, {"a": seq, "oids": oids, "counter": None, "at": at, **more}


def _ack(client, seq, tid, at, value=None):
    return client, {"k": seq, "tid": tid, "value": value, "at": at}


def _events():
    """The root, then two clients: three transactions and an undo; the outcome
    of one is unknown."""
    return [
        (999, {"o": [COUNTER, *TREES.values()]}),
        _attempt(999, 1, [ledger.ROOT, COUNTER, *TREES.values()], 0.1),
        _ack(999, 1, "10", 0.2),
        (1, {"o": ["a", "b"]}), (2, {"o": ["c", "d"]}),
        _attempt(1, 1, ["a", "b", "t1"], 1.0, counter=0), _ack(1, 1, "11", 2.0, 1),
        _attempt(2, 1, ["c", "d", "t2"], 3.0), _ack(2, 1, "12", 4.0),
        _attempt(1, 2, ["a", "b"], 5.0, counter=0),
        _attempt(2, 2, ["c"], 6.0), (2, {"x": 2}),
        # It makes b garbage, is undone, and made again.
        _attempt(1, 3, ["a", "t1"], 7.0), _ack(1, 3, "14", 8.0),
        _attempt(1, 4, ["a", "t1"], 9.0, then={"a": [1, 1], "t1": [1, 1]}),
        _ack(1, 4, "15", 10.0),
        _attempt(1, 5, ["a", "t1"], 11.0), _ack(1, 5, "16", 12.0),
    ]


def _state(stamp, refs=(), value=None):
    return ledger.State(stamp, value, refs, None)


def _there():
    """The transactions that fit: {tid: (key, {oid: state})}."""
    return {
        "10": ((999, 1), {
            ledger.ROOT: _state((999, 1), (COUNTER, "t1", "t2")),
            COUNTER: _state((999, 1), value=0),
            "t1": _state((999, 1)), "t2": _state((999, 1))}),
        "11": ((1, 1), {
            "a": _state((1, 1)), "b": _state((1, 1)), "t1": _state((1, 1), ("a", "b")),
            COUNTER: _state((1, 1), value=1)}),
        "12": ((2, 1), {
            "c": _state((2, 1)), "d": _state((2, 1)), "t2": _state((2, 1), ("c", "d"))}),
        "14": ((1, 3), {"a": _state((1, 3)), "t1": _state((1, 3), ("a",))}),
        "15": ((1, 4), {"a": _state((1, 1)), "t1": _state((1, 1), ("a", "b"))}),
        "16": ((1, 5), {"a": _state((1, 5)), "t1": _state((1, 5), ("a",))}),
    }


_unknown = {"13": ((1, 2), {"a": _state((1, 2)), "b": _state((1, 2)),
                            COUNTER: _state((1, 2), value=2)})}

# What packs have to drop: to 13, before the undo, and to now. The undo shares
# what it went back to, so that may stay.
PACK_13 = 20, {"p": 1, "tid": "13", "at": 20.0}
PACK_NOW = 20, {"p": 2, "tid": "20", "at": 21.0}
TO_13 = {("10", COUNTER), ("10", "t1"), ("10", "t2")}
DONE_13, DONE_NOW = (20, {"pk": 1}), (20, {"pk": 2})
SHARED = {("11", "a"), ("11", "t1")}
TO_NOW = TO_13 | SHARED | {("11", "b"), ("14", "a"), ("14", "t1"), ("15", "a"), ("15", "t1")}


def _without(there, dropped, packed=""):
    kept = {tid: (key, {oid: state for oid, state in records.items()
                        if (tid, oid) not in dropped})
            for tid, (key, records) in there.items()}
    return [judge.Transaction(tid, key, b"p" if tid <= packed else b" ", records)
            for tid, (key, records) in sorted(kept.items()) if records]


def _judge(tmp_path, events, transactions):
    findings = judge.judge(_reader(tmp_path, events), transactions, [COUNTER])
    return {kind for kind, texts in findings.found.items() if texts}


def test_a_whole_ledger_is_found_whole(tmp_path):
    assert _judge(tmp_path, _events(), _without(_there(), ())) == set()


def test_an_unknown_outcome_may_be_there_as_a_whole(tmp_path):
    assert _judge(tmp_path, _events(), _without(_there() | _unknown, ())) == set()


@pytest.mark.parametrize("missing", ["a", "b", COUNTER])
def test_an_unknown_outcome_may_not_be_there_in_part(tmp_path, missing):
    torn = _without(_there() | _unknown, {("13", missing)})
    assert "partial" in _judge(tmp_path, _events(), torn)


@pytest.mark.parametrize("missing", [
    (tid, oid) for tid, (_, records) in _there().items() for oid in records])
def test_an_acknowledged_object_may_not_be_missing(tmp_path, missing):
    assert "lost" in _judge(tmp_path, _events(), _without(_there(), {missing}))


@pytest.mark.parametrize("missing", _there())
def test_an_acknowledged_transaction_may_not_be_missing(tmp_path, missing):
    there = _there()
    del there[missing]
    assert "lost" in _judge(tmp_path, _events(), _without(there, ()))


@pytest.mark.parametrize("event, kind", [
    ((2, {"o": ["a"]}), "duplicate"),
    ((1, {"o": ["a"]}), "duplicate"),
    ((1, {"v": "two answers"}), "complaint"),
    (_ack(1, 2, "13", 17.0, 2), "lost"),
])
def test_an_event_that_does_not_fit_is_found(tmp_path, event, kind):
    assert kind in _judge(tmp_path, [*_events(), event], _without(_there(), ()))


@pytest.mark.parametrize("tid, key, oid, state, kind", [
    ("17", (2, 2), "c", _state((2, 2)), "undead"),
    ("17", (7, 7), "c", _state((7, 7)), "foreign"),
    ("17", None, "c", _state((2, 1)), "foreign"),
    ("17", (2, 1), "c", _state((2, 1)), "partial"),
    ("12", (2, 1), "c", ledger.DAMAGED, "foreign"),
    ("12", (2, 1), "c", _state((1, 1)), "foreign"),
    ("12", (2, 1), "c", None, "foreign"),
    ("12", (2, 1), "a", _state((2, 1)), "foreign"),
    ("15", (1, 4), "a", _state((1, 3)), "undone"),
    ("15", (1, 4), "a", None, "undone"),
])
def test_a_revision_that_does_not_fit_is_found(tmp_path, tid, key, oid, state, kind):
    there = _there()
    there.setdefault(tid, (key, {}))[1][oid] = state
    assert kind in _judge(tmp_path, _events(), _without(there, ()))


def test_a_tid_below_one_acknowledged_before_is_found(tmp_path):
    events = [(c, {**e, "tid": "0f"}) if e.get("tid") == "12" else (c, e)
              for c, e in _events()]
    there = _there()
    there["0f"] = there.pop("12")
    assert "disorder" in _judge(tmp_path, events, _without(there, ()))


def test_one_tid_for_two_transactions_is_found(tmp_path):
    events = [(c, {**e, "tid": "11"}) if e.get("tid") == "12" else (c, e)
              for c, e in _events()]
    transactions = [t._replace(tid="11") if t.tid == "12" else t
                    for t in _without(_there(), ())]
    assert "disorder" in _judge(tmp_path, events, transactions)


@pytest.mark.parametrize("events, dropped, packed", [
    ([PACK_13], TO_13, "13"),
    ([PACK_13, DONE_13], TO_13, "13"),
    ([PACK_13, DONE_13, PACK_NOW], TO_13, "13"),
    ([PACK_13, PACK_NOW], TO_NOW, "16"),
    ([PACK_13, PACK_NOW, DONE_NOW], TO_NOW, "16"),
    ([PACK_NOW, DONE_NOW], TO_NOW - SHARED, "16"),
])
def test_a_pack_may_drop_what_it_has_to(tmp_path, events, dropped, packed):
    assert _judge(tmp_path, _events() + events, _without(_there(), dropped, packed)) == set()


def test_a_pack_whose_outcome_is_unknown_may_drop_nothing(tmp_path):
    assert _judge(tmp_path, [*_events(), PACK_NOW], _without(_there(), ())) == set()


@pytest.mark.parametrize("events", [[], [PACK_13], [PACK_13, DONE_13],
                                    [PACK_NOW, (20, {"px": 2})]])
def test_what_no_pack_may_have_dropped_is_lost(tmp_path, events):
    assert "lost" in _judge(tmp_path, [*_events(), *events],
                            _without(_there(), TO_NOW, "16"))


@pytest.mark.parametrize("missing", [
    (tid, oid) for tid, (_, records) in _there().items() for oid in records
    if (tid, oid) not in TO_NOW])
def test_a_pack_may_not_drop_what_can_be_reached(tmp_path, missing):
    assert "lost" in _judge(tmp_path, [*_events(), PACK_NOW],
                            _without(_there(), TO_NOW | {missing}, "16"))


@pytest.mark.parametrize("left", sorted(TO_NOW - SHARED))
@pytest.mark.parametrize("more", [[], [DONE_NOW]])
def test_a_pack_that_took_effect_in_part_is_found(tmp_path, left, more):
    assert _judge(tmp_path, [*_events(), PACK_NOW, *more],
                  _without(_there(), TO_NOW - {left}, "16")) == {"half"}


def test_a_pack_that_was_done_and_dropped_nothing_is_found(tmp_path):
    assert "half" in _judge(tmp_path, [*_events(), PACK_NOW, DONE_NOW],
                            _without(_there(), ()))


def test_transactions_that_are_packed_in_part_are_found(tmp_path):
    transactions = _without(_there(), TO_NOW, "16")
    transactions[0] = transactions[0]._replace(status=b" ")
    assert _judge(tmp_path, [*_events(), PACK_NOW], transactions) == {"half"}


def test_what_was_committed_after_a_pack_began_may_have_missed_it(tmp_path):
    early = 20, {"p": 2, "tid": "20", "at": 6.5}  # when nothing younger than 12 stood
    assert _judge(tmp_path, [*_events(), early, DONE_NOW],
                  _without(_there(), TO_13, "12")) == set()


def test_a_record_keeps_its_state_and_shows_damage():
    data = ledger.stamped(3, 14, 0, b"bytes", value=9, refs=["0" * 15 + "7"], blob=(0, "sum"))
    assert ledger.read_state(data) == ((3, 14), 9, ("0" * 15 + "7",), (0, "sum"))
    assert ledger.read_state(data.replace(b"bytes", b"bytez")) == ledger.DAMAGED
    assert ledger.read_state(data.replace(bytes(7) + b"\7", bytes(7) + b"\6")) == ledger.DAMAGED
    assert ledger.read_state(data[:-10]) == ledger.DAMAGED
    assert ledger.read_state(b"") == ledger.DAMAGED
    assert ledger.read_state(None) is None
