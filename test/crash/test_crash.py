"""The crash tests in short form, and the proof that they can fail.

`make crash-long` runs them at length.
"""

import crash
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


@pytest.mark.parametrize("tamper, expected", [
    ("lose", "lost"), ("tear", "partial"), ("repeat", "duplicate"), ("swap", "lost")])
def test_the_crash_test_fails_where_it_has_to(capsys, tamper, expected):
    code, output = _run(capsys, "--kills", "1", "--tamper", tamper)
    assert code == 1, output
    assert f"{expected} (" in output, output


# The judgement alone, on made-up evidence.

COUNTER = "c0"


def _reader(tmp_path, *events):
    """A reader of a ledger with these (client, event)."""
    for client, event in events:
        ledger.Writer(tmp_path / f"client-{client}.jsonl").write(**event)
    reader = ledger.Reader(tmp_path)
    reader.update()
    return reader


def _events():
    """Two clients, three transactions; the last one's outcome is unknown."""
    return [
        (999, {"o": [COUNTER]}),
        (1, {"o": ["a", "b"]}), (2, {"o": ["c", "d"]}),
        (1, {"a": 1, "oids": ["a", "b"], "counter": 0, "at": 1.0}),
        (1, {"k": 1, "tid": "11", "value": 1, "at": 2.0}),
        (2, {"a": 1, "oids": ["c", "d"], "counter": None, "at": 3.0}),
        (2, {"k": 1, "tid": "12", "value": None, "at": 4.0}),
        (1, {"a": 2, "oids": ["a", "b"], "counter": 0, "at": 5.0}),
        (2, {"a": 2, "oids": ["c"], "counter": None, "at": 6.0}),
        (2, {"x": 2}),
    ]


def _revisions():
    return [
        ledger.Revision(COUNTER, "10", (-1, 0), 0),
        ledger.Revision("a", "11", (1, 1), None), ledger.Revision("b", "11", (1, 1), None),
        ledger.Revision(COUNTER, "11", (1, 1), 1),
        ledger.Revision("c", "12", (2, 1), None), ledger.Revision("d", "12", (2, 1), None),
    ]


_unknown_present = [
    ledger.Revision("a", "13", (1, 2), None), ledger.Revision("b", "13", (1, 2), None),
    ledger.Revision(COUNTER, "13", (1, 2), 2)]


def _judge(tmp_path, events, revisions):
    findings = ledger.judge(_reader(tmp_path, *events), revisions, [COUNTER])
    return {kind for kind, texts in findings.found.items() if texts}


def test_a_whole_ledger_is_found_whole(tmp_path):
    assert _judge(tmp_path, _events(), _revisions()) == set()


def test_an_unknown_outcome_may_be_there_as_a_whole(tmp_path):
    assert _judge(tmp_path, _events(), _revisions() + _unknown_present) == set()


@pytest.mark.parametrize("missing", range(3))
def test_an_unknown_outcome_may_not_be_there_in_part(tmp_path, missing):
    torn = [r for n, r in enumerate(_unknown_present) if n != missing]
    assert "partial" in _judge(tmp_path, _events(), _revisions() + torn)


@pytest.mark.parametrize("missing", range(1, 6))
def test_an_acknowledged_object_may_not_be_missing(tmp_path, missing):
    revisions = [r for n, r in enumerate(_revisions()) if n != missing]
    assert "lost" in _judge(tmp_path, _events(), revisions)


@pytest.mark.parametrize("event, kind", [
    ((2, {"o": ["a"]}), "duplicate"),
    ((1, {"o": ["a"]}), "duplicate"),
    ((1, {"v": "two answers"}), "complaint"),
    ((1, {"k": 2, "tid": "13", "value": 2, "at": 7.0}), "lost"),
])
def test_an_event_that_does_not_fit_is_found(tmp_path, event, kind):
    assert kind in _judge(tmp_path, _events() + [event], _revisions())


@pytest.mark.parametrize("revision, kind", [
    (ledger.Revision("c", "14", (2, 2), None), "undead"),
    (ledger.Revision("c", "14", (7, 7), None), "foreign"),
    (ledger.Revision("c", "14", None, None), "foreign"),
    (ledger.Revision("c", "14", (2, 1), None), "partial"),
])
def test_a_revision_that_does_not_fit_is_found(tmp_path, revision, kind):
    assert kind in _judge(tmp_path, _events(), _revisions() + [revision])


def test_a_tid_below_one_acknowledged_before_is_found(tmp_path):
    events = [(c, {**e, "tid": "0f"}) if e.get("tid") == "12" else (c, e)
              for c, e in _events()]
    revisions = [r._replace(tid="0f") if r.tid == "12" else r for r in _revisions()]
    assert _judge(tmp_path, events, revisions) == {"disorder"}


def test_one_tid_for_two_transactions_is_found(tmp_path):
    events = [(c, {**e, "tid": "11"}) if e.get("tid") == "12" else (c, e)
              for c, e in _events()]
    revisions = [r._replace(tid="11") if r.tid == "12" else r for r in _revisions()]
    assert "disorder" in _judge(tmp_path, events, revisions)


def test_a_record_keeps_its_stamp_and_shows_damage():
    data = ledger.stamped(3, 14, 0, b"bytes", value=9)
    assert ledger.read_stamp(data) == ((3, 14), 9)
    assert ledger.read_stamp(data.replace(b"bytes", b"bytez")) == (None, None)
    assert ledger.read_stamp(data[:-10]) == (None, None)
    assert ledger.read_stamp(b"") == (None, None)
