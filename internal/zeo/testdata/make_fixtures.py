"""Writes messages.json.gz, messages as ZEO itself encodes them, and
pickles.json.gz, plain values in every pickle protocol.

    python make_fixtures.py                      (needs ZEO, ZODB, msgpack)

Every message is there in both encodings, in hexadecimal; one whose "m5" is null
cannot be said in msgpack. Every pickle comes with what ZEO's own pickler makes
of the same value.
"""

import gzip
import json
import os
import pickle

import zodbpickle
import zodbpickle.pickle
from ZEO.asyncio.marshal import encoder
from ZEO.asyncio.marshal import reduce_exception
from ZODB.POSException import ConflictError
from ZODB.POSException import POSKeyError
from ZODB.POSException import ReadConflictError
from ZODB.POSException import ReadOnlyError
from ZODB.POSException import StorageTransactionError
from ZODB.utils import maxtid
from ZODB.utils import p64
from ZODB.utils import z64


oid, serial, tid = p64(0x68), p64(0x040d31d06f491d11), p64(0x040d31d06f491d12)
txn = 140735812345678
data = b'\x80\x03cBTrees.Length\nLength\nq\x00.\x80\x03K\x01.'
call, oneway, reply, error = False, True, 0, 2

messages = {
    'heartbeat': (-1, 0, '.reply', None),
    'register': (1, call, 'register', ('1', False)),
    'get_info': (2, call, 'get_info', ()),
    'lastTransaction': (3, call, 'lastTransaction', ()),
    'ping': (4, call, 'ping', ()),
    'server_status': (255, call, 'server_status', ()),
    'new_oids': (256, call, 'new_oids', ()),
    'new_oids n': (65535, call, 'new_oids', (100,)),
    'loadBefore': ((z64, maxtid), call, 'loadBefore', (z64, maxtid)),
    'loadBefore numbered': (65536, call, 'loadBefore', (oid, tid)),
    'loadSerial': (8, call, 'loadSerial', (oid, serial)),
    'getTid': (9, call, 'getTid', (oid,)),
    'history': (10, call, 'history', (oid, 20)),
    'undoLog': (11, call, 'undoLog', (0, -20)),
    'undoInfo': (12, call, 'undoInfo', (0, -20, {'user_name': b'u'})),
    'record_iternext': (13, call, 'record_iternext', (None,)),
    'iterator_start': (14, call, 'iterator_start', (None, tid)),
    'iterator_next': (15, call, 'iterator_next', (0,)),
    'iterator_record_start': (16, call, 'iterator_record_start', (0, tid)),
    'iterator_record_next': (17, call, 'iterator_record_next', (1,)),
    'pack': (18, call, 'pack', (1795381467.4930637, True)),
    'getInvalidations': (19, call, 'getInvalidations', (serial,)),
    'sendBlob': (20, call, 'sendBlob', (oid, serial)),
    'vote': (21, call, 'vote', (txn,)),
    'tpc_finish': (22, call, 'tpc_finish', (txn,)),
    'tpc_abort': (2**31 - 1, call, 'tpc_abort', (txn,)),
    'far id': (2**31, call, 'ping', ()),
    'tpc_begin': (0, oneway, 'tpc_begin',
                  (txn, b'u', b'd\xff', {'x': 1, 'y': 'z'}, None, ' ')),
    'tpc_begin one': (0, oneway, 'tpc_begin',
                      (txn, b'', b'', {'x': b'y'}, serial, 'p')),
    'storea': (0, oneway, 'storea', (oid, serial, data, txn)),
    'storea new': (0, oneway, 'storea', (oid, None, b'x' * 256, txn)),
    'storea large': (0, oneway, 'storea', (oid, z64, b'y' * 70000, txn)),
    'checkCurrentSerialInTransaction':
        (0, oneway, 'checkCurrentSerialInTransaction', (oid, serial, txn)),
    'restorea': (0, oneway, 'restorea', (oid, serial, data, None, txn)),
    'deleteObject': (0, oneway, 'deleteObject', (oid, serial, txn)),
    'undoa': (0, oneway, 'undoa', (b'BA0x0G9JHRE=', txn)),
    'storeBlobStart': (0, oneway, 'storeBlobStart', ()),
    'storeBlobChunk': (0, oneway, 'storeBlobChunk', (b'c' * 59000,)),
    'storeBlobEnd': (0, oneway, 'storeBlobEnd', (oid, serial, data, txn)),
    'storeBlobShared':
        (0, oneway, 'storeBlobShared', (oid, serial, data, 'f.tmp', txn)),
    'iterator_gc': (0, oneway, 'iterator_gc', ([1, 2, 3],)),
    'set_client_label': (0, oneway, 'set_client_label', ('caf\xe9',)),
    'invalidateTransaction':
        (0, oneway, 'invalidateTransaction', (tid, [oid, z64])),
    'invalidateTransaction one':
        (0, oneway, 'invalidateTransaction', (tid, [oid])),
    'invalidateTransaction none':
        (0, oneway, 'invalidateTransaction', (tid, [])),
    'info': (0, oneway, 'info', ({'length': 3, 'size': 815},)),
    'reply None': (4, reply, '.reply', None),
    'reply tid': (1, reply, '.reply', serial),
    'reply load':
        ((oid, maxtid), reply, '.reply', (data, serial, None)),
    'reply load before':
        ((oid, tid), reply, '.reply', (data * 20, serial, tid)),
    'reply load large':
        ((oid, tid), reply, '.reply', (data * 20000, serial, tid)),
    'reply load none': ((oid, tid), reply, '.reply', None),
    'reply info': (2, reply, '.reply', {
        'length': 0, 'size': 4, 'name': 'Data.fs', 'supportsUndo': False,
        'supports_record_iternext': False, 'interfaces': (
            ('ZODB.interfaces', 'IStorage'), ('zope.interface', 'Interface'),
        )}),
    'reply oids': (6, reply, '.reply', [p64(n) for n in range(1, 101)]),
    'reply oids 1001': (6, reply, '.reply', [p64(n) for n in range(1001)]),
    'reply oids 2500': (6, reply, '.reply', [p64(n) for n in range(2500)]),
    'reply dict 1001':
        (6, reply, '.reply', {str(n): n for n in range(1001)}),
    'reply invalidations': (7, reply, '.reply', (tid, [oid])),
    'reply history': (15, reply, '.reply', [
        {'time': 1795381466.0825624, 'user_name': b'', 'description': b'',
         'tid': serial, 'size': 32}]),
    'reply conflict': (37, reply, '.reply', [
        {'oid': oid, 'serials': (serial, tid), 'data': data}]),
    'reply status': (33, reply, '.reply', {
        'connections': 2, 'loads': 6, 'lock_time': None,
        'timeout-thread-is-alive': 'stub'}),
    'numbers': (5, reply, '.reply', (
        0, -1, 255, 256, 65535, 65536, -128, -129, -32768, -32769, 2**31 - 1,
        2**31, -2**31, -2**31 - 1, 2**32, 2**40 - 1, 2**39, -2**39, 2**55,
        2**63 - 1, -2**63, 2**63, 2**64 - 1, 0.0, -1.5, 1e300)),
    'strings': (5, reply, '.reply', (
        '', 'a' * 31, 'a' * 32, 'a' * 255, 'a' * 256, 'a' * 65536,
        '\xe9\u20ac\U0001f600', b'', b'\x00' * 255, b'\x00' * 256,
        b'\x00' * 65536)),
    'tuples': (5, reply, '.reply', (
        (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), tuple(range(20)), {}, [])),
    'long numbers': (5, reply, '.reply', (
        2**64, -2**63 - 1, 2**2039 - 1, 2**2039, -2**2039, -2**2040, 3**1500)),
}

for name, exc in {
        'POSKeyError': POSKeyError(oid),
        'ReadOnlyError': ReadOnlyError(),
        'ReadConflictError': ReadConflictError(
            oid=oid, serials=(serial, tid)),
        'ConflictError': ConflictError(oid=oid, serials=(serial, tid)),
        'StorageTransactionError': StorageTransactionError(None, 1),
        'ValueError': ValueError('unknown storage: nosuch'),
        'TypeError': TypeError('text'),
}.items():
    messages['error ' + name] = (11, error, '.reply', reduce_exception(exc))


def encoded(letter, message):
    try:
        return encoder(letter)(*message).hex()
    except OverflowError:
        return None


def write(name, entries):
    path = os.path.join(os.path.dirname(__file__), name)
    with open(path, 'wb') as f:
        f.write(gzip.compress(json.dumps(entries, indent=0).encode(), mtime=0))


write('messages.json.gz', [
    {'name': name, 'z5': encoded(b'Z5', message), 'm5': encoded(b'M5', message)}
    for name, message in messages.items()])

shared = ['twice']
values = {
    'None': None, 'True': True, 'False': False, 'ints': (
        0, -1, 255, 256, 65536, 2**31, -2**31, 2**62, -2**63, 2**63, 2**100,
        -2**100),
    'floats': (0.0, -1.5, 1e300, 1e-300, 0.1, float('inf')),
    'str': ('', 'plain', 'caf\xe9', '\u20ac', '\U0001f600', 'a\\b\n\tc', "q'\"",
            'x' * 300),
    'bytes': (b'', b'plain', bytes(range(256)), b'y' * 300),
    'binary': zodbpickle.binary(b'\x00\xff'),
    'tuples': ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
    'lists': ([], [1], [1, 2], list(range(1001)), [[], [[]]]),
    'dicts': ({}, {'a': 1}, {'a': 1, 2: [b'x'], (1, 2): {}},
              {str(i): i for i in range(300)}),
    'shared': (shared, [shared, shared], {'k': shared}),
    'extension': {'user': 'bob', 'n': 3, 'x': b'raw', 'f': 1.5, 'l': [1, None]},
}

pickles = []
for name, value in values.items():
    plain = encoder(b'Z5')(value)  # a tuple of one
    for protocol in range(6):
        for module in pickle, zodbpickle.pickle:
            if module is zodbpickle.pickle and protocol > 3:
                continue
            pickles.append({
                'name': f'{name} {module.__name__} {protocol}',
                'pickle': module.dumps((value,), protocol).hex(),
                'plain': plain.hex()})

# Python 2 wrote str with these opcodes.
for name, text, value in (
        ('STRING', b"(S'it\\'s\\x41\\n'\nt.", "it's\x41\n"),
        ('SHORT_BINSTRING', b'(U\x03abct.', 'abc'),
        ('BINSTRING', b'(T\x03\x00\x00\x00abct.', 'abc'),
        ('INST free', b'\x80\x02(U\x01at.', 'a')):
    pickles.append({'name': name, 'pickle': text.hex(),
                    'plain': encoder(b'Z5')(value).hex()})

write('pickles.json.gz', pickles)
