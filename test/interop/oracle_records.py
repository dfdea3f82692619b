"""The records that the oracle test stores: what they are made of, as literals.

A specification is a tuple that can be printed and read back:

("node", value, references, pad)   a mapping that refers to other objects
("counter", value)                 resolves conflicts
("stubborn", value)                refuses to resolve them
("broken", value)                  fails while it resolves them
("length", value)                  BTrees.Length, which resolves them
("blob",)                          the record of a blob, always the same bytes

A reference is an oid, or (form, oid) for the rarer forms: "bare" is an oid
without a class, "weak" and "foreign" keep nothing alive.
"""

import io
import random

from BTrees.Length import Length
from persistent.mapping import PersistentMapping
from ZODB._compat import PersistentPickler
from ZODB.blob import Blob
from ZODB.serialize import referencesf
from ZODB.tests.ConflictResolution import PCounter
from ZODB.tests.ConflictResolution import PCounter2
from ZODB.tests.ConflictResolution import PCounter3
from ZODB.utils import p64
from ZODB.utils import u64

CLASSES = {"node": PersistentMapping, "counter": PCounter, "stubborn": PCounter2,
           "broken": PCounter3, "length": Length, "blob": Blob}
# PCounter is the beginning of the others' names, so it comes last.
_MARKS = [(b"PersistentMapping", "node"), (b"PCounter2", "stubborn"),
          (b"PCounter3", "broken"), (b"PCounter", "counter"),
          (b"BTrees.Length", "length"), (b"ZODB.blob", "blob")]


class _Reference:
    def __init__(self, form, oid):
        oid = p64(oid)
        self.pid = {"plain": (oid, PersistentMapping), "bare": oid,
                    "weak": ["w", (oid,)], "foreign": ["m", ("other", oid, PersistentMapping)],
                    }[form]


def record(spec):
    """The bytes of a record."""
    kind, *values = spec
    if kind == "node":
        value, references, pad = values
        state = {"data": {"value": value, "pad": b"x" * pad, "refs": [
            _Reference(*(r if isinstance(r, tuple) else ("plain", r))) for r in references]}}
    elif kind == "length":
        [state] = values
    elif kind == "blob":
        state = None
    else:
        state = {"_value": values[0]}
    out = io.BytesIO()
    pickler = PersistentPickler(lambda o: getattr(o, "pid", None), out, 3)
    pickler.dump(CLASSES[kind])
    pickler.dump(state)
    return out.getvalue()


def kind(data):
    """Which of CLASSES a record is of."""
    return next(kind for mark, kind in _MARKS if mark in data)


def content(size):
    """The bytes of a blob: (key, length)."""
    key, length = size
    return random.Random(key).randbytes(length)


def references(data):
    """The numbers of the objects that a record keeps alive."""
    return [u64(oid) for oid in referencesf(data)] if data else []
