"""Transactions and records, wherever they are."""

import dataclasses

MAX_META = 1 << 20
MAX_DATA = (1 << 31) - 1


@dataclasses.dataclass
class Transaction:
    tid: int
    status: bytes
    user: bytes
    description: bytes
    extension: bytes
    records: list
    payloads: list = dataclasses.field(default_factory=list)  # ids, of one in the log
    committed: int = 0  # how many records it had


@dataclasses.dataclass
class Record:
    oid: int
    replaces: int  # the serial of the revision before, 0 for none
    deleted: bool
    size: int
    number: int    # in its transaction, as committed
    data: "bytes | None" = None  # None for a deletion, and while it is elsewhere
    source: int = 0  # the serial of the revision whose data it shares, or 0
    blob: "bytes | None" = None
    blob_size: int = 0
    # In the log only:
    kind: int = 0
    existed: bool = False
    payload: int = 0
    offset: int = 0
    # In segments only:
    klass: "str | None" = None  # where it is known
    references: "list | None" = None
