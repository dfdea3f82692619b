"""What a client sees of this server is what it sees of ZEO's over a FileStorage.

ORACLE_SEED    a number to begin with; else 1 in the short form, and a random one in
               the long form, so that no change is refused for what another broke;
               it is printed
ORACLE_STEPS   how many operations, instead of the short form
ORACLE_REPLAY  a file of operations to do again, as a failure names it

INTEROP_SERVER=reference compares the reference with itself, which tells whether
the comparison is sound.
"""

import logging
import os
import random

import harness
import oracle
import pytest
from oracle_side import Side

STEPS = int(os.environ.get("ORACLE_STEPS", 0))
SEED = int(os.environ.get("ORACLE_SEED") or STEPS and random.SystemRandom().randrange(1 << 31) or 1)
REPLAY = os.environ.get("ORACLE_REPLAY")

# What happens in every long run.
OUTCOMES = {
    "commit: committed, resolved", "commit: ConflictError", "commit: ReadConflictError",
    "commit: POSKeyError", "commit: aborted after vote", "race: ConflictError",
    "race: committed, resolved", "restore: committed", "undo: MultipleUndoErrors",
    "undo: UndoError", "undo: a record is shared", "undo: a record is resolved",
    "undo: a record is gone", "pack: None", "restart: None", "return"}


@pytest.fixture
def new_run(tmp_path, caplog):
    """A function that makes runs, which close with the test."""
    caplog.set_level(logging.CRITICAL)  # clients log every error that they raise
    runs = []
    sides = []

    def open_side(name, reference, msgpack, pack_gc):
        directory = tmp_path / f"{name}-{len(sides)}"
        server = harness.Server(
            directory / "server", harness.Bucket("directory", directory),
            msgpack=msgpack, pack_gc=pack_gc, reference=reference,
            arguments=["--pack-grace", "0s"])
        server.start()
        sides.append(Side(name, directory / "clients", server))
        return sides[-1]

    def new(seed, **options):
        run = oracle.Run(seed, open_side, tmp_path / "operations", **options)
        runs.append(run)
        return run
    yield new
    for run in runs:
        run.over = True
        run.close()


@pytest.mark.timeout(max(300, STEPS))
@pytest.mark.parametrize("n", range(1 if STEPS or REPLAY else 2))
def test_the_answers_are_those_of_a_file_storage(new_run, n):
    run = new_run(SEED + n)
    print(f"ORACLE_SEED={SEED + n}")
    if REPLAY:
        with open(REPLAY) as log:
            run.replay(log)
    else:
        run.run(STEPS or 200)
    for outcome, count in sorted(run.outcomes.items()):
        print(f"{count:6} {outcome}")
    if STEPS >= 5000:
        assert OUTCOMES <= set(run.outcomes)


def _drop_a_record(query, answer):
    if query[0] == "iterate" and answer and answer[-1][-1]:
        return [*answer[:-1], (*answer[-1][:-1], answer[-1][-1][:-1])]
    return answer


def _change_a_byte(query, answer):
    if query[0] == "loadBefore" and answer:
        data, serial, end = answer
        return data[:-1] + bytes([data[-1] ^ 1]), serial, end
    return answer


def _swap_a_serial(query, answer):
    if query[0] == "loadBefore" and answer and answer[2]:
        data, serial, end = answer
        return data, end, end
    return answer


def _forget_an_end(query, answer):
    return (*answer[:2], None) if query[0] == "loadBefore" and answer else answer


def _forget_an_extension(query, answer):
    return ([(*t[:4], {}, t[5]) for t in answer] if query[0] == "iterate" else answer)


def _change_a_status(query, answer):
    return ([(t[0], "u", *t[2:]) for t in answer] if query[0] == "iterate" else answer)


def _forget_what_data_is_shared(query, answer):
    if query[0] == "iterate":
        return [(*t[:5], [(*r[:3], None) for r in t[5]]) for t in answer]
    return answer


def _first_of(name):
    def lie(query, answer):
        return answer[1:] if query[0] == name else answer
    return lie


def _add_one_to(name, place):
    def lie(query, answer):
        if query[0] == name and answer:
            return type(answer)((answer[0] + 1, *answer[1:])) if place == 0 else {
                **answer, place: answer[place] + 1}
        return answer
    return lie


LIES = {
    "a record less": _drop_a_record,
    "another byte": _change_a_byte,
    "another serial": _swap_a_serial,
    "no end": _forget_an_end,
    "no extension": _forget_an_extension,
    "another status": _change_a_status,
    "nothing shared": _forget_what_data_is_shared,
    "an undoable transaction less": _first_of("undoLog"),
    "a revision less": _first_of("history"),
    "a current record less": _first_of("records"),
    "an object more": _add_one_to("info", "length"),
    "another blob": _add_one_to("loadBlob", 0),
    "another last transaction": lambda query, answer: (
        b"\0" * 8 if query[0] == "tid" else answer),
    "an invalidation less": lambda query, answer: (
        (answer[0], answer[1][1:]) if query[0] == "getInvalidations" and answer else answer),
}


def _commit(*writes, **about):
    return {"op": "commit", "client": "A", "writes": list(writes), "end": "finish", **about}


# A little of everything that a client can see.
OPERATIONS = [
    {"op": "begin", "pack_gc": True, "msgpack": False},
    _commit(("store", 0, -1, ("node", 0, [1, 2], 0)), ("store", 1, -1, ("counter", 1)),
            ("blob", 2, -1, (7, 100)), user="Zoë", extension={"request_type": "POST"}),
    _commit(("store", 1, 0, ("counter", 3)), ("blob", 2, 0, (8, 200))),
    {"op": "undo", "client": "B", "undone": ["#3"], "end": "finish"},
    _commit(("store", 1, 1, ("counter", 5)), ("store", 3, -1, ("node", 1, [], 10))),
    _commit(("delete", 3, 0)),
]


def test_wrong_answers_are_found(new_run):
    """Each of LIES, told by one of two servers that agree."""
    run = new_run(SEED, reference=True)
    run.take_all(OPERATIONS)
    run.sweep()
    missed = []
    for name, lie in LIES.items():
        run.sides[0].tamper = lie
        try:
            run.sweep()
            missed.append(name)
        except oracle.Difference:
            pass
        run.sides[0].tamper = None
    run.sweep()
    assert not missed


def _lose_a_write(do, operation, mark):
    return do(dict(operation, writes=operation["writes"][:-1]), mark)


def _do_not_see_a_conflict(do, operation, mark):
    return do(dict(operation, writes=[
        (kind, oid, "#5", *rest) for kind, oid, _, *rest in operation["writes"]]), mark)


def _forget_who_it_was(do, operation, mark):
    return do(dict(operation, user=""), mark)


def _commit_what_was_aborted(do, operation, mark):
    return do(dict(operation, end="finish"), mark)


MISDEEDS = {
    "a write is lost": (_lose_a_write, _commit(
        ("store", 0, 0, ("node", 2, [1], 0)), ("store", 1, 0, ("counter", 0)))),
    "a conflict is not seen": (_do_not_see_a_conflict, _commit(
        ("store", 1, 1, ("stubborn", 0)))),
    "a user is forgotten": (_forget_who_it_was, _commit(
        ("store", 1, 0, ("counter", 0)), user="Zoë")),
    "an abort does not abort": (_commit_what_was_aborted, dict(
        _commit(("store", 1, 0, ("counter", 0))), end="abort after vote")),
}


@pytest.mark.parametrize("misdeed", MISDEEDS)
def test_a_server_that_does_otherwise_is_found(new_run, monkeypatch, misdeed):
    run = new_run(SEED, reference=True)
    run.take_all(OPERATIONS)
    side = run.sides[0]
    do, (otherwise, operation) = side.do, MISDEEDS[misdeed]
    monkeypatch.setattr(side, "do", lambda *arguments: otherwise(do, *arguments))
    with pytest.raises(oracle.Difference) as caught:
        run.take_all([operation])
    assert f"seed {SEED}, step 7" in str(caught.value)


def test_a_lost_invalidation_is_found(new_run):
    run = new_run(SEED, reference=True)
    run.take_all(OPERATIONS)
    run.sides[0].watcher.invalidate = lambda tid, oids: None
    with pytest.raises(oracle.Difference, match="events"):
        run.take_all([_commit(("store", 1, 0, ("counter", 0)))])


def test_a_log_of_operations_can_be_replayed_with_lines_taken_out(new_run):
    run = new_run(SEED, reference=True)
    run.take_all(OPERATIONS)
    lines = run.log.read_text().splitlines()
    again = new_run(SEED, reference=True)
    again.replay([line for line in lines if not line.startswith("3 ")])
    # What refers to step 3 has nothing to undo, and nothing to resolve with.
    assert again.world.order == ["#2"]
    assert again.outcomes == {
        "begin": 1, "commit: committed": 1, "undo: left out": 1,
        "commit: ConflictError": 1, "commit: POSKeyError": 1}
