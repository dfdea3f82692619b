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
    """Delete the newest log objects of the last epoch."""
    objects = sorted((directory / "log").glob("*/*"))
    for path in [p for p in objects if p.parent == objects[-1].parent][-5:]:
        path.unlink()


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
                     for transaction, _ in read_bucket.Database(directory).kept
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
    """Have each list of what a pack dropped name half of it."""
    for path in (directory / "pack").glob("*"):
        data = path.read_bytes()
        [count] = struct.unpack_from(">I", data, 12)
        data = data[:12] + struct.pack(">I", count // 2) + data[16:48 + count // 2 * 16]
        path.write_bytes(data + hashlib.sha256(data).digest())


# What there is to do.
KINDS = {"lose": _lose, "tear": _tear, "repeat": _repeat, "swap": _swap,
         "not-undone": _not_undone, "no-blob": _no_blob, "other-blob": _other_blob,
         "half-pack": _half_pack}
