"""Writes fixtures.json.gz: files and blob directories as FileStorage makes them,
each with what FileStorage's own iterator reads from it.

    python make_fixtures.py                      (needs ZODB)

"file" is the Data.fs in base64, "blobs" the files of the blob directory. Of the
data of records there is the SHA-256, in hexadecimal as all other bytes.
"""

import base64
import gzip
import hashlib
import json
import os
import random
import tempfile

import persistent.mapping
import transaction
import ZODB.blob
from persistent.TimeStamp import TimeStamp
from ZODB.Connection import TransactionMetaData
from ZODB.DB import DB
from ZODB.FileStorage import FileStorage
from ZODB.FileStorage import FileIterator
from ZODB.serialize import referencesf
from ZODB.utils import p64
from ZODB.utils import z64

directory = tempfile.mkdtemp()
rnd = random.Random(4)
fixtures = []


def tid(n):
    """The n-th minute of a day."""
    return TimeStamp(2020, 2, 29, n // 60, n % 60, 1.5).raw()


class Site:
    """A database whose transactions have times of their own."""

    def __init__(self, name, blobs=None):
        self.name = name
        self.path = os.path.join(directory, name)
        self.blob_dir = blobs and self.path + '.blobs'
        if blobs == 'lawn':
            FileStorage(self.path).close()  # a new one empties the directory
            os.mkdir(self.blob_dir)
            with open(os.path.join(self.blob_dir, '.layout'), 'w') as f:
                f.write('lawn')
        self.storage = FileStorage(self.path, blob_dir=self.blob_dir)
        self.minute = 0
        self.serials = {}

    def commit(self, change, user='', description='', extension=None):
        self.minute += 1
        txn = TransactionMetaData(user, description, extension)
        self.storage.tpc_begin(txn, tid(self.minute))
        change(txn)
        self.storage.tpc_vote(txn)
        self.storage.tpc_finish(txn)
        return self.minute

    def store(self, oid, data, blob=None):
        def change(txn):
            serial = self.serials.get(oid, z64)
            if blob is None:
                self.storage.store(p64(oid), serial, data, '', txn)
            else:
                name = os.path.join(self.storage.temporaryDirectory(), 'new')
                with open(name, 'wb') as f:
                    f.write(blob)
                self.storage.storeBlob(p64(oid), serial, data, name, '', txn)
            self.serials[oid] = tid(self.minute)
        return change

    def delete(self, oid):
        def change(txn):
            self.storage.deleteObject(p64(oid), self.serials[oid], txn)
            self.serials[oid] = tid(self.minute)
        return change

    def undo(self, *minutes):
        def change(txn):
            for minute in minutes:
                _, oids = self.storage.undo(
                    base64.encodebytes(tid(minute)).rstrip(), txn)
                for oid in oids:
                    self.serials[int.from_bytes(oid, 'big')] = tid(self.minute)
        return change

    def all(self, *changes):
        def change(txn):
            for c in changes:
                c(txn)
        return change

    def pack(self, minute):
        self.storage.pack(TimeStamp(tid(minute)).timeTime() + 1, referencesf)

    def close(self):
        self.storage.close()
        with open(self.path, 'rb') as f:
            file = f.read()
        transactions = [{
            'tid': t.tid.hex(), 'status': t.status, 'user': t.user.hex(),
            'description': t.description.hex(),
            'extension': t.extension_bytes.hex(), 'pos': t._tpos,
            'records': [{
                'oid': r.oid.hex(), 'tid': r.tid.hex(), 'pos': r.pos,
                'data': r.data and hashlib.sha256(r.data).hexdigest(),
                'data_txn': r.data_txn and r.data_txn.hex(),
            } for r in t],
        } for t in FileIterator(self.path)]
        blobs = {}
        if self.blob_dir:
            for path, _, files in os.walk(self.blob_dir):
                for name in files:
                    name = os.path.join(path, name)
                    with open(name, 'rb') as f:
                        blobs[os.path.relpath(name, self.blob_dir)] = f.read().hex()
        fixtures.append({'name': self.name, 'file': base64.b64encode(file).decode(),
                         'transactions': transactions, 'blobs': blobs})


def record(value, refs=()):
    """A mapping, as ZODB writes it, that refers to some objects."""
    obj = persistent.mapping.PersistentMapping({'value': value})
    for oid in refs:
        child = persistent.mapping.PersistentMapping()
        child._p_oid = p64(oid)
        child._p_jar = jar
        obj[oid] = child
    obj._p_jar = jar
    return ZODB.serialize.ObjectWriter(obj).serialize(obj)


jar = DB(None).open()
blob = ZODB.serialize.ObjectWriter().serialize(ZODB.blob.Blob())

site = Site('empty')
site.close()

site = Site('plain')
site.commit(site.store(0, record('root', [1, 2])), description='initial database creation')
site.commit(site.all(site.store(1, record('one')), site.store(2, record('two'))),
            '/acl_users Zo\xeb \u65e5\u672c', 'Caf\xe9 \U0001f40d\nsecond line',
            {'request_type': 'View', 'n': 1, 'names': ['x', b'y']})
site.commit(site.store(1, record('one again')), extension={'x': 'y' * 300})
site.commit(site.store(3, record(rnd.randbytes(1000).hex() * 1500)), 'large')
site.commit(lambda txn: None, 'nobody', 'no records')
site.commit(site.all(*(site.store(oid, record(oid)) for oid in range(4, 400))))
# What one object becomes last in a transaction is what counts.
site.commit(site.all(*(lambda txn, data=data: site.storage.restore(
    p64(1), tid(site.minute), data, '', None, txn) for data in (record('a'), record('b')))))
site.commit(site.store(2, record('two again')))
site.commit(lambda txn: site.storage.restore(
    p64(1), tid(site.minute), record('b'), '', tid(7), txn))
site.commit(site.store(2**63 - 1, record('the last oid')))
site.commit(site.all(*(site.store(oid, record([oid])) for oid in range(399, 3, -1))),
            'u' * 65535, 'd' * 65535)
site.close()

site = Site('undo')
site.commit(site.store(0, record('root', [1, 2, 3])))
site.commit(site.all(site.store(1, record('a')), site.store(2, record('b'))))
site.commit(site.store(1, record('c')))
for _ in range(12):  # redo, undo, redo, ...
    site.commit(site.undo(site.minute), 'user', 'Undo')
creation = site.commit(site.store(3, record('d')))
site.commit(site.undo(creation))
site.commit(site.undo(site.minute))
site.commit(site.undo(site.minute))  # the back pointer leads to no object
site.commit(site.undo(site.minute))
first = site.commit(site.store(2, record('e')))
site.commit(site.store(2, record('f')))
site.commit(site.undo(site.minute, first))
site.commit(site.delete(2))
site.commit(site.undo(site.minute))
site.commit(site.delete(1))
site.commit(site.store(1, record('new again')))
site.commit(site.delete(3))
site.close()

site = Site('packed')
site.commit(site.store(0, record('root', [1, 2, 3])))
site.commit(site.all(site.store(1, record('a')), site.store(2, record('b'))))
site.commit(site.all(site.store(3, record('c')), site.store(9, record('garbage'))))
site.commit(site.store(1, record('d')), 'user', 'before', {'x': 1})
site.commit(site.store(2, record('e')))
site.commit(site.undo(site.minute))
packed_to = site.minute
site.commit(site.store(1, record('f')))
site.commit(site.undo(site.minute))
site.commit(site.undo(site.minute))
site.commit(site.store(3, record('g')))
site.commit(site.delete(3))
site.pack(packed_to)
site.commit(site.store(2, record('h')))
site.commit(site.undo(site.minute), 'user', 'after')
site.close()

# The object had two revisions that were needed: its previous record is 0.
site = Site('packed, several revisions')
site.commit(site.store(0, record('root', [1])))
site.commit(site.store(1, record('a')))
old = site.commit(site.store(1, record('b')))
packed_to = site.minute
site.commit(site.undo(old))
site.commit(site.store(1, record('c')))
site.pack(packed_to)
site.close()

for layout in 'bushy', 'lawn':
    site = Site(layout, blobs=layout)
    site.commit(site.store(0, record('root', [1, 0x123456789a])))
    site.commit(site.store(1, blob, b'first'))
    site.commit(site.store(1, blob, b'second' * 100))
    site.commit(site.undo(site.minute))
    site.commit(site.store(0x123456789a, blob, b''))
    site.commit(site.store(0x1002, record('no blob')))
    site.close()

# An ordinary database, through the whole of ZODB.
site = Site('objects', blobs='bushy')
db = DB(site.storage)
with db.transaction(note='many') as connection:
    root = connection.root()
    for n in range(50):
        root[f'key{n}'] = persistent.mapping.PersistentMapping({'n': n})
    root['blob'] = ZODB.blob.Blob(b'some bytes')
for n in range(5):
    with transaction.manager:
        connection = db.open()
        connection.root()[f'key{n}']['n'] = -n
        transaction.get().setUser(f'user{n}')
        transaction.get().note(f'change {n}')
    connection.close()
db.undo(db.undoInfo()[0]['id'])
transaction.commit()
db.close()
site.close()

path = os.path.join(os.path.dirname(__file__), 'fixtures.json.gz')
with open(path, 'wb') as f:
    f.write(gzip.compress(json.dumps(fixtures, indent=0).encode(), mtime=0))
for fixture in fixtures:
    print(fixture['name'], len(fixture['transactions']), 'transactions',
          sum(len(t['records']) for t in fixture['transactions']), 'records')
