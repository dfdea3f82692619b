"""What a client sees of this server is what it sees of ZEO's over a FileStorage.

ORACLE_SEED    a number to begin with, else a random one; it is printed
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

SEED = int(os.environ.get("ORACLE_SEED") or random.SystemRandom().randrange(1 << 31))
STEPS = int(os.environ.get("ORACLE_STEPS", 0))
REPLAY = os.environ.get("ORACLE_REPLAY")


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
def test_the_answers_are_those_of_a_file_storage(new_run):
    run = new_run(SEED)
    print(f"ORACLE_SEED={SEED}")
    if REPLAY:
        with open(REPLAY) as log:
            run.replay(log)
    else:
        run.run(STEPS or 400)
    for outcome, count in sorted(run.outcomes.items()):
        print(f"{count:6} {outcome}")


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


@pytest.fixture(scope="module")
def grown():
    """Room for a run that many lies are told about."""
    return {}


def test_lies_are_found(new_run):
    """Each of LIES, told by one of two servers that agree."""
    run = new_run(SEED, reference=True)
    run.grow()
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
