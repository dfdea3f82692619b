"""Damages a bucket or the evidence, to show that a crash test can fail."""

import hashlib
import struct

import ledger
import read_bucket


def tamper(kind, directory, reader):
    """Do one of KINDS to a bucket whose servers are dead."""
    KINDS[kind](directory, reader)


def _append(reader, client, **event):
    ledger.Writer(reader.directory / f"client-{client}.jsonl").write(**event)


def _lose(directory, _):
    """Delete the newest log objects of which nothing else tells."""
    database = read_bucket.Database(directory)
    for found in [o for o in database.log if o.slot > database.head.settled][-5:]:
        (directory / found.name).unlink()


def _tear(_, reader):
    """Claim that the newest acknowledged transaction had one object more."""
    ack = max(reader.acks.values(), key=lambda ack: ack.tid)
    attempt = reader.attempts[ack.client, ack.seq]
    then = attempt.then and {**attempt.then, "0" * 8 + "f" * 8: (1, 1)}
    _append(reader, ack.client, a=ack.seq, oids=[*attempt.oids, "0" * 8 + "f" * 8],
            counter=attempt.counter, at=attempt.at, then=then)


def _repeat(_, reader):
    """Claim that an oid was given twice."""
    _append(reader, 0, o=[reader.oids[-1][1]])


def _swap(_, reader):
    """Claim that the newest acknowledged transaction had the tid before it."""
    before, ack = sorted(reader.acks.values(), key=lambda ack: ack.tid)[-2:]
    _append(reader, ack.client, k=ack.seq, tid=before.tid, value=ack.value, at=ack.at)


def _not_undone(_, reader):
    """Claim that the newest undo found other states to go back to."""
    ack = max((a for k, a in reader.acks.items() if reader.attempts[k].then),
              key=lambda ack: ack.tid)
    attempt = reader.attempts[ack.client, ack.seq]
    _append(reader, ack.client, a=ack.seq, oids=attempt.oids, counter=None, at=attempt.at,
            then=dict.fromkeys(attempt.oids, (ack.client, ack.seq)))


def _smallest_blob(directory):
    """The id and the path of a blob that is not empty."""
    size, blob = min((record.blob_size, record.blob)
                     for transaction in read_bucket.Database(directory).transactions(data=False)
                     for record in transaction.records if record.blob and record.blob_size)
    return size, blob, directory / "blob" / blob.hex()


def _no_blob(directory, _):
    """Delete a blob."""
    _smallest_blob(directory)[-1].unlink()


def _other_blob(directory, _):
    """Change a byte of a blob, and make its checksum right."""
    size, blob, path = _smallest_blob(directory)
    data = bytearray(path.read_bytes())
    data[52] ^= 1
    piece = data[52:52 + min(size, 1 << 20)]
    struct.pack_into(">I", data, 52 + len(piece),
                     read_bucket.crc32c(blob, struct.pack(">Q", 0), piece))
    path.write_bytes(data)


def _half_pack(directory, _):
    """Have the newest base, which a pack has made, list the last segment and the
    last table as they were before the pack."""
    newest = read_bucket.Database(directory).base
    contents = {path: path.read_bytes() for path in (directory / "base").iterdir()}
    bases = {base.number: (base, path, contents[path]) for path in contents
             for base in [read_bucket.parse_base(bytes.fromhex(path.name), contents[path],
                                                 contents[path][16:32])]}
    _, path, after = bases[newest.number]
    before, _, old = bases[newest.number - 1]
    cut = before.segments[-1].first - 1
    new = after[:-32 - _SEGMENT * len(newest.segments) - _TABLE * len(newest.tables)]
    segments = [after[len(new) + _SEGMENT * n:][:_SEGMENT - 8] + struct.pack(">Q", cut)
                for n, segment in enumerate(newest.segments) if segment.first <= cut]
    table = after[-32 - _TABLE:-32 - 8] + struct.pack(">Q", cut)
    tables_at = len(old) - 32 - _TABLE * len(before.tables)
    segments.append(old[tables_at - _SEGMENT:tables_at])
    new = (new[:12] + struct.pack(">I", len(segments)) + new[16:-12] + struct.pack(">I", 2)
           + new[-8:] + b"".join(segments) + table + old[-32 - _TABLE:-32])
    path.write_bytes(new + hashlib.sha256(new).digest())


_SEGMENT, _TABLE = 88, 72  # bytes of their entries in a base; there are no snapshots


# What there is to do.
KINDS = {"lose": _lose, "tear": _tear, "repeat": _repeat, "swap": _swap,
         "not-undone": _not_undone, "no-blob": _no_blob, "other-blob": _other_blob,
         "half-pack": _half_pack}
